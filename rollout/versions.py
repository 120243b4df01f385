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
        """What a later look is compared with."""
        return {what: fact.shown or fact.value for what, fact in self.facts.items()}


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

    Nothing is told of an object that nobody asks for any more: the way back after a finish that
    was taken back, say.
    """
    now = seen.to_json()
    told = []
    for what in sorted({*before, *now}):
        was, became = before.get(what), now.get(what)
        if was == became:
            continue
        fact = seen.facts.get(what)
        if fact is None:
            of = what.partition(",")[0]
            if of in seen.asked:
                told.append(Changed(f"{what} is gone", seen.writers.get(of)))
        elif fact.shown:
            told.append(Changed(f"{what}: {was or NONE} -> {fact.shown}", fact.writer))
        else:
            how = "is new" if was is None else "was changed"
            told.append(Changed(f"{what} {how}", fact.writer))
    return told
