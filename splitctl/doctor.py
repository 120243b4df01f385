"""`splitctl doctor`: everything a split needs, asked without changing anything."""

from dataclasses import dataclass, field

from estate.config import Config, Problem
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError

REMEDIES = {
    "SecretMissing": "Set it ({remedy}), or correct the reference.",
    "DatabaseUnreachable": "Start it, or correct its connection string.",
    "LedgerUnreachable": "Start it, or correct ledger.dsn; splitctl rollback works without it.",
}


@dataclass(frozen=True)
class Examination:
    """What was found: the parts that answered, what is in the way, what will be slow."""

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
        lines += [f"slow     {warning}" for warning in self.warnings]
        lines += [f"ok       {name}" for name in self.healthy]
        return "\n".join(lines)


def examine(config: Config) -> Examination:
    """Look at databases, their schemas, domains, gateways and the ledger."""
    found = Examination()
    ready = {
        name
        for name, database in config.databases.items()
        if _database(config, name, found)
        and (database.migrations is None or _schema(config, name, found))
    }
    for name, domain in config.domains.items():
        if {domain.old, domain.new} <= ready:
            _domain(config, name, found)
    _gateways(config, found)
    _ledger(config, found)
    return found


def _database(config: Config, name: str, found: Examination) -> bool:
    try:
        with connect(config.database(name), "doctor") as connection:
            version = connection.info.server_version // 10_000
    except SplitctlError as error:
        found.problems.append(_problem(f"databases.{name}", error))
        return False
    if version < 14:
        reason = f"PostgreSQL {version} is too old"
        found.problems.append(Problem(f"databases.{name}", reason, "Use PostgreSQL 14 or newer."))
    found.healthy.append(f"database {name}: PostgreSQL {version}")
    return True


def _schema(config: Config, name: str, found: Examination) -> bool:
    """Whether its tables are made; else each mapping would tell of the same lack."""
    from migrator import schema

    key = f"databases.{name}"
    try:
        (status,) = schema.status(config, name)
    except SplitctlError as error:
        found.problems.append(_problem(key, error))
        return False
    if not status.up_to_date:
        reason = f"{len(status.pending)} migration(s) are not applied"
        found.problems.append(Problem(key, reason, f"Type: splitctl schema apply {name}"))
        return False
    found.healthy.append(f"schema of {name}: revision {status.current}, the newest")
    return True


def _domain(config: Config, name: str, found: Examination) -> None:
    from migrator import readiness

    try:
        report = readiness.check(config, name)
    except SplitctlError as error:
        found.problems.append(_problem(f"domains.{name}", error))
        return
    found.problems.extend(report.problems)
    found.warnings.extend(report.warnings)
    if not report.problems:
        found.healthy.append(f"domain {name}: its mappings fit both databases")


def _gateways(config: Config, found: Examination) -> None:
    from rollout.flags import GatewayAdmin

    try:
        served = GatewayAdmin.of(config).served()
    except SplitctlError as error:
        found.problems.append(_problem("gateway", error))
        return
    for gateway in served:
        if gateway.reachable:
            found.healthy.append(f"gateway {gateway.instance} at {gateway.url}")
        else:
            reason = f"does not answer ({gateway.problem})"
            remedy = "Start it, or correct gateway.urls and gateway.token."
            found.problems.append(Problem(f"gateway {gateway.url}", reason, remedy))


def _ledger(config: Config, found: Examination) -> None:
    from estate.ledger import open_ledger

    try:
        with open_ledger(config):
            found.healthy.append("ledger")
    except SplitctlError as error:
        found.problems.append(_problem("ledger", error))


def _problem(key: str, error: SplitctlError) -> Problem:
    """What an error says, with another remedy than to ask the doctor."""
    reason = str(error)
    for told in ("Nothing was changed.", "What it holds was not changed."):
        reason = reason.removesuffix(told).strip()
    remedy = REMEDIES.get(type(error).__name__, error.hint)
    return Problem(key, reason.rstrip("."), remedy.format(**error.facts))
