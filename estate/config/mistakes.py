"""Mistakes in a configuration: found all at once, each with its key, the reason and the remedy."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from estate.errors import ExitCode, SplitctlError

# The domain's name becomes part of slot and publication names, which end at 63 bytes.
DOMAIN_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class UnknownName(SplitctlError):
    """The configuration has no {kind} '{name}'; it has: {known}. Nothing was changed."""

    hint = "the same command with one of these names"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Problem:
    """One mistake: the key it stands under, why it is one, and what would be right."""

    key: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}. {self.remedy}"


class ConfigNotFound(SplitctlError):
    """There is no configuration at {path}. Nothing was read or changed."""

    hint = "splitctl init  (writes a commented config.toml), or --config PATH"
    exit_code = ExitCode.USAGE


class ConfigInvalid(SplitctlError):
    """The configuration {path} has {count} mistake(s). Nothing was changed."""

    hint = "correct the keys above, then: splitctl doctor"
    exit_code = ExitCode.USAGE

    def __init__(self, path: Path, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__(path=path, count=len(problems))

    def __str__(self) -> str:
        lines = [super().__str__(), *(f"  {problem}" for problem in self.problems)]
        return "\n".join(lines)


def of_names(data: dict[str, Any]) -> Iterator[Problem]:
    """Names that must meet. Read from the raw data, so that they are told with all the rest."""
    databases, domains = (tables(data, section) for section in ("databases", "domains"))
    for name, domain in domains.items():
        key = f"domains.{name}"
        if not DOMAIN_NAME.fullmatch(name):
            reason = "the name becomes part of slot names"
            yield Problem(key, reason, "Use lower-case letters, digits and underscores.")
        for side in ("old", "new"):
            database = domain.get(side)
            if isinstance(database, str) and database not in databases:
                known = ", ".join(databases) or "none"
                yield Problem(f"{key}.{side}", f"no database '{database}'", f"There are: {known}.")
        if domain.get("old") is not None and domain.get("old") == domain.get("new"):
            yield Problem(f"{key}.new", "the same database as old", "Name two databases.")
    gates = data.get("gates")
    for number, gate in enumerate(gates if isinstance(gates, list) else []):
        named = gate.get("domains") if isinstance(gate, dict) else None
        for name in named if isinstance(named, list) else []:
            if name not in domains:
                known = ", ".join(domains) or "none"
                yield Problem(
                    f"gates.{number}.domains", f"no domain '{name}'", f"There are: {known}."
                )


def tables(data: dict[str, Any], section: str) -> dict[str, dict[str, Any]]:
    """The named tables of a section, as far as they are tables at all."""
    found = data.get(section)
    if not isinstance(found, dict):
        return {}
    return {name: table for name, table in found.items() if isinstance(table, dict)}


_REMEDIES = {
    "missing": "Add it; config.example.toml shows how.",
    "extra_forbidden": "Remove it, or correct its spelling; config.example.toml lists the keys.",
    "literal_error": "Use one of the words named.",
    "too_short": "Add at least as many entries as named.",
}


def of_validation(error: ValidationError) -> list[Problem]:
    """What the sections found wrong with their values."""
    return [_problem(item) for item in error.errors()]


def _problem(error: Any) -> Problem:
    # `input` is left out on purpose: it may be a secret somebody wrote in plain.
    key = ".".join(str(part) for part in error["loc"]) or "file"
    reason = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    if error["type"] == "extra_forbidden":
        reason = "this key is not known"
    remedy = _REMEDIES.get(error["type"], "config.example.toml shows a right one.")
    return Problem(key, reason, remedy)
