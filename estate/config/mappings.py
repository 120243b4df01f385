"""Mappings and invariants: what the data is, as SQL in files of its own."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, PrivateAttr, ValidationInfo, field_validator, model_validator

from estate.config.model import Model, beside, sql_of
from estate.config.values import Name, Stray, StrayRule


class MappingConfig(Model):
    """One SQL query that says what one table holds (law L1)."""

    target: Name
    query: Path
    key: tuple[Name, ...] = Field(min_length=1)
    route: str = Field(min_length=1)
    sources: dict[Name, dict[Name, Name]] = Field(min_length=1)
    stray: Stray = StrayRule("owner")
    touched: Name | None = None
    sensitive: tuple[Name, ...] = ()
    _sql: str = PrivateAttr(default="")

    @property
    def sql(self) -> str:
        """The mapping's query, as its file holds it, without a trailing semicolon."""
        return self._sql

    @field_validator("query")
    @classmethod
    def _relative_to_config(cls, value: Path, info: ValidationInfo) -> Path:
        return beside(value, info)

    @model_validator(mode="after")
    def _read(self) -> Self:
        self._sql = sql_of(self.query, "query")
        if shown := set(self.sensitive) & set(self.key):
            raise ValueError(
                f"sensitive names {sorted(shown)} of the key: rows are named by it in every report"
            )
        for table, columns in self.sources.items():
            if set(columns) != set(self.key):
                raise ValueError(
                    f"sources.{table} names {sorted(columns)}, "
                    f"but must lead to the whole key {sorted(self.key)}"
                )
        return self


class InvariantConfig(Model):
    """What must be true of the data: SQL that gives the rows which break it.

    Either `query`, for one side or both, each by itself; or `old` and `new`, whose rows must be the
    same. The first column names a row.
    """

    name: str = Field(min_length=1, max_length=80)
    query: Path | None = None
    sides: tuple[Literal["old", "new"], ...] = ()
    old: Path | None = None
    new: Path | None = None
    _texts: dict[str, str] = PrivateAttr(default_factory=dict)

    def text(self, name: str) -> str:
        """The SQL of `query`, `old` or `new`."""
        return self._texts[name]

    @field_validator("query", "old", "new")
    @classmethod
    def _relative_to_config(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        return None if value is None else beside(value, info)

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        alone = self.query is not None and self.sides and not (self.old or self.new)
        against = self.old is not None and self.new is not None and not (self.query or self.sides)
        if not alone and not against:
            raise ValueError("an invariant has either query and sides, or old and new")
        for name in ("query", "old", "new"):
            path = getattr(self, name)
            if path is not None:
                self._texts[name] = sql_of(path, name)
        return self
