"""What part of the mappings a run compares: some keys, some rows, some columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from psycopg import sql

from estate.config import MappingConfig, parse_duration
from estate.errors import ExitCode, SplitctlError
from verify.checksum import SAMPLES, Choice


class UnknownColumn(SplitctlError):
    """Mapping '{mapping}' has no column '{column}'. Its columns are: {known}."""

    hint = "splitctl verify run MAPPING --columns NAMES"
    exit_code = ExitCode.USAGE


class NoTouchedColumn(SplitctlError):
    """Mapping '{mapping}' names no column that says when a row was last changed, so it is not known
    which rows are younger than that. Nothing was compared."""

    hint = (
        'set touched = "updated_at" (or its like) in the mapping, '
        "or leave --since out: splitctl verify run"
    )
    exit_code = ExitCode.USAGE


class NotAPart(SplitctlError):
    """'{given}' is no {what}. Nothing was compared."""

    hint = "splitctl verify run --help"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Scope:
    """A part of each mapping. `sample` is in thousandths of its keys.

    `where` and `since` choose which rows are looked for; a key that is found is then compared
    whole, so that a row which only one side chooses is told as what it is.
    """

    sample: int = SAMPLES
    where: str | None = None
    since: datetime | None = None
    columns: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """Whether it is all of the mappings: only that proves them equal."""
        return self == WHOLE

    def __str__(self) -> str:
        """In words; empty when it is everything."""
        parts = []
        if self.sample < SAMPLES:
            parts.append(f"a sample of {self.sample / SAMPLES:.1%} of the keys")
        if self.since is not None:
            parts.append(f"rows touched since {self.since:%Y-%m-%d %H:%M:%S} UTC")
        if self.where is not None:
            parts.append(f"rows where {self.where}")
        if self.columns:
            parts.append(f"columns {', '.join(self.columns)}")
        return "; ".join(parts)

    def choice(self, mapping: MappingConfig, name: str, names: Sequence[str]) -> Choice:
        """Which rows of a mapping with these columns are looked for.

        Raises NoTouchedColumn or UnknownColumn.
        """
        conditions: list[sql.Composable] = []
        if self.where is not None:
            # What a person typed, in a transaction that can only read. The line's end closes a
            # comment in it.
            conditions.append(sql.SQL("({}\n)").format(sql.SQL(self.where)))
        if self.since is not None:
            if mapping.touched is None:
                raise NoTouchedColumn(mapping=name)
            if mapping.touched not in names:
                raise UnknownColumn(mapping=name, column=mapping.touched, known=", ".join(names))
            column = sql.Identifier("r", mapping.touched)
            conditions.append(sql.SQL("{} >= {}").format(column, sql.Literal(self.since)))
        return Choice(self.sample, sql.SQL(" AND ").join(conditions) if conditions else None)

    def among(self, names: Sequence[str], needed: Sequence[str], mapping: str) -> list[str]:
        """The columns to compare, of those there are; the needed ones always.

        Raises UnknownColumn.
        """
        for column in self.columns:
            if column not in names:
                raise UnknownColumn(mapping=mapping, column=column, known=", ".join(names))
        wanted = {*self.columns, *needed} if self.columns else set(names)
        return [name for name in names if name in wanted]


WHOLE = Scope()


def thousandths(percent: float) -> int:
    """A share of all keys, from percent. Raises NotAPart below 0.1 and above 100."""
    # What is no number is not between any two.
    if not 0.1 <= percent <= 100:
        raise NotAPart(given=f"{percent:g}", what="percentage from 0.1 to 100")
    return round(percent * SAMPLES / 100)


def moment(text: str) -> datetime:
    """A time in UTC, from `2h` (that long ago) or an ISO date and time. Raises NotAPart."""
    try:
        return datetime.now(UTC) - parse_duration(text)
    except OverflowError:
        raise NotAPart(given=text, what="time since which anything was touched") from None
    except ValueError:
        pass
    try:
        found = datetime.fromisoformat(text)
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        what = "time: say how long ago (2h, 7d), or when (2026-01-31T12:00, UTC)"
        raise NotAPart(given=text, what=what) from None


def names(text: str | None) -> tuple[str, ...]:
    """Names from a comma-separated list; none from None. Raises NotAPart for an empty list."""
    if text is None:
        return ()
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found:
        raise NotAPart(given=text, what="list of columns")
    return found
