"""`splitctl verify run`: the verifier checks itself, compares, and the ledger keeps the verdict."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from estate.config import Config
from estate.errors import ExitCode
from estate.ledger import LedgerUnreachable, open_ledger
from verify import diff, page, selftest, tables
from verify.passes import Limits, Progress
from verify.scope import WHOLE, Scope
from verify.selftest import SelfTest
from verify.unfinished import Unfinished
from verify.verdict import INVARIANTS, VERIFY, Verdict, word

MOST_CASES = 20
MOST_EARLIER = 20


@dataclass(frozen=True)
class Verified:
    """A verdict, the self-test before it, and whether the ledger has it if it should."""

    verdict: Verdict
    self_test: SelfTest
    recorded: bool
    _notes: list[str] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """0 equal, 3 different, 4 inconclusive."""
        return self.verdict.exit_code

    @property
    def next_command(self) -> str:
        """What to do with it."""
        if self.self_test.result != "pass":
            return "splitctl verify self-test"
        return self.verdict.next_command

    def to_json(self) -> dict[str, Any]:
        """The verdict's own data, with the self-test beside it."""
        check = {
            "result": self.self_test.result,
            "cases": self.self_test.cases,
            "missed": len(self.self_test.missed),
            "missed_cases": [vars(missed) for missed in self.self_test.missed[:MOST_CASES]],
        }
        return {**self.verdict.to_json(), "self_test": check, "recorded": self.recorded}

    def to_text(self) -> str:
        """The verdict for a person."""
        notes = [] if self.recorded else ["The ledger is away: this verdict was not recorded."]
        return "\n".join([self.verdict.to_text(), *self._notes, *notes])


@dataclass(frozen=True)
class Reports:
    """Files to be written of a verdict, besides the answer: a page to mail, the differing rows."""

    html: Path | None = None
    csv: Path | None = None
    parquet: Path | None = None

    def check(self) -> None:
        """Raise ParquetMissing before anything is compared."""
        if self.parquet is not None:
            tables.parquet_can_be_written()


def run(
    config: Config,
    domain: str | None,
    mappings: list[str] | None,
    *,
    scope: Scope = WHOLE,
    limits: Limits | None = None,
    unfinished: Unfinished | None = None,
    reports: Reports | None = None,
    on_progress: Callable[[Progress], None],
) -> Verified:
    """Self-check, compare, record. A verifier that fails its self-test says `inconclusive`.

    Only a run over all of all mappings of a domain is recorded as that domain's verdict: the gates
    rest on it. Raises what `diff.run` raises, and ParquetMissing.
    """
    if reports is not None:
        reports.check()
    check = selftest.run(config, domain, mappings)
    if check.result == "pass":
        verdict = diff.run(
            config,
            domain,
            mappings,
            on_progress=on_progress,
            scope=scope,
            limits=limits,
            unfinished=unfinished,
        )
    else:
        now = datetime.now(UTC)
        reason = f"the verifier failed its self-test: {len(check.missed)} case(s)"
        verdict = Verdict("inconclusive", now, now, {}, [], [reason])
    notes = [] if check.result == "pass" else [check.to_text()]
    earlier = _earlier(config, domain) if reports is not None and reports.html else []
    whole = mappings is None and scope.whole
    # First of all it is recorded: what fails afterwards loses no verdict.
    recorded = _record(config, domain, verdict) if whole else True
    if not whole:
        notes.append("A part of the data: no domain's verdict was recorded.")
    if reports is not None:
        notes += _write(config.environment, verdict, reports, earlier)
    return Verified(verdict, check, recorded, notes)


def invariants(config: Config, domain: str | None) -> Verdict:
    """Ask the invariants alone; the ledger keeps the answer, if it is there. Raises what
    `diff.invariants` raises."""
    verdict = diff.invariants(config, domain)
    _record(config, domain, verdict, INVARIANTS)
    return verdict


def _record(config: Config, domain: str | None, verdict: Verdict, name_of_it: str = VERIFY) -> bool:
    try:
        with open_ledger(config) as ledger:
            for name in [domain] if domain else config.domains:
                if name in verdict.left_out:
                    continue
                ours = of_domain(verdict, name)
                age = (datetime.now(UTC) - verdict.started_at).total_seconds()
                data = ours.to_json()
                ledger.add_verdict(name, VERIFY, name_of_it, ours.verdict, data, seconds=age)
    except LedgerUnreachable:
        return False
    return True


def _write(
    environment: str, verdict: Verdict, reports: Reports, earlier: list[dict[str, Any]]
) -> list[str]:
    """Write what is asked for; returns what became of it. No verdict is lost for a full disk."""
    notes: list[str] = []
    if reports.html is not None:
        with _told(reports.html, notes):
            text = page.render(verdict, environment, earlier)
            reports.html.write_text(text, encoding="utf-8")
            notes.append(f"Report: {reports.html}")
    if reports.csv is not None:
        with _told(reports.csv, notes):
            lines = tables.write_csv(verdict, reports.csv)
            notes.append(f"Differences: {reports.csv} ({lines:,} lines)")
    if reports.parquet is not None:
        with _told(reports.parquet, notes):
            lines = tables.write_parquet(verdict, reports.parquet)
            notes.append(f"Differences: {reports.parquet} ({lines:,} rows)")
    return notes


@contextmanager
def _told(path: Path, notes: list[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        notes.append(f"{path} could not be written: {error.strerror or error}")


def _earlier(config: Config, domain: str | None) -> list[dict[str, Any]]:
    """Verdicts that the ledger has, newest first; none when it is away."""
    try:
        with open_ledger(config) as ledger:
            found = [
                {**record.data, "domain": record.domain}
                for name in ([domain] if domain else config.domains)
                for record in ledger.verdicts(name, VERIFY, MOST_EARLIER)
                if record.kind == VERIFY
            ]
    except LedgerUnreachable:
        return []
    return sorted(found, key=lambda run: str(run["finished_at"]), reverse=True)[:MOST_EARLIER]


def of_domain(verdict: Verdict, domain: str) -> Verdict:
    """The part of a verdict that speaks of one domain."""
    prefix = f"{domain}."
    mappings = [item for item in verdict.mappings if item.mapping.startswith(prefix)]
    barriers = {name: b for name, b in verdict.barriers.items() if name.startswith(prefix)}
    others = [f"{name}{end}" for name in _domains(verdict) - {domain} for end in (".", ":")]
    # A barrier's reason begins with its stream; what names no domain concerns all.
    reasons = [reason for reason in verdict.reasons if not reason.startswith(tuple(others))]
    invariants = [item for item in verdict.invariants if item.name.startswith(f"{domain}:")]
    return Verdict(
        word(reasons, mappings, invariants),
        verdict.started_at,
        verdict.finished_at,
        barriers,
        mappings,
        reasons,
        verdict.hashing,
        invariants=invariants,
    )


def _domains(verdict: Verdict) -> set[str]:
    return {
        name.split(".")[0] for name in (*verdict.barriers, *(m.mapping for m in verdict.mappings))
    }
