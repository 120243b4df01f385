"""`splitctl doctor`: everything a split needs, asked without changing anything."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from estate.config import Config, ConfigInvalid, Problem
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from rollout.parallel import TookTooLong, gather

if TYPE_CHECKING:
    from migrator.readiness import ServerFacts
    from migrator.shares import Share

# A domain's mappings are tried on real rows, and some look at many.
PATIENCE_S = 120.0

REMEDIES = {
    "SecretMissing": "Set it ({remedy}), or correct the reference.",
    "DatabaseUnreachable": "Start it, or correct its connection string.",
    "LedgerUnreachable": "Start it, or correct ledger.dsn; `splitctl rollback` works without it.",
}


@dataclass(frozen=True)
class Examination:
    """What was found: the parts that answered, what is in the way, what to know.

    Problems and warnings have a `fix` that can be copied, where there is one. `servers` are the
    databases' figures, `shares` the numbers that each side hands out.
    """

    healthy: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    servers: list["ServerFacts"] = field(default_factory=list)
    shares: list["Share"] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """A precondition is missing, or all is well."""
        return ExitCode.PRECONDITION if self.problems else ExitCode.DONE

    @property
    def next_command(self) -> str:
        """What to type next."""
        return "mend the problems, then: splitctl doctor" if self.problems else "splitctl status"

    def to_text(self) -> str:
        """Problems first: each with its key, the reason, the remedy and what can be copied."""
        lines = [f"PROBLEM  {problem}" for problem in self.problems]
        lines += [f"warning  {warning}" for warning in self.warnings]
        lines += [f"server   {_server(facts)}" for facts in self.servers]
        lines += [f"ids      {_share(share)}" for share in self.shares]
        lines += [f"ok       {name}" for name in self.healthy]
        return "\n".join(lines)


def examine(config: Config) -> Examination:
    """Look at databases, gateways, ledger and surroundings at once, then at the domains."""
    from splitctl import surroundings

    found = Examination()
    databases = {f"databases.{name}": partial(_database, config, name) for name in config.databases}
    others: dict[str, Callable[[], Examination]] = {
        "gateway": partial(_gateways, config),
        "ledger": partial(_ledger, config),
    }
    others |= surroundings.parts(config)
    silent, lacking = _ask({**databases, **others}, found)
    domains = {
        f"domains.{name}": partial(_servers if lacking & keys else _domain, config, name)
        for name, domain in config.domains.items()
        if not (keys := {f"databases.{domain.old}", f"databases.{domain.new}"}) & silent
    }
    _ask(domains, found)
    return found


def _ask(
    parts: Mapping[str, Callable[[], Examination]], found: Examination
) -> tuple[set[str], set[str]]:
    """Ask all at once and add what they found.

    Returns the keys of those that could not be asked, and of those that lack something.
    """
    silent, lacking = set(), set()
    for key, outcome in gather(parts, PATIENCE_S).items():
        part = outcome.value or Examination()
        if isinstance(outcome.error, ConfigInvalid):
            part.problems.extend(replace(p, key=f"{key} {p.key}") for p in outcome.error.problems)
        elif outcome.error is not None:
            part.problems.append(problem_of(key, outcome.error))
            silent.add(key)
        if part.problems:
            lacking.add(key)
        found.healthy.extend(part.healthy)
        found.shares.extend(part.shares)
        # Domains share databases: what was told of one is not told again.
        found.problems.extend(item for item in part.problems if item not in found.problems)
        found.warnings.extend(item for item in part.warnings if item not in found.warnings)
        told = {facts.database for facts in found.servers}
        found.servers.extend(facts for facts in part.servers if facts.database not in told)
    return silent, lacking


def _database(config: Config, name: str) -> Examination:
    """The server, and whether the tables are made: else each mapping would tell of that lack."""
    found = Examination()
    key, settings = f"databases.{name}", config.database(name)
    with connect(settings, "doctor") as connection:
        version = connection.info.server_version // 10_000
    found.healthy.append(f"database {name}: PostgreSQL {version}")
    if settings.migrations is not None:
        from migrator import schema

        (status,) = schema.status(config, name)
        if status.up_to_date:
            found.healthy.append(f"schema of {name}: revision {status.current}, the newest")
        else:
            reason = f"{len(status.pending)} migration(s) are not applied"
            fix = f"splitctl schema apply {name}"
            found.problems.append(Problem(key, reason, f"Type: {fix}", fix))
    return found


def _domain(config: Config, name: str) -> Examination:
    from migrator import readiness

    report = readiness.check(config, name)
    size = f"{report.moving_bytes / 2**20:,.0f} MB of the old side move"
    found = Examination([], report.problems, report.warnings, report.servers, report.shares)
    if not report.problems:
        found.healthy.append(f"domain {name}: its mappings fit both databases; {size}")
        _verifier(config, name, found)
    _gates(config, name, found)
    _refusals(config, name, found)
    return found


def _gates(config: Config, domain: str, found: Examination) -> None:
    """Whether the gates that are asked of the data, or of pods, could ever tell something."""
    from estate.cluster import connect as reach
    from rollout import pod_health
    from rollout.subjects import DatabaseSubjects

    found.problems.extend(DatabaseSubjects(config).problems(domain))
    found.problems.extend(pod_health.problems(config, domain, lambda: reach(config)))


def _refusals(config: Config, domain: str, found: Examination) -> None:
    """Whether services refuse whom they do not own, where gateways rely on that."""
    from migrator.ownership import OwnerMissing
    from rollout.tools import Tools

    tools = Tools.of(config)
    if not tools.refusing:
        return
    try:
        lacking = tools.unrefused(domain)
    except OwnerMissing:
        return  # nobody is moving: not yet, or not any more
    found.problems.extend(lacking)
    if not lacking:
        found.healthy.append(f"services of {domain}: they refuse (421) whom they do not own")


def _verifier(config: Config, domain: str, found: Examination) -> None:
    """Whether the comparison finds what is seeded, in literals made of the domain's own rows."""
    from verify import selftest
    from verify.subject import TableArchived

    try:
        tried = selftest.run(config, domain)
    except TableArchived as error:
        found.warnings.append(problem_of(f"domains.{domain}", error))
        return
    told = f"{len(tried.missed)} of {tried.cases} known differences were not found"
    if tried.missed:
        remedy = f"Type: splitctl verify self-test; trust no comparison of {domain} until then."
        found.problems.append(Problem(f"domains.{domain}", told, remedy))
    else:
        found.healthy.append(
            f"comparison of {domain}: all {tried.cases} known differences were found"
        )


def _servers(config: Config, name: str) -> Examination:
    """Where the tables are not made yet: the servers and the role, which need no tables."""
    from migrator import readiness

    report = readiness.check_servers(config, name)
    return Examination([], report.problems, report.warnings, report.servers)


def _gateways(config: Config) -> Examination:
    from rollout.gateways import flags_of, written_of

    found = Examination()
    written = written_of(config)
    if written is not None:
        found.problems.extend(written.hindrances())
    for gateway in flags_of(config, written).served():
        if gateway.reachable:
            found.healthy.append(f"gateway {gateway.instance} at {gateway.url}")
        else:
            reason = f"does not answer ({gateway.problem})"
            remedy = "Start it, or correct gateway.urls and gateway.token."
            if written is not None:
                remedy = "Look at its pod, and at [cluster] and gateway.port."
            if config.gateway.driver == "http-route":
                reason = f"does not serve the route ({gateway.problem})"
                remedy = f"Look at: kubectl get httproute {config.gateway.route} -o yaml"
            found.problems.append(Problem(f"gateway {gateway.url}", reason, remedy))
    if config.gateway.by_chance:
        _passing(config, found)
    return found


def _passing(config: Config, found: Examination) -> None:
    """A service that passes on counts what it got: one without counters leaves its customers."""
    from rollout.gateways import metrics_of

    remedy = "See that this service passes on, and counts (docs/drivers.md)."
    for name, reason in metrics_of(config).scrape().problems.items():
        found.problems.append(Problem(f"metrics {name}", reason, remedy))


def _ledger(config: Config) -> Examination:
    from estate.ledger import open_ledger

    with open_ledger(config):
        return Examination(["ledger"])


def _server(facts: "ServerFacts") -> str:
    rate = "unknown" if facts.log_per_s is None else f"{facts.log_per_s * 3600 / 2**20:,.0f} MB/h"
    return (
        f"{facts.database}: PostgreSQL {facts.version}, database {facts.size / 2**20:,.0f} MB,"
        f" log {rate} on average, {facts.log_kept / 2**20:,.0f} MB of it kept by slots;"
        f" free: {facts.slots_free} of {facts.slots} slots,"
        f" {facts.senders_free} of {facts.senders} senders;"
        f" clock {facts.clock_ahead_s:+.2f} s from here"
    )


def _share(share: "Share") -> str:
    hands_out = f"{share.hands_out} numbers" if share.hands_out else "not shared out yet"
    return (
        f"{share.column}: {hands_out} by {share.step} from {share.position} ({share.sequence},"
        f" {share.generated}); {share.left:,} left, {share.used:.0%} used"
    )


def problem_of(key: str, error: Exception) -> Problem:
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
