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
from migrator.mapping import Key, Stream, streams
from migrator.strays import ask_again
from verify import undo
from verify.barriers import Barriers, Gate, SyncBarriers, ends
from verify.diff import subjects_of
from verify.passes import Limits
from verify.recheck import settle
from verify.repair import Beyond, OwnerMoving, Plan, Repair
from verify.scan import Suspects
from verify.sides import Both, open_both
from verify.subject import Subject, select
from verify.truth import Held, Truth
from verify.verdict import SHOWN

# So many keys in one message of the log.
ASKED_AT_ONCE = 500


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
    they kept moving or sync did not answer. `refused` were not asked for."""

    domain: str
    asked: int = 0
    mended: int = 0
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
        lines += [f"  {reason}" for reason in self.reasons]
        for many, what in (
            (self.refused, "were refused: their rows are not those of the plan"),
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

    Raises SyncAway, UndoNotWritten, OwnerMoving, UnknownMapping, MappingMismatch,
    MappingNotComparable, DatabaseUnreachable or ConnectionLost.
    """
    limits = limits or Limits()
    sides = config.domain(plan.domain)
    done = Mended(plan.domain)
    # Raises UnknownMapping: the configuration may be another one by now.
    select(config, plan.domain, [repair.mapping for repair in plan.repairs] or None)
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
        wanted = _still_so(plan, truth, done)
        for stream in every:
            _keep_undo(stream, truth, wanted, folder, done)
        for stream in every:
            ours = {
                (repair.mapping, repair.key) for repair, _ in wanted if _carries(stream, repair)
            }
            _ask(stream, both, sorted(ours))
        done.asked = len(wanted)
        on_asked(done.asked)
        if wanted:
            _compare([repair for repair, _ in wanted], subjects, both, gate, limits, done)
        done.reasons += reasons
    return done


def _carries(stream: Stream, repair: Repair) -> bool:
    return repair.mapping in {mapping.name for mapping in stream.mappings}


def _still_so(plan: Plan, truth: Truth, done: Mended) -> list[tuple[Repair, Held]]:
    """The repairs whose rows and owner are those of the plan, with what is there now."""
    owner = truth.ownership()
    if owner is None:
        raise OwnerMoving(domain=plan.domain)
    by_mapping: dict[str, list[Repair]] = {}
    for repair in plan.repairs:
        by_mapping.setdefault(repair.mapping, []).append(repair)
    wanted: list[tuple[Repair, Held]] = []
    for mapping, repairs in by_mapping.items():
        looked = truth.look(mapping, [repair.key for repair in repairs], owner)
        for repair in repairs:
            held = looked[repair.key]
            if held.owner != repair.truth:
                why = f"the {repair.truth} side does not own its customer any more"
            elif not held.differs:
                why = "both sides are equal by now"
            elif held.seal != repair.seal:
                why = "its rows were changed since"
            else:
                wanted.append((repair, held))
                continue
            done.refused.append(Beyond(repair.mapping, repair.key, why))
    return wanted


def _keep_undo(
    stream: Stream, truth: Truth, wanted: list[tuple[Repair, Held]], folder: Path, done: Mended
) -> None:
    """Write the undo of what a stream is going to change, if that is anything."""
    place = {name: number for number, name in enumerate(truth.order(stream))}
    ours = [(repair, held) for repair, held in wanted if _carries(stream, repair)]
    if not ours:
        return
    ours.sort(key=lambda pair: place[pair[0].mapping])
    now = datetime.now(UTC)
    path = folder / f"undo-{stream.target.name}-{now:%Y%m%dT%H%M%S}.sql"
    text = undo.script(
        stream,
        f"{now:%Y-%m-%d %H:%M:%S} UTC",
        [(truth.shape(repair.mapping), held) for repair, held in ours],
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Customers' rows stand in it.
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise UndoNotWritten(path=path, reason=reason, domain=done.domain) from error
    done.undo.append(path)


def _ask(stream: Stream, both: Both, keys: list[MappingKey]) -> None:
    source = ends(stream, both)[0]
    for start in range(0, len(keys), ASKED_AT_ONCE):
        with both.asking(source):
            ask_again(source, stream.name, keys[start : start + ASKED_AT_ONCE])


def _compare(
    repairs: list[Repair],
    subjects: dict[str, Subject],
    both: Both,
    gate: Gate,
    limits: Limits,
    done: Mended,
) -> None:
    """Compare the keys that were asked for, and those under which they were found."""
    suspects: dict[str, Suspects] = {}
    of: dict[MappingKey, set[MappingKey]] = {}
    for repair in repairs:
        name = (repair.mapping, repair.key)
        for mapping, key in {name, *repair.found}:
            subject = subjects[mapping]
            suspects.setdefault(mapping, {})[subject.shape.canonical_key(key)] = key
            of.setdefault((mapping, key), set()).add(name)
    chosen = [(subjects[mapping], found) for mapping, found in suspects.items()]
    bad: set[MappingKey] = set()
    unknown: set[MappingKey] = set()
    for (subject, _), settled in zip(
        chosen, settle(chosen, both, gate.ready, limits.patience_s), strict=True
    ):
        done.reasons += settled.problems
        for key in {_key(found.key) for found in settled.confirmed}:
            bad |= of[(subject.name, key)]
            done.left.append(Beyond(subject.name, key, "sync did not change it"))
        for suspect in settled.inconclusive:
            unknown |= of[(subject.name, _key(suspect.key))]
            why = "it never stood still" if suspect.looks else "it could not be looked at"
            done.moving.append(Beyond(subject.name, suspect.key, why))
    done.mended = done.asked - len(bad | unknown)


def _key(key: tuple[str | None, ...]) -> Key:
    return tuple(str(part) for part in key)
