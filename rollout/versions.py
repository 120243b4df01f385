"""What runs, as facts to be compared: images, variables, configuration; and who has set them. Pure.

Values of variables may be secret, so only their digests are facts; images are told as they are.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    # Loaded only where there is a cluster: a rollback does not wait for that.
    from estate.cluster import FieldOwner

NONE = "none"


def of(what: str) -> str:
    """The object that a fact is of."""
    return what.partition(",")[0]


@dataclass(frozen=True)
class Fact:
    """One thing of a template, and whoever has set it, as far as the cluster knows.

    shown: the value for a person; empty where it may be a secret
    """

    value: str
    shown: str = ""
    writer: "FieldOwner | None" = None


@dataclass(frozen=True)
class Seen:
    """Facts by what they are of; the last writer of each object, for facts that are gone.

    asked: the objects that were asked for, whether there or not
    """

    facts: Mapping[str, Fact] = field(default_factory=dict)
    writers: "Mapping[str, FieldOwner]" = field(default_factory=dict)
    asked: Collection[str] = ()

    def to_json(self) -> dict[str, Any]:
        """What a later look is compared with."""
        facts = {what: fact.shown or fact.value for what, fact in self.facts.items()}
        return {"asked": sorted(self.asked), "facts": facts}

    def covers(self, before: Mapping[str, Any]) -> bool:
        """Whether all was asked for that was when `before` was kept."""
        return {*before["asked"]} <= {*self.asked}


@dataclass(frozen=True)
class Changed:
    """One fact that is not as it was. `gone`: it is there no more."""

    told: str
    writer: "FieldOwner | None"
    gone: bool = False

    @property
    def ours(self) -> bool:
        """Whether a command of ours set it: `deploy apply`, say."""
        from estate.cluster import OURS

        return self.writer is not None and self.writer.manager in OURS

    @property
    def who(self) -> str:
        """A sentence; empty where nobody knows."""
        from rollout.field_managers import sentence

        return sentence(self.writer, "it") if self.writer is not None else ""


class Versions(Protocol):
    """Where it can be asked what runs."""

    def now(self) -> Seen | None:
        """What runs; None where nothing is to be compared. Raises what a cluster raises."""

    def lately(self) -> Seen | None:
        """The same for who looks every second: None also between two looks, and while the cluster
        is away."""


class Unwatched:
    """No cluster is known: what runs is nobody's business here."""

    def now(self) -> Seen | None:
        """Nothing."""
        return None

    def lately(self) -> Seen | None:
        """Nothing."""
        return None


def changes(before: Mapping[str, Any], seen: Seen) -> list[Changed]:
    """What is not as it was, in order. Pure.

    Whoever looks knows some objects, and whoever looked before may know others: a Job has no
    manifests, say. So only those are compared that both have asked for.
    """
    facts, now = before["facts"], seen.to_json()["facts"]
    both = {*before["asked"]} & {*seen.asked}
    told = []
    for what in sorted({*facts, *now}):
        was, became, of = facts.get(what), now.get(what), what.partition(",")[0]
        if was == became or of not in both:
            continue
        fact = seen.facts.get(what)
        if fact is None:
            told.append(Changed(f"{what} is gone", seen.writers.get(of), gone=True))
        elif fact.shown:
            told.append(Changed(f"{what}: {was or NONE} -> {fact.shown}", fact.writer))
        else:
            how = "is new" if was is None else "was changed"
            told.append(Changed(f"{what} {how}", fact.writer))
    return told


def first_seen(before: Mapping[str, Any], seen: Seen) -> dict[str, Any] | None:
    """What was kept, with the objects that nobody had asked for; None where there are none. Pure.

    Who began the phase may have had no manifests, and others that have them go on.
    """
    new = {*seen.asked} - {*before["asked"]}
    if not new:
        return None
    more = seen.to_json()["facts"].items()
    facts = before["facts"] | {what: told for what, told in more if what.partition(",")[0] in new}
    return {"asked": sorted({*before["asked"], *new}), "facts": facts}


def all_ours(found: Sequence[Changed]) -> bool:
    """Whether commands of ours made these changes.

    An object that is gone tells nobody's name: it is ours where all the rest is, as what `deploy`
    takes away with what it sets.
    """
    told = [item for item in found if not item.gone or item.writer is not None]
    return bool(told) and all(item.ours for item in told)
