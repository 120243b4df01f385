"""Reading fields out of a JSON object that somebody else sent."""

import math
import re
import uuid
from typing import Any

from services.problems import BadRequest, Unprocessable

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
LARGEST_QUANTITY = 1000


def uuid_of(text: str) -> uuid.UUID | None:
    """The uuid of a text in the usual 8-4-4-4-12 form, in either case; else None."""
    return uuid.UUID(text) if UUID.fullmatch(text) else None


def uuid_or_bad(text: str, what: str) -> uuid.UUID:
    """The uuid, or BadRequest naming `what`."""
    value = uuid_of(text)
    if value is None:
        raise BadRequest("bad_id", f"{what} is not a uuid")
    return value


class Body:
    """A JSON object. Each method reads one field and raises BadRequest or Unprocessable."""

    __slots__ = ("fields",)

    def __init__(self, fields: dict[str, Any]) -> None:
        self.fields = fields

    def text(self, key: str, longest: int = 255) -> str:
        """A text that must be there and not blank."""
        value = self.optional_text(key, longest)
        if value is None:
            raise BadRequest("missing_field", f"{key} is missing")
        return value

    def optional_text(self, key: str, longest: int = 255) -> str | None:
        """A text, or None where it is absent or blank."""
        value = self.fields.get(key)
        if value is None:
            return None
        # PostgreSQL has no place for NUL in text, and a lone surrogate has no UTF-8 form.
        if not isinstance(value, str) or "\0" in value or not value.isprintable():
            raise BadRequest("bad_field", f"{key} is not a printable text")
        if len(value) > longest:
            raise Unprocessable("too_long", f"{key} has more than {longest} characters")
        return value.strip() or None

    def uuid(self, key: str) -> uuid.UUID:
        """A uuid that must be there."""
        return uuid_or_bad(self.text(key), key)

    def quantity(self, key: str) -> int:
        """A whole number from 1 to LARGEST_QUANTITY."""
        value = self.integer(key)
        if not 1 <= value <= LARGEST_QUANTITY:
            raise Unprocessable("bad_quantity", f"{key} is not between 1 and {LARGEST_QUANTITY}")
        return value

    def integer(self, key: str) -> int:
        """A whole number that fits into 64 bits."""
        value = self.fields.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
            raise BadRequest("bad_field", f"{key} is not a whole number")
        return value

    def share(self, key: str) -> float:
        """A number from 0 to 1."""
        value = self.fields.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise Unprocessable("bad_share", f"{key} is not between 0 and 1")
        return float(value)

    def flag(self, key: str) -> bool:
        """True or false; absent is false."""
        value = self.fields.get(key, False)
        if not isinstance(value, bool):
            raise BadRequest("bad_field", f"{key} is not true or false")
        return value

    def has(self, key: str) -> bool:
        """Whether the field is there and not null."""
        return self.fields.get(key) is not None

    def object(self, key: str) -> dict[str, Any]:
        """A JSON object that must be there and not empty. Nothing in it may hold a NUL."""
        value = self.fields.get(key)
        if not isinstance(value, dict) or not value:
            raise BadRequest("bad_field", f"{key} is not a JSON object with fields")
        if not _storable(value):
            raise BadRequest("bad_field", f"{key} holds characters that cannot be kept")
        return value

    def objects(self, key: str, most: int = 100) -> "list[Body]":
        """A list of JSON objects, not empty."""
        value = self.fields.get(key)
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise BadRequest("bad_field", f"{key} is not a list of JSON objects")
        if not 1 <= len(value) <= most:
            raise Unprocessable("bad_count", f"{key} has not between 1 and {most} entries")
        return [Body(item) for item in value]


def _storable(value: object) -> bool:
    if isinstance(value, str):
        return "\0" not in value and not any("\ud800" <= letter <= "\udfff" for letter in value)
    if isinstance(value, dict):
        return all(_storable(key) and _storable(item) for key, item in value.items())
    if isinstance(value, list):
        return all(_storable(item) for item in value)
    return not isinstance(value, float) or math.isfinite(value)
