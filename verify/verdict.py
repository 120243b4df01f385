"""What a comparison found, with the positions between which it is true."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from estate.errors import ExitCode

Word = Literal["equal", "different", "inconclusive"]
SHOWN = 20
# Under these names the ledger keeps whole runs, what is compared continuously (that everything is,
# and what differed), and invariants that were asked alone.
VERIFY, CHECKED, FOUND = "verify", "continuous", "continuous difference"
INVARIANTS = "invariants"


@dataclass(frozen=True)
class Sample:
    """One value that differs, or one row that only one side has (then `column` is None).

    `key` names the row: columns of the driving key, then of the target's primary key.

    `old` and `new` are the values on the old and on the new side as text; a whole row is a dict.
    It was seen to differ at `first_seen`, and proved to at `confirmed_at`.
    """

    key: dict[str, str | None]
    what: Literal["mismatched", "missing", "extra"]
    column: str | None
    old: Any
    new: Any
    first_seen: datetime
    confirmed_at: datetime

    def to_json(self) -> dict[str, Any]:
        """Plain data, times in ISO form."""
        times = {
            "first_seen": _iso(self.first_seen),
            "confirmed_at": _iso(self.confirmed_at),
        }
        return vars(self) | times


@dataclass(frozen=True)
class HotKey:
    """A key that never stood still: the columns that were unequal at each of its looks."""

    key: dict[str, str | None]
    columns: list[str]
    looks: int


@dataclass
class MappingVerdict:
    """One mapping. Counts are rows; `missing` rows the target lacks, `extra` it has too many.

    `rows_compared` counts the side that holds more rows. `columns` counts the
    mismatched rows by column. `inconclusive` are keys, and rows not looked at singly. `found` is
    all that differs, `differing` its driving keys, `moving` all keys that never stood still;
    `samples` and `hot_keys` are the first of them. `spread` counts what differs over equal parts of
    the target, in its key's order; `statements` are those that show a row on either side, up to the
    condition on its `driving` key.
    """

    mapping: str
    rows_compared: int = 0
    mismatched: int = 0
    missing: int = 0
    extra: int = 0
    inconclusive: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    found: list[Sample] = field(default_factory=list)
    differing: list[tuple[str | None, ...]] = field(default_factory=list)
    moving: list[HotKey] = field(default_factory=list)
    spread: list[int] = field(default_factory=list)
    statements: dict[str, str] = field(default_factory=dict)
    driving: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def samples(self) -> list[Sample]:
        """As many of the differences as every answer shows."""
        return self.found[:SHOWN]

    @property
    def hot_keys(self) -> list[HotKey]:
        """As many of the moving keys as every answer shows."""
        return self.moving[:SHOWN]

    @property
    def different(self) -> int:
        """Rows that were proved to differ."""
        return self.mismatched + self.missing + self.extra

    @property
    def verdict(self) -> Word:
        """This mapping's own verdict, were its barriers passed."""
        if self.different:
            return "different"
        return "inconclusive" if self.inconclusive else "equal"

    def told(self) -> str:
        """The counts for a person; what is not there is not told."""
        kinds = ("mismatched", "missing", "extra", "inconclusive")
        found = [f"{count:,} {kind}" for kind in kinds if (count := getattr(self, kind))]
        return ", ".join([f"{self.rows_compared:,} rows", *(found or ["no difference found"])])


@dataclass
class InvariantVerdict:
    """One invariant: the rows that break it, and how many more did so without standing still.

    `asked` is False when no look was had: then nothing is known. `problem` is why not, or why it
    ended too early; of many rows that break it, only so many are counted.
    """

    name: str
    asked: bool = False
    broken: int = 0
    moving: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)
    problem: str | None = None
    seconds: float = 0.0

    @property
    def verdict(self) -> Literal["holds", "broken", "inconclusive"]:
        """In one word."""
        if self.broken:
            return "broken"
        known = self.asked and not self.moving and self.problem is None
        return "holds" if known else "inconclusive"

    def to_json(self) -> dict[str, Any]:
        """Plain data, with the first rows."""
        rows = [{name: _plain(value) for name, value in row.items()} for row in self.rows[:SHOWN]]
        return {
            "invariant": self.name,
            "verdict": self.verdict,
            "broken": self.broken,
            "moving": self.moving,
            "problem": self.problem,
            "rows": rows,
            "seconds": round(self.seconds, 3),
        }


@dataclass
class Verdict:
    """The whole run. Equal means: equal at some instant between the barriers b0 and b1.

    `scope` says in words what part was compared; it is empty when that was everything. `left_out`
    are domains that have one side by now, each with the reason.
    """

    verdict: Word
    started_at: datetime
    finished_at: datetime
    barriers: dict[str, dict[str, str | None]]
    mappings: list[MappingVerdict]
    reasons: list[str] = field(default_factory=list)
    hashing: str = "record"
    scope: str = ""
    invariants: list[InvariantVerdict] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> ExitCode:
        """0 equal, 3 different, 4 inconclusive."""
        codes = {
            "equal": ExitCode.DONE,
            "different": ExitCode.CHECK_FAILED,
            "inconclusive": ExitCode.INCONCLUSIVE,
        }
        return codes[self.verdict]

    @property
    def next_command(self) -> str:
        """What to do with this verdict."""
        if self.verdict == "equal":
            return "splitctl status"
        if self.verdict == "inconclusive":
            return "splitctl sync status"
        for mapping in self.mappings:
            if mapping.mismatched or mapping.missing or mapping.extra:
                # A plan and no more: it changes nothing.
                return f"splitctl verify repair {mapping.mapping.rsplit('.', 2)[0]}"
        return "splitctl verify invariants"

    def totals(self) -> dict[str, int]:
        """All mappings added up."""
        names = ("rows_compared", "mismatched", "missing", "extra", "inconclusive")
        return {name: sum(getattr(m, name) for m in self.mappings) for name in names}

    def to_json(self) -> dict[str, Any]:
        """Plain data for the ledger and for `-o json`."""
        return {
            "verdict": self.verdict,
            "started_at": _iso(self.started_at),
            "finished_at": _iso(self.finished_at),
            "seconds": round((self.finished_at - self.started_at).total_seconds(), 3),
            **self.totals(),
            "barriers": self.barriers,
            "reasons": self.reasons,
            "hashing": self.hashing,
            "scope": self.scope,
            "left_out": self.left_out,
            "mappings": [mapping_data(mapping) for mapping in self.mappings],
            "invariants": [invariant.to_json() for invariant in self.invariants],
        }

    def to_text(self) -> str:
        """For a person: the verdict first, then a line per mapping, then samples."""
        seconds = (self.finished_at - self.started_at).total_seconds()
        rows = self.totals()["rows_compared"]
        lines = [f"{self.verdict.upper()}: {rows:,} rows compared in {seconds:.1f} s"]
        if self.scope:
            lines.append(f"  only {self.scope}")
        lines += [f"  {reason}" for reason in self.reasons]
        lines += [f"  not compared: {name}: {why}" for name, why in self.left_out.items()]
        for stream, positions in self.barriers.items():
            lines.append(f"  {stream}: between {positions['b0']} and {positions['b1'] or '?'}")
        width = max((len(m.mapping) for m in self.mappings), default=0)
        lines += ["", *(f"{m.mapping:<{width}}  {m.told()}" for m in self.mappings)]
        for m in self.mappings:
            if m.columns:
                counted = ", ".join(f"{name} {n:,}" for name, n in sorted(m.columns.items()))
                lines.append(f"\n{m.mapping}, by column: {counted}")
            for s in m.samples:
                key = _named(s.key)
                if s.column is None:
                    where = "old" if s.new is None else "new"
                    lines.append(f"  {m.mapping} [{key}] {s.what}: only on the {where} side")
                else:
                    pair = f"old {_shown(s.old)}, new {_shown(s.new)}"
                    lines.append(f"  {m.mapping} [{key}] {s.column}: {pair}")
            for hot in m.hot_keys:
                key = _named(hot.key)
                never = ", ".join(hot.columns) or "no column twice"
                lines.append(f"  {m.mapping} [{key}] kept moving; unequal each time: {never}")
        lines += [line for invariant in self.invariants for line in told(invariant)]
        return "\n".join(lines)


def word(
    reasons: list[str], mappings: list[MappingVerdict], invariants: list[InvariantVerdict]
) -> Word:
    """All of it in one word: what differs or is broken weighs more than what is not known."""
    words = {item.verdict for item in mappings} | {item.verdict for item in invariants}
    if words & {"different", "broken"}:
        return "different"
    return "inconclusive" if reasons or "inconclusive" in words or not words else "equal"


def told(invariant: InvariantVerdict) -> list[str]:
    """An invariant for a person: its verdict, then the first rows that break it."""
    lines = [f"{invariant.name}: {in_words(invariant)}"]
    for row in invariant.rows[:SHOWN]:
        lines.append("  " + ", ".join(f"{name} {_plain(value)}" for name, value in row.items()))
    return lines


def in_words(invariant: InvariantVerdict) -> str:
    """What is known of an invariant."""
    if invariant.broken:
        return f"BROKEN by {invariant.broken:,} row(s)"
    if invariant.problem is not None:
        return f"could not be told: {invariant.problem}"
    if not invariant.asked:
        return "was not asked"
    if invariant.moving:
        return f"could not be told: {invariant.moving:,} row(s) broke it without standing still"
    return "holds"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return value if value is None or isinstance(value, bool | int) else str(value)


def mapping_data(mapping: MappingVerdict) -> dict[str, Any]:
    """One mapping as plain data, with the first of what differs."""
    return {
        "mapping": mapping.mapping,
        "verdict": mapping.verdict,
        "rows_compared": mapping.rows_compared,
        "mismatched": mapping.mismatched,
        "missing": mapping.missing,
        "extra": mapping.extra,
        "inconclusive": mapping.inconclusive,
        "columns": mapping.columns,
        "samples": [sample.to_json() for sample in mapping.samples],
        "spread": mapping.spread,
        "hot_keys": [vars(hot) for hot in mapping.hot_keys],
        "seconds": round(mapping.seconds, 3),
    }


def _named(key: dict[str, str | None]) -> str:
    return ", ".join(f"{name}={'NULL' if text is None else text}" for name, text in key.items())


def _shown(value: Any) -> str:
    return "NULL" if value is None else repr(value)


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
