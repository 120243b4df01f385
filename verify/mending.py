"""Carrying a repair plan out: ask the owners' streams again, then compare just those keys.

What is written is what the owner holds at that moment, by sync's own way of applying; keys whose
rows are no longer those of the plan are left alone, because nobody has looked at them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from migrator.changes import MappingKey
from migrator.mapping import Stream, streams
from migrator.ownership import Ownership
from migrator.strays import ask_again
from verify import obstacles, undo
from verify.barriers import Barriers, Gate, SyncBarriers, ends
from verify.diff import subjects_of
from verify.passes import Limits
from verify.recheck import Suspect, settle
from verify.repair import Beyond, OwnerMoving, Plan, Repair, write_private
from verify.scan import Suspects
from verify.sides import Both, open_both
from verify.subject import Subject, select
from verify.truth import Held, Truth
from verify.undo import Repaired
from verify.verdict import SHOWN

# So many keys in one message of the log. A row that goes from one key to another is written once
# only if both are asked for together.
ASKED_AT_ONCE = 5_000


class SyncAway(SplitctlError):
    """Nothing was repaired, and nothing was changed: {reason}"""

    hint = "splitctl sync status"
    exit_code = ExitCode.PRECONDITION


class UndoNotWritten(SplitctlError):
    """Nothing was repaired, and nothing was changed: the undo cannot be written to '{path}':
    {reason}."""

    hint = "splitctl verify repair {domain} --apply PLAN --undo FOLDER"
    exit_code = ExitCode.PRECONDITION


@dataclass
class Mended:
    """What became of a plan. Keys: asked for; equal by now; still different; not told, because
    they kept moving or sync did not answer. Not asked for: those that had become equal (`already`),
    and the `refused`."""

    domain: str
    asked: int = 0
    mended: int = 0
    already: int = 0
    left: list[Beyond] = field(default_factory=list)
    moving: list[Beyond] = field(default_factory=list)
    refused: list[Beyond] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    undo: list[Path] = field(default_factory=list)

    @property
    def exit_code(self) -> ExitCode:
        """0 all are equal, 3 some are not, 4 it could not be told."""
        if self.left or self.refused:
            return ExitCode.CHECK_FAILED
        return ExitCode.INCONCLUSIVE if self.reasons or self.moving else ExitCode.DONE

    @property
    def next_command(self) -> str:
        """What to do now."""
        if self.refused or self.left:
            return f"splitctl verify repair {self.domain}"
        if self.reasons:
            return "splitctl sync status"
        return f"splitctl verify run --domain {self.domain}"

    def to_text(self) -> str:
        """For a person."""
        lines = [f"{self.mended:,} of {self.asked:,} key(s) that were asked for are equal now"]
        if self.already:
            lines.append(f"{self.already:,} key(s) were equal already, and not asked for")
        lines += [f"  {reason}" for reason in self.reasons]
        for many, what in (
            (self.refused, "were refused, and left as they are"),
            (self.left, "are still different"),
            (self.moving, "could not be told"),
        ):
            if many:
                lines.append(f"{len(many):,} key(s) {what}")
            for item in many[:SHOWN]:
                lines.append(f"  {item.mapping} [{', '.join(map(str, item.key))}]: {item.why}")
        lines += [f"Undo: {path}" for path in self.undo]
        return "\n".join(lines)


def mend(
    config: Config,
    plan: Plan,
    folder: Path,
    *,
    barriers: Barriers | None = None,
    limits: Limits | None = None,
    on_asked: Callable[[int], None] = lambda _: None,
) -> Mended:
    """Carry a plan out; the undo of each database is written into `folder` before.

    What goes wrong once something was asked for is told in the result. Raises SyncAway,
    UndoNotWritten, OwnerMoving, UnknownMapping, MappingMismatch, MappingNotComparable,
    DatabaseUnreachable or ConnectionLost before that.
    """
    limits = limits or Limits()
    sides = config.domain(plan.domain)
    done = Mended(plan.domain)
    # Raises UnknownMapping: the configuration may be another one by now.
    found = [mapping for repair in plan.repairs for mapping, _ in repair.found]
    select(config, plan.domain, [*(repair.mapping for repair in plan.repairs), *found] or None)
    with open_both(config.database(sides.old), config.database(sides.new)) as both:
        every = streams(config, plan.domain)
        reasons: list[str] = []
        gate = Gate(every, both, barriers or SyncBarriers(), limits.barrier_s, reasons)
        gate.check()
        subjects = {
            subject.name: subject
            for selection in select(config, plan.domain, None)
            for subject in subjects_of(selection, both)
        }
        if not gate.ready():
            raise SyncAway(reason="; ".join(reasons))
        truth = Truth(config, plan.domain, both)
        owner = truth.ownership()
        if owner is None:
            raise OwnerMoving(domain=plan.domain)
        waiting = sorted({item.mapping for item in plan.repairs if not truth.live(item.mapping)})
        if waiting:
            raise SyncAway(
                reason=f"{', '.join(waiting)}: not live, so what is asked for would wait"
            )
        wanted = _still_so(plan, owner, truth, done)
        repairs = [repair for repair in plan.repairs if (repair.mapping, repair.key) in wanted]
        for stream in every:
            _keep_undo(stream, owner, truth, wanted, folder, done)
        done.asked = len(repairs)
        try:
            for stream in every:
                _ask(stream, both, sorted(n for n in wanted if truth.stream(n[0]) == stream))
            if repairs:
                on_asked(done.asked)
                _compare(repairs, subjects, both, gate, limits, done)
            _heed_owner(owner, truth, done)
        except SplitctlError as error:
            # It may have been carried all the same, and the undo is there.
            reasons.append(f"asked for, but what became of it is not known: {type(error).__name__}")
        done.reasons += reasons
    return done


def _still_so(plan: Plan, owner: Ownership, truth: Truth, done: Mended) -> dict[MappingKey, Held]:
    """The keys whose rows and owner are those of the plan, with what is there now."""
    by_mapping: dict[str, list[Repair]] = {}
    for repair in plan.repairs:
        by_mapping.setdefault(repair.mapping, []).append(repair)
    wanted: dict[MappingKey, Held] = {}
    for mapping, repairs in by_mapping.items():
        looked = truth.look(mapping, [repair.key for repair in repairs], owner)
        for repair in repairs:
            held = looked.get(repair.key)
            if held is None:
                why = "the source can hold no such key"
            elif not held.differs:
                done.already += 1
                continue
            elif held.owner != repair.truth:
                why = f"the {repair.truth} side does not own its customer any more"
            elif held.seal != repair.seal:
                why = "its rows were changed since the plan was made"
            else:
                wanted[(mapping, repair.key)] = held
                continue
            done.refused.append(Beyond(mapping, repair.key, why))
    wanted, refused = obstacles.free(wanted, truth)
    done.refused += [Beyond(*name, why) for name, why in refused.items()]
    return wanted


def _keep_undo(
    stream: Stream,
    owner: Ownership,
    truth: Truth,
    wanted: dict[MappingKey, Held],
    folder: Path,
    done: Mended,
) -> None:
    """Write the undo of what a stream is going to change, if that is anything."""
    place = {name: number for number, name in enumerate(truth.order(stream))}
    ours = [name for name in wanted if truth.stream(name[0]) == stream]
    if not ours:
        return
    referring = {mapping: truth.referring(mapping) for mapping in {name for name, _ in ours}}
    repaired = [
        Repaired(truth.shape(name[0]), wanted[name], referring[name[0]])
        for name in sorted(ours, key=lambda name: place[name[0]])
    ]
    now = datetime.now(UTC)
    text = undo.script(stream, owner, f"{now:%Y-%m-%d %H:%M:%S} UTC", repaired)
    path = folder / f"undo-{stream.target.name}-{now:%Y%m%dT%H%M%S%f}.sql"
    try:
        # It has to be there when the first row is changed.
        write_private(path, text.encode())
    except OSError as error:
        reason = error.strerror or str(error)
        raise UndoNotWritten(path=path, reason=reason, domain=done.domain) from error
    done.undo.append(path)


def _ask(stream: Stream, both: Both, keys: list[MappingKey]) -> None:
    source = ends(stream, both)[0]
    for start in range(0, len(keys), ASKED_AT_ONCE):
        with both.asking(source):
            ask_again(source, stream.name, keys[start : start + ASKED_AT_ONCE])


def _heed_owner(owner: Ownership, truth: Truth, done: Mended) -> None:
    """A rollback waits for nobody: what was asked for before it may have been carried after it."""
    if done.asked and truth.ownership() != owner:
        done.reasons.append(
            "the owner moved meanwhile: look at `splitctl sync strays` before anything else"
        )


def _compare(
    repairs: list[Repair],
    subjects: dict[str, Subject],
    both: Both,
    gate: Gate,
    limits: Limits,
    done: Mended,
) -> None:
    """Compare the keys that were asked for, and those under which they were found."""
    suspects: dict[str, Suspects] = {mapping: {} for mapping in subjects}
    # Under each key that is compared, the repairs of which it tells.
    tells: dict[tuple[str, object], set[int]] = {}
    for number, repair in enumerate(repairs):
        for mapping, stored in repair.found:
            canonical = subjects[mapping].shape.canonical_key(stored)
            suspects[mapping][canonical] = stored
            tells.setdefault((mapping, canonical), set()).add(number)
    chosen = [(subjects[mapping], found) for mapping, found in suspects.items() if found]
    unequal: set[int] = set()
    for (subject, _), settled in zip(
        chosen, settle(chosen, both, gate.ready, limits.patience_s), strict=True
    ):
        done.reasons += settled.problems
        for key in dict.fromkeys(found.key for found in settled.confirmed):
            unequal |= tells[(subject.name, subject.shape.canonical_key(key))]
            done.left.append(Beyond(subject.name, key, "sync did not change it"))
        for suspect in settled.inconclusive:
            unequal |= tells[(subject.name, subject.shape.canonical_key(suspect.key))]
            done.moving.append(Beyond(subject.name, suspect.key, _why(suspect)))
    done.mended = len(repairs) - len(unequal)


def _why(suspect: Suspect) -> str:
    return "it never stood still" if suspect.looks else "it could not be looked at"
