"""Fragments of SQL, of which the statements of a mapping are put together.

Texts go into a statement as one array for each column, and are there the columns of a relation u:
`unnest({arrays}) AS u({names})`.
"""

from collections.abc import Iterable

from psycopg import sql


def fixed(statement: sql.Composable) -> bytes:
    """A statement that is run often, as the server gets it."""
    return statement.as_bytes(None)


def listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    """All of these, with commas between them."""
    return sql.SQL(", ").join(parts)


def together(conditions: Iterable[sql.Composable]) -> sql.Composed:
    """All of these conditions at once."""
    return sql.SQL(" AND ").join(conditions)


def verbatim(text: str) -> sql.SQL:
    """SQL as it was given: a configured expression, or a type as format_type names it.

    Percent signs are doubled: execute the statement with parameters.
    """
    return sql.SQL(text.replace("%", "%%"))


def identifier(*names: str) -> sql.Identifier:
    """The name of something of the estate, whatever letters it has.

    Percent signs are doubled: execute the statement with parameters.
    """
    return sql.Identifier(*(name.replace("%", "%%") for name in names))


def table(name: str) -> sql.Identifier:
    """A table of the estate."""
    return identifier("public", name)


def columns(alias: str, names: Iterable[str]) -> sql.Composed:
    """These columns."""
    return listed(identifier(alias, name) for name in names)


def texts(alias: str, names: Iterable[str]) -> sql.Composed:
    """These columns, each as text."""
    return listed(sql.SQL("{}::text").format(identifier(alias, name)) for name in names)


def texts_of(alias: str, names: Iterable[str], types: Iterable[str]) -> sql.Composed:
    """These columns, each in the text form of its type."""
    return listed(
        sql.SQL("{}::{}::text").format(identifier(alias, name), verbatim(kind))
        for name, kind in zip(names, types, strict=True)
    )


def casts_of(alias: str, names: Iterable[str], types: Iterable[str]) -> sql.Composed:
    """These columns, each as its type."""
    return listed(
        sql.SQL("{}::{}").format(identifier(alias, name), verbatim(kind))
        for name, kind in zip(names, types, strict=True)
    )


def arrays(count: int) -> sql.Composed:
    """Parameters: so many arrays of texts."""
    return listed([sql.SQL("%s::text[]")] * count)


def names(count: int) -> sql.Composed:
    """The names of u's columns."""
    return listed(sql.Identifier(f"u{n}") for n in range(count))


def record(count: int) -> sql.Composed:
    """The names of u's columns with their type, which is text."""
    return listed(sql.SQL("{} text").format(sql.Identifier(f"u{n}")) for n in range(count))


def value(number: int) -> sql.Identifier:
    """What stands in a column of u."""
    return sql.Identifier("u", f"u{number}")


def cast(number: int, kind: str) -> sql.Composed:
    """What stands in a column of u, as this type."""
    return sql.SQL("{}::{}").format(value(number), verbatim(kind))


def equal(alias: str, names: Iterable[str], types: Iterable[str]) -> sql.Composed:
    """These columns have the values that stand in u."""
    return together(
        sql.SQL("{} = {}::{}").format(identifier(alias, name), value(n), verbatim(kind))
        for n, (name, kind) in enumerate(zip(names, types, strict=True))
    )
