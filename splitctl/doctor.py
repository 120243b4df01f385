"""`splitctl doctor`: everything a split needs, asked without changing anything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from estate.config import Config, Problem
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from rollout.parallel import TookTooLong, gather

OLDEST = 14
# A domain's mappings are tried on real rows, and some look at many.
PATIENCE_S = 120.0

REMEDIES = {
    "SecretMissing": "Set it ({remedy}), or correct the reference.",
    "DatabaseUnreachable": "Start it, or correct its connection string.",
    "LedgerUnreachable": "Start it, or correct ledger.dsn; splitctl rollback works without it.",
}


@dataclass(frozen=True)
class Examination:
    """What was found: the parts that answered, what is in the way, what to know."""

    healthy: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """A precondition is missing, or all is well."""
        return ExitCode.PRECONDITION if self.problems else ExitCode.DONE

    @property
    def next_command(self) -> str:
        """What to type next."""
        return "mend the problems, then: splitctl doctor" if self.problems else "splitctl status"

    def to_text(self) -> str:
        """Problems first: each with its key, the reason and the remedy."""
        lines = [f"PROBLEM  {problem}" for problem in self.problems]
        lines += [f"warning  {warning}" for warning in self.warnings]
        lines += [f"ok       {name}" for name in self.healthy]
        return "\n".join(lines)


def examine(config: Config) -> Examination:
    """Look at databases, gateways and ledger at once, then at the domains that can be looked at."""
    found = Examination()
    databases = {f"databases.{name}": partial(_database, config, name) for name in config.databases}
    others = {"gateway": partial(_gateways, config), "ledger": partial(_ledger, config)}
    lacking = _ask({**databases, **others}, found)
    ready = {name for name in config.databases if f"databases.{name}" not in lacking}
    domains = {
        f"domains.{name}": partial(_domain, config, name)
        for name, domain in config.domains.items()
        if {domain.old, domain.new} <= ready
    }
    _ask(domains, found)
    return found


def _ask(parts: Mapping[str, Callable[[], Examination]], found: Examination) -> set[str]:
    """Ask all at once and add what they found. Returns the keys of those with a problem."""
    lacking = set()
    for key, outcome in gather(parts, PATIENCE_S).items():
        part = outcome.value or Examination()
        if outcome.error is not None:
            part.problems.append(_problem(key, outcome.error))
        if part.problems:
            lacking.add(key)
        found.healthy.extend(part.healthy)
        found.problems.extend(part.problems)
        found.warnings.extend(part.warnings)
    return lacking


def _database(config: Config, name: str) -> Examination:
    """The server, and whether the tables are made: else each mapping would tell of that lack."""
    found = Examination()
    key, settings = f"databases.{name}", config.database(name)
    with connect(settings, "doctor") as connection:
        version = connection.info.server_version // 10_000
    if version < OLDEST:
        remedy = f"Use PostgreSQL {OLDEST} or newer."
        found.problems.append(Problem(key, f"PostgreSQL {version} is too old", remedy))
    found.healthy.append(f"database {name}: PostgreSQL {version}")
    if settings.migrations is not None:
        from migrator import schema

        (status,) = schema.status(config, name)
        if status.up_to_date:
            found.healthy.append(f"schema of {name}: revision {status.current}, the newest")
        else:
            reason = f"{len(status.pending)} migration(s) are not applied"
            found.problems.append(Problem(key, reason, f"Type: splitctl schema apply {name}"))
    return found


def _domain(config: Config, name: str) -> Examination:
    from migrator import readiness

    report = readiness.check(config, name)
    fits = [] if report.problems else [f"domain {name}: its mappings fit both databases"]
    return Examination(fits, report.problems, report.warnings)


def _gateways(config: Config) -> Examination:
    from rollout.flags import GatewayAdmin

    found = Examination()
    for gateway in GatewayAdmin.of(config).served():
        if gateway.reachable:
            found.healthy.append(f"gateway {gateway.instance} at {gateway.url}")
        else:
            reason = f"does not answer ({gateway.problem})"
            remedy = "Start it, or correct gateway.urls and gateway.token."
            found.problems.append(Problem(f"gateway {gateway.url}", reason, remedy))
    return found


def _ledger(config: Config) -> Examination:
    from estate.ledger import open_ledger

    with open_ledger(config):
        return Examination(["ledger"])


def _problem(key: str, error: Exception) -> Problem:
    """What an error says, with another remedy than to ask the doctor."""
    if isinstance(error, TookTooLong):
        return Problem(key, str(error), "See what keeps it busy, and ask again.")
    if not isinstance(error, SplitctlError):
        raise error
    reason = str(error)
    for told in ("Nothing was changed.", "What it holds was not changed."):
        reason = reason.removesuffix(told).strip()
    remedy = REMEDIES.get(type(error).__name__, error.hint)
    return Problem(key, reason.rstrip("."), remedy.format(**error.facts))
