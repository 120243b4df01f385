"""Which subjects a gate is to count next, and what is known of its question by now.

A phase is cut into slices of fixed length from its beginning, and samples are counted slice by
slice: so the answer at a moment does not depend on when, or how often, anybody looked before.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal

from estate.config import Config, GateConfig
from estate.errors import in_one_line
from estate.ledger.records import Rollout
from rollout.gates import asked
from rollout.parallel import gather
from rollout.phases import PER_PERCENT
from rollout.seen import DataSeen
from rollout.statistics import Block, Sample, Trial
from rollout.subjects import Cohort, Slice, Span, Subjects

# A slice is a tenth of what a subject is given, within these bounds; in seconds.
SHORTEST_SLICE_S, LONGEST_SLICE_S = 1.0, 60.0
NOT_CARRIED = "sync is behind or away: one side's database does not hold everybody's"
# Connecting, and two statements of five seconds.
PATIENCE_S = 16.0
Control = Literal["stayed", "before", "share"]
NOBODY = Sample(), Sample()


@dataclass(frozen=True)
class Question:
    """A gate's question to a domain in its present phase.

    The cohort is compared with those who `stayed`, at the same time; with itself `before`; or, by
    its `share` of all who began, with its share before.
    """

    gate: GateConfig
    domain: str
    percentage: int
    cohort: Cohort
    control: Control

    @property
    def drop(self) -> float:
        """The drop that matters, in terms of the share that is tested."""
        drop, part = self.gate.drop or 0.0, self.percentage / 100
        # Where a cohort brings fewer, it shrinks the whole as well.
        return 1 - (1 - drop) / (1 - part * drop) if self.control == "share" else drop

    @property
    def slice_s(self) -> float:
        """The length of a slice in seconds."""
        tenth = self.gate.after.total_seconds() / 10
        return min(max(tenth, SHORTEST_SLICE_S), LONGEST_SLICE_S)

    @property
    def mark(self) -> str:
        """Changes when the question does: then counting begins anew."""
        gate = self.gate
        settings = gate.kind, gate.side, gate.drop, gate.after, gate.baseline, gate.within
        text = f"{gate.sql} {settings} {self.cohort} {self.control}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def blocks(self, subjects: Subjects, span: Span) -> tuple[Block, ...]:
        """The samples of a span, slice by slice."""
        now = subjects.slices(self.gate, self.domain, span, self.cohort)
        before: Sequence[Slice] = ()
        if self.control != "stayed":
            earlier = span.earlier(self.gate.baseline)
            before = subjects.slices(self.gate, self.domain, earlier, self.cohort)
        of_now, of_before = _by_number(now), _by_number(before)
        return tuple(
            self._block(of_now.get(number, NOBODY), of_before.get(number, NOBODY))
            for number in sorted(of_now.keys() | of_before.keys())
        )

    def _block(self, now: tuple[Sample, Sample], before: tuple[Sample, Sample]) -> Block:
        """Of samples inside and outside of the cohort, now and before."""
        if self.control == "stayed":
            return Block(*now)
        if self.control == "before":
            return Block(now[0], before[0])
        return Block(*(Sample(a.number + b.number, a.number) for a, b in (now, before)))


@dataclass(frozen=True)
class Kept:
    """What is known of a question: kept in the ledger with the phase's other evidence.

    `mark` and `start` tell which question, of which phase; `upto` until when subjects are counted;
    `tried_at` when they were asked for last.
    """

    mark: str
    start: datetime
    upto: datetime
    control: Control
    tried_at: datetime | None = None
    trial: Trial | None = None
    due: Sample | None = None
    problem: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain data for the ledger."""
        return {
            "mark": self.mark,
            "start": self.start.isoformat(),
            "upto": self.upto.isoformat(),
            "control": self.control,
            "tried_at": self.tried_at.isoformat() if self.tried_at else None,
            "trial": self.trial.to_json() if self.trial else None,
            "due": [self.due.number, self.due.good] if self.due else None,
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Kept":
        """What `to_json` gave."""
        tried, trial, due = data["tried_at"], data["trial"], data["due"]
        return cls(
            data["mark"],
            datetime.fromisoformat(data["start"]),
            datetime.fromisoformat(data["upto"]),
            data["control"],
            datetime.fromisoformat(tried) if tried else None,
            Trial.from_json(trial) if trial else None,
            Sample(*due) if due else None,
            data["problem"],
        )

    @property
    def seen(self) -> DataSeen:
        """What the gate may look at."""
        return DataSeen(self.trial, self.due, self.control, self.problem)


@dataclass(frozen=True)
class Counted:
    """What was counted after `known`, or why not."""

    known: Kept
    upto: datetime
    at: datetime
    blocks: tuple[Block, ...] = ()
    due: Sample | None = None
    problem: str | None = None

    def added(self) -> Kept:
        """What is known with it."""
        if self.problem is not None:
            return replace(self.known, tried_at=self.at, problem=self.problem)
        trial = self.known.trial
        for block in self.blocks:
            trial = trial.advanced(block) if trial else None
        return replace(
            self.known, upto=self.upto, tried_at=self.at, trial=trial, due=self.due, problem=None
        )


def any_asked(config: Config, domain: str) -> bool:
    """Whether a domain has gates that are asked of the data, at whatever percentage."""
    return any(g.from_data and domain in (g.domains or [domain]) for g in config.gates)


def questions(config: Config, domain: str, percentage: int) -> list[Question]:
    """What a domain's gates ask of the data at a percentage."""
    before = config.domain(domain).before(percentage)
    found = []
    for gate in asked(config.gates, domain, percentage, before):
        moved = Cohort(0, percentage * PER_PERCENT)
        if gate.kind == "rate":
            found.append(Question(gate, domain, percentage, moved, "share"))
        elif gate.kind == "conversion" and percentage == 100:
            # Nobody stayed. Those who moved last are compared with what they did before.
            last = Cohort(before * PER_PERCENT)
            found.append(Question(gate, domain, percentage, last, "before"))
        elif gate.from_data:
            found.append(Question(gate, domain, percentage, moved, "stayed"))
    return found


def count(
    config: Config, rollout: Rollout, subjects: Subjects, lag_s: float | None, now: datetime
) -> dict[str, Counted]:
    """Count what has become known since, by the gate's name. Never raises, changes nothing.

    lag_s: of the slower direction of sync, None when one does not carry. A side's database holds
    some customers' subjects at once, and others' when they were carried.
    """
    waiting: dict[str, tuple[Question, Kept]] = {}
    found: dict[str, Counted] = {}
    for question in questions(config, rollout.domain, rollout.percentage):
        name, known = question.gate.name, _known(question, rollout)
        if known is None or not _again(question, known, now):
            continue
        if lag_s is None or lag_s > question.gate.settling.total_seconds():
            found[name] = Counted(known, known.upto, now, problem=NOT_CARRIED)
        else:
            waiting[name] = (question, known)
    tasks = {name: partial(_counted, *each, subjects, now) for name, each in waiting.items()}
    for name, outcome in gather(tasks, PATIENCE_S).items():
        known = waiting[name][1]
        problem = in_one_line(outcome.error)
        found[name] = outcome.value or Counted(known, known.upto, now, problem=problem)
    return found


def kept(rollout: Rollout, counted: Mapping[str, Counted]) -> dict[str, Any]:
    """The ledger's part after this look. What somebody else has counted meanwhile stands."""
    before: dict[str, Any] = dict(rollout.evidence.get("data", {}))
    for name, more in counted.items():
        known = more.known
        if known.start != rollout.phase_started_at:
            continue
        stands = Kept.from_json(before[name]) if name in before else known
        another = (stands.mark, stands.start) != (known.mark, known.start)
        if another or stands.upto == known.upto:
            before[name] = more.added().to_json()
    return before


def seen(evidence: Mapping[str, Any]) -> dict[str, DataSeen]:
    """What the gates may look at, by their names."""
    return {name: Kept.from_json(data).seen for name, data in evidence.get("data", {}).items()}


def _by_number(slices: Iterable[Slice]) -> dict[int, tuple[Sample, Sample]]:
    """The samples of each slice, inside of the cohort and outside."""
    found: dict[int, tuple[Sample, Sample]] = {}
    for item in slices:
        inside, outside = found.get(item.number, NOBODY)
        if item.inside:
            found[item.number] = (inside + item.sample, outside)
        else:
            found[item.number] = (inside, outside + item.sample)
    return found


def _known(question: Question, rollout: Rollout) -> Kept | None:
    """What the ledger has of this question, or its beginning; None: it began nobody knows when."""
    start = rollout.phase_started_at
    if start is None:
        return None
    data = rollout.evidence.get("data", {}).get(question.gate.name)
    if data is not None:
        known = Kept.from_json(data)
        if known.mark == question.mark and known.start == start:
            return known
    trial = None if question.gate.kind == "duration" else Trial(question.drop)
    return Kept(question.mark, start, start, question.control, trial=trial)


def _again(question: Question, known: Kept, now: datetime) -> bool:
    """Whether there may be more than when it was asked last."""
    pause = timedelta(seconds=question.slice_s)
    return known.tried_at is None or now >= known.tried_at + pause


def _edge(question: Question, start: datetime, now: datetime) -> datetime:
    """The end of the last slice whose outcomes are all known.

    Where a phase is compared with what was before, that ends where the phase begins.
    """
    known = now - question.gate.behind - start
    if question.control != "stayed":
        known = min(known, question.gate.baseline)
    whole = max(0, int(known.total_seconds() // question.slice_s))
    return start + timedelta(seconds=whole * question.slice_s)


def _counted(question: Question, known: Kept, subjects: Subjects, now: datetime) -> Counted:
    gate, upto = question.gate, _edge(question, known.start, now)
    if gate.kind != "duration":
        span = Span(known.start, known.upto, upto, question.slice_s)
        blocks = question.blocks(subjects, span) if upto > known.upto else ()
        return Counted(known, max(upto, known.upto), now, blocks)
    # All that fell due since the phase began, whenever it began itself.
    within = gate.within or timedelta()
    end = now - gate.behind - within
    due = subjects.due(gate, question.domain, known.start - within, end, question.cohort)
    return Counted(known, upto, now, due=due)
