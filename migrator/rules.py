"""What becomes of a stray, by its mapping's rule and by what is known of both versions. Pure."""

from dataclasses import dataclass
from enum import Enum, auto

from estate.config import StrayRule
from migrator.mapping import Key

OWNER_WINS = StrayRule("owner")


class Verdict(Enum):
    """What is done about a key that the stream's source does not own."""

    KEPT = auto()  # the owner's version stands, and is asked for
    CARRIED = auto()  # the stray is written over the owner's version
    STOPPED = auto()  # nothing goes on before a person has decided
    PASSED = auto()  # a person has decided; nothing is left to do here


@dataclass(frozen=True)
class Facts:
    """What is known of a mapping's keys that its source does not own, beside their rows.

    `quiet`: nobody changed them here, or they were only asked for. `unchanged`: the source only
    changes rows that stand in the target, and nobody but sync has written these since the target's
    side became the owner. `late`: changed while the source's side still owned them. `newer`: the
    source's version is the newer one by the rule's column. `settled`: a person has decided about
    just this version.
    """

    quiet: frozenset[Key] = frozenset()
    unchanged: frozenset[Key] = frozenset()
    late: frozenset[Key] = frozenset()
    newer: frozenset[Key] = frozenset()
    settled: frozenset[Key] = frozenset()


NOTHING_KNOWN = Facts()


def verdict(rule: StrayRule, key: Key, facts: Facts) -> Verdict:
    """Decide one stray. What cannot be proven falls to the owner.

    A late key is no trespass: its writer was the owner. Whatever the rule, it is carried where
    nobody has worked on the owner's row since (a rollback that could not wait left it behind).
    """
    if key in facts.quiet:
        return Verdict.KEPT
    if key in facts.unchanged and (rule.name == "carry" or key in facts.late):
        return Verdict.CARRIED
    match rule.name:
        case "newest" if key in facts.newer:
            return Verdict.CARRIED
        case "stop":
            return Verdict.PASSED if key in facts.settled else Verdict.STOPPED
    return Verdict.KEPT


def why_carried(rule: StrayRule, key: Key, facts: Facts) -> str:
    """Why a stray was carried across, for whoever looks at it later."""
    if key in facts.unchanged:
        return "carried across: nobody had changed the owner's row since the owner moved"
    return f"carried across: it is the newer one by {rule.column}"
