"""References to secrets. A configuration names where a secret is; its value is never shown."""

import os
from pathlib import Path
from typing import Any

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from estate.errors import ExitCode, SplitctlError


class SecretMissing(SplitctlError):
    """The secret {reference} cannot be read: {reason}. Nothing was changed."""

    hint = "{remedy}, then the same command again"
    exit_code = ExitCode.USAGE


class SecretRef:
    """Where a secret is kept: `env:NAME` or `file:PATH` (relative to the configuration file)."""

    def __init__(self, reference: str, base: Path | None = None) -> None:
        scheme, _, place = reference.partition(":")
        if scheme not in ("env", "file") or not place:
            # The value is not repeated here: it may well be the secret itself.
            raise ValueError("a secret is written as env:NAME or file:PATH, never as its value")
        self.scheme, self.place = scheme, place
        self.base = base or Path()

    def reveal(self) -> str:
        """The secret's value. Raises SecretMissing, which names the place and never the value."""
        if self.scheme == "env":
            value = os.environ.get(self.place, "").strip()
            if not value:
                raise self._missing("the variable is not set")
            return value
        path = self.base / Path(self.place).expanduser()
        try:
            value = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise self._missing(f"{path}: {reason}") from error
        if not value:
            raise self._missing(f"{path} is empty")
        return value

    def same(self, other: "SecretRef") -> bool:
        """Whether both hold the same value. One that is missing is told where it is used."""
        try:
            return self.reveal() == other.reveal()
        except SecretMissing:
            return False

    def token(self) -> str:
        """The value, fit for a header; one that is not would be told by whoever refuses it."""
        value = self.reveal()
        if not (value.isascii() and value.isprintable()):
            raise self._missing("it holds a letter that no token has")
        return value

    def _missing(self, reason: str) -> SecretMissing:
        remedy = "export {}=VALUE" if self.scheme == "env" else "write it to {}"
        return SecretMissing(reference=str(self), reason=reason, remedy=remedy.format(self.place))

    def __str__(self) -> str:
        return f"{self.scheme}:{self.place}"

    def __repr__(self) -> str:
        return f"SecretRef({self})"

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(cls._validate)

    @classmethod
    def _validate(cls, value: Any, info: core_schema.ValidationInfo) -> "SecretRef":
        if isinstance(value, SecretRef):
            return value
        if not isinstance(value, str):
            raise ValueError("a secret is written as env:NAME or file:PATH, never as its value")
        context = info.context or {}
        return cls(value, context.get("base"))
