"""The language of flows: `{name}` stands for a value, `{{` and `}}` for the braces themselves.

Nothing else: no expressions, no conditions, no code. Pure.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

TOKEN = re.compile(r"\{\{|\}\}|\{([a-z][a-z0-9_]*)\}|[{}]")
ALONE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
NAME = re.compile(r"[a-z][a-z0-9_]*")

Values = Callable[[str], Any]


class TemplateInvalid(ValueError):
    """A brace that belongs to nothing; the message says where."""


def names(text: str) -> list[str]:
    """The names of a text's placeholders, in order. Raises TemplateInvalid."""
    found = []
    for token in TOKEN.finditer(text):
        if token[0] in "{}":
            raise TemplateInvalid(
                f"a brace at letter {token.start() + 1} belongs to no {{name}}; "
                "a brace itself is written twice"
            )
        if token[1]:
            found.append(token[1])
    return found


def names_within(template: Any) -> Iterator[str]:
    """The names in all texts of a JSON value. Raises TemplateInvalid."""
    match template:
        case str():
            yield from names(template)
        case dict():
            for item in template.values():
                yield from names_within(item)
        case list():
            for item in template:
                yield from names_within(item)


def fill(text: str, values: Values, quote: Callable[[str], str] = str) -> str:
    """The text with each placeholder's value, passed through `quote`."""

    def value(token: re.Match[str]) -> str:
        return quote(as_text(values(token[1]))) if token[1] else token[0][0]

    return TOKEN.sub(value, text)


def fill_within(template: Any, values: Values) -> Any:
    """A JSON value with its texts filled.

    A text that is one placeholder and nothing else becomes the value itself: a number stays one.
    """
    match template:
        case str():
            alone = ALONE.fullmatch(template)
            return values(alone[1]) if alone else fill(template, values)
        case dict():
            return {key: fill_within(item, values) for key, item in template.items()}
        case list():
            return [fill_within(item, values) for item in template]
    return template


def as_text(value: Any) -> str:
    """A value within a text: a text as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def look_up(document: Any, path: str) -> Any:
    """What stands at a dotted path, like `items.0.id`. Raises LookupError with that path."""
    found = document
    for part in path.split("."):
        try:
            found = found[int(part)] if isinstance(found, list) else found[part]
        except (LookupError, TypeError, ValueError):
            raise LookupError(path) from None
    return found
