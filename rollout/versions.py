"""What runs, as facts to be compared: images, variables, configuration; and who has set them. Pure.

Values of variables may be secret, so only their digests are facts; images are told as they are.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

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

    def to_json(self) -> dict[str, str]:
        """What a later look is compared with. An object that is not there is `none`."""
        there = {of(what) for what in self.facts}
        told = {what: fact.shown or fact.value for what, fact in self.facts.items()}
        return told | {one: NONE for one in self.asked if one not in there}


@dataclass(frozen=True)
class Changed:
    """One fact that is not as it was."""

    told: str
    writer: "FieldOwner | None"

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


def changes(before: Mapping[str, str], seen: Seen) -> list[Changed]:
    """What is not as it was, in order. Pure.

    Only of objects that were asked for both times. One more is in the manifests at a finish, and
    one less when that is taken back, or where the manifests are not at hand.
    """
    now = seen.to_json()
    both = {of(what) for what in before} & {of(what) for what in now}
    told = []
    for what in sorted({*before, *now} - both):
        was, became = before.get(what), now.get(what)
        if was == became or of(what) not in both:
            continue
        fact = seen.facts.get(what)
        if fact is None:
            told.append(Changed(f"{what} is gone", seen.writers.get(of(what))))
        elif fact.shown:
            told.append(Changed(f"{what}: {was or NONE} -> {fact.shown}", fact.writer))
        else:
            how = "is new" if was is None else "was changed"
            told.append(Changed(f"{what} {how}", fact.writer))
    return told


def first_seen(before: Mapping[str, str], seen: Seen) -> dict[str, str]:
    """What is told of objects that were not asked for before. Pure."""
    known = {of(what) for what in before}
    return {what: told for what, told in seen.to_json().items() if of(what) not in known}
