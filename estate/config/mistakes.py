"""Mistakes in a configuration: found all at once, each with its key, the reason and the remedy."""

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from estate.config import lines
from estate.errors import ExitCode, SplitctlError

# The domain's name becomes part of slot and publication names, which end at 63 bytes.
DOMAIN_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


class UnknownName(SplitctlError):
    """The configuration has no {kind} '{name}'; it has: {known}. Nothing was changed."""

    hint = "the same command with one of these names"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Problem:
    """One mistake: the key it stands under, why it is one, and what would be right.

    `fix` can be copied and run as it is: SQL or a shell command. `remedy` says where.
    """

    key: str
    reason: str
    remedy: str
    fix: str | None = None

    @property
    def told(self) -> str:
        """Where, why and what to do, in one line."""
        return f"{self.key}: {self.reason}. {self.remedy}".rstrip()

    def __str__(self) -> str:
        return self.told if self.fix is None else f"{self.told}\n      {self.fix}"


class ConfigNotFound(SplitctlError):
    """There is no configuration at {path}. Nothing was read or changed."""

    hint = "splitctl init  (writes a commented config.toml), or --config PATH"
    exit_code = ExitCode.USAGE


class ConfigInvalid(SplitctlError):
    """The configuration {path} has {count} mistake(s). Nothing was changed."""

    hint = "correct the keys above, then: splitctl doctor"
    exit_code = ExitCode.USAGE

    def __init__(self, path: Path, problems: list[Problem], text: str = "") -> None:
        self.problems, self.text = problems, text
        super().__init__(path=path, count=len(problems))

    def __str__(self) -> str:
        places = lines.of_keys(self.text)
        placed = [(lines.of_key(problem.key, places), problem) for problem in self.problems]
        placed.sort(key=lambda item: item[0])
        told = [f"line {line}, {problem}" if line else str(problem) for line, problem in placed]
        return "\n  ".join([super().__str__(), *told])


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
    yield from _of_gates(data, domains)
    yield from _of_gateways(data)
    yield from _of_backends(data)
    observe = data.get("observe")
    panels = observe.get("panels") if isinstance(observe, dict) else None
    for number, panel in enumerate(panels if isinstance(panels, list) else []):
        shown = panel.get("domain") if isinstance(panel, dict) else None
        if isinstance(shown, str) and shown not in domains:
            key, known = f"observe.panels.{number}.domain", ", ".join(domains) or "none"
            yield Problem(key, f"no domain '{shown}'", f"There are: {known}.")
    flows = data.get("flows")
    for name in tables(flows, "urls") if isinstance(flows, dict) else {}:
        if name not in domains:
            known = ", ".join(domains) or "none"
            yield Problem(f"flows.urls.{name}", f"no domain '{name}'", f"There are: {known}.")


def _of_gates(data: dict[str, Any], domains: Collection[str]) -> Iterator[Problem]:
    """Gates name domains, and some need a cluster."""
    gates = data.get("gates")
    for number, gate in enumerate(gates if isinstance(gates, list) else []):
        named = gate.get("domains") if isinstance(gate, dict) else None
        for name in named if isinstance(named, list) else []:
            if name not in domains:
                known = ", ".join(domains) or "none"
                yield Problem(
                    f"gates.{number}.domains", f"no domain '{name}'", f"There are: {known}."
                )
        if isinstance(gate, dict) and gate.get("kind") == "pods" and "cluster" not in data:
            remedy = "Add [cluster]; an empty one takes what kubectl would take."
            yield Problem(f"gates.{number}.kind", "there is no [cluster] to ask for pods", remedy)


def _of_gateways(data: dict[str, Any]) -> Iterator[Problem]:
    """A gateway that Prometheus does not scrape is missed only if somebody knows of it."""
    metrics, gateway = data.get("metrics"), data.get("gateway")
    if not isinstance(metrics, dict) or not isinstance(gateway, dict):
        return
    told = metrics.get("gateways") or metrics.get("instances") or gateway.get("urls")
    if metrics.get("driver") == "prometheus" and not told:
        reason = "nobody says how many gateways there must be"
        yield Problem("metrics.gateways", reason, "Say how many Prometheus must see.")


def tables(data: dict[str, Any], section: str) -> dict[str, dict[str, Any]]:
    """The named tables of a section, as far as they are tables at all."""
    found = data.get(section)
    if not isinstance(found, dict):
        return {}
    return {name: table for name, table in found.items() if isinstance(table, dict)}


# What the validator says in its own words: the reason, and what would be right.
WORDS = {
    "missing": ("is missing", "Add it, as the example of `splitctl init` has it."),
    "literal_error": ("none of the words that it can be", "Use {expected}."),
    "string_too_short": ("is empty", "Write something."),
    "string_too_long": ("is too long", "Use at most {max_length} letters."),
    "too_short": ("has too few entries", "Add some: at least {min_length}."),
    "less_than": ("is too much", "Use less than {lt}."),
    "less_than_equal": ("is too much", "Use at most {le}."),
    "greater_than": ("is too little", "Use more than {gt}."),
    "greater_than_equal": ("is too little", "Use at least {ge}."),
    "string_type": ("is no text", "Write a text in quotes."),
    "dict_type": ("is no table", "Write a table, as the example of `splitctl init` has it."),
    "model_type": ("is no table", "Write a table, as the example of `splitctl init` has it."),
    "list_type": ("is no list", "Write a list in square brackets."),
    **dict.fromkeys(
        ("int_type", "int_parsing", "int_from_float", "float_type", "float_parsing"),
        ("is no number that fits", "Write a number, without quotes."),
    ),
}


def _of_backends(data: dict[str, Any]) -> Iterator[Problem]:
    """Which rules of a route are a domain's is told by its new Service alone."""
    gateway = data.get("gateway")
    if not isinstance(gateway, dict) or gateway.get("driver") != "http-route":
        return
    seen: dict[str, str] = {}
    for name, domain in tables(data, "domains").items():
        key, backends = f"domains.{name}.backends", domain.get("backends")
        if not isinstance(backends, dict):
            reason = "nobody says which Services of the route are its two sides"
            yield Problem(key, reason, 'Say backends = { old = "SERVICE", new = "SERVICE" }.')
            continue
        new = str(backends.get("new"))
        if new == backends.get("old") or seen.setdefault(new, name) != name:
            reason = f"Service {new} is another side's or another domain's, too"
            yield Problem(f"{key}.new", reason, "Give each new side a Service of its own.")


def of_validation(error: ValidationError, known: Collection[str]) -> list[Problem]:
    """What the sections found wrong with their values. `known` are all keys that there are."""
    return [_problem(item, known) for item in error.errors()]


def _problem(error: Any, known: Collection[str]) -> Problem:
    # `input` is left out on purpose: it may be a secret somebody wrote in plain.
    key = ".".join(str(part) for part in error["loc"] if part != "[key]") or "file"
    if error["type"] == "extra_forbidden":
        near = get_close_matches(str(error["loc"][-1]), known, n=1)
        remedy = f"Did you mean {near[0]}?" if near else "Remove it, or correct its spelling."
        return Problem(key, "this key is not known", remedy)
    if error["type"] in WORDS:
        reason, remedy = WORDS[error["type"]]
        return Problem(key, reason, remedy.format(**error.get("ctx", {})))
    # Our own words say already what would be right.
    reason = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    return Problem(key, reason, "Correct it.")
