"""`splitctl doctor`: everything a split needs, asked without changing anything."""

from dataclasses import dataclass, field

from estate.config import Config, Problem
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError


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
    """Look at databases, domains, gateways and the ledger."""
    found = Examination()
    reachable = {name for name in config.databases if _database(config, name, found)}
    for name, domain in config.domains.items():
        if {domain.old, domain.new} <= reachable:
            _domain(config, name, found)
    _gateways(config, found)
    _ledger(config, found)
    return found


def _database(config: Config, name: str, found: Examination) -> bool:
    try:
        with connect(config.database(name), "doctor") as connection:
            version = connection.info.server_version // 10_000
    except SplitctlError as error:
        found.problems.append(Problem(f"databases.{name}", str(error), error.next_command))
        return False
    if version < 14:
        reason = f"PostgreSQL {version} is too old"
        found.problems.append(Problem(f"databases.{name}", reason, "Use PostgreSQL 14 or newer."))
    found.healthy.append(f"database {name}: PostgreSQL {version}")
    return True


def _domain(config: Config, name: str, found: Examination) -> None:
    from migrator import readiness

    try:
        report = readiness.check(config, name)
    except SplitctlError as error:
        found.problems.append(Problem(f"domains.{name}", str(error), error.next_command))
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
        found.problems.append(Problem("gateway", str(error), error.next_command))
        return
    for gateway in served:
        if gateway.reachable:
            found.healthy.append(f"gateway {gateway.instance} at {gateway.url}")
        else:
            remedy = "Start it, or correct gateway.urls and gateway.token."
            found.problems.append(Problem(f"gateway {gateway.url}", "does not answer", remedy))


def _ledger(config: Config, found: Examination) -> None:
    from estate.ledger import open_ledger

    try:
        with open_ledger(config):
            found.healthy.append("ledger")
    except SplitctlError as error:
        found.problems.append(Problem("ledger", str(error), error.next_command))
