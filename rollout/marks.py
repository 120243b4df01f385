"""What was said of a domain and still holds: a pause, a drift, a hold, a proof, persons' answers.

Each is an act in the ledger. Of two opposite kinds the newer one says how it is, so there is no
second place that could say otherwise, and neither a step nor a rollback can write over it.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Protocol

from estate.config import Config
from rollout.gates import asked
from rollout.seen import AnswerSeen

if TYPE_CHECKING:
    from estate.ledger import ActRecord, Rollout

PAUSE, RESUME = "pause", "resume"
DRIFT, DRIFT_ENDED = "drift", "drift-ended"
HOLD, HOLD_ENDED = "hold", "hold-ended"
ANSWER = "answer"
PROVEN, CONTRADICTED = "proven", "contradicted"
VERSION = "version"
# More answers than a phase can have.
MANY = 1000


class Acts(Protocol):
    """Where acts are found: the ledger, or one domain's row of it under its lock."""

    def latest(self, domain: str, kinds: Sequence[str]) -> "ActRecord | None":
        """The newest act of these kinds that was done."""


class History(Acts, Protocol):
    """The ledger."""

    def history(
        self,
        domain: str | None = None,
        limit: int = 30,
        since: datetime | None = None,
        kinds: Sequence[str] | None = None,
    ) -> "list[ActRecord]":
        """The last acts, newest last."""


def paused(acts: Acts, domain: str) -> "ActRecord | None":
    """The pause that holds; a step or a rollback does not end it."""
    return _standing(acts, domain, PAUSE, RESUME)


def drift(acts: Acts, rollout: "Rollout") -> "ActRecord | None":
    """The drift that lasts; where customers have moved since, it is a matter of the past."""
    return _of_now(_standing(acts, rollout.domain, DRIFT, DRIFT_ENDED), rollout)


def proven(acts: Acts, rollout: "Rollout") -> "ActRecord | None":
    """The proof of the step that opened the phase; one that begins anew wants another."""
    return _of_phase(acts.latest(rollout.domain, (PROVEN,)), rollout)


def contradicted(acts: Acts, rollout: "Rollout") -> "ActRecord | None":
    """That customers spoke against this step; whether they still do, a look tells."""
    return _of_phase(acts.latest(rollout.domain, (CONTRADICTED,)), rollout)


def hold(acts: Acts, domain: str) -> "ActRecord | None":
    """Since when an unattended rollout makes no headway."""
    return _standing(acts, domain, HOLD, HOLD_ENDED)


def answers(config: Config, ledger: History, rollout: "Rollout") -> dict[str, AnswerSeen]:
    """The last answer to each question that was given in this phase."""
    if not questions(config, rollout):
        return {}
    given = ledger.history(rollout.domain, MANY, rollout.phase_started_at, (ANSWER,))
    return {act.intent["gate"]: AnswerSeen(act.intent["answer"], told_by(act)) for act in given}


def questions(config: Config, rollout: "Rollout") -> list[str]:
    """The gates of this phase that a person answers, by name."""
    gates = asked(config.gates, rollout.domain, rollout.percentage)
    return [gate.name for gate in gates if gate.kind == "question"]


def told_by(act: "ActRecord") -> str:
    """An answer with who gave it, and when."""
    note = act.intent.get("note")
    said = f"{act.intent['answer']}, said {act.operator} on {act.host} at {moment(act.at)}"
    return f"{said} ({note})" if note else said


def why_paused(act: "ActRecord") -> str:
    """A pause with who made it, when and why."""
    reason = act.intent.get("reason")
    told = f"paused by {act.operator} on {act.host} at {moment(act.at)}"
    return f"{told}: {reason}" if reason else told


def why_drifted(act: "ActRecord") -> str:
    """A drift, since when it was seen, and whoever is known to have made it."""
    told = [*act.intent["told"], *act.intent.get("who", [])]
    return f"{'; '.join(told)}; seen since {act.intent['since']}"


def moment(at: datetime) -> str:
    """A time as every answer writes it."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def span(passed: timedelta) -> str:
    """A length of time for a person: 2 days 3 h, 4 h 5 min, 6 min 7 s, 8 s."""
    seconds = max(int(passed.total_seconds()), 0)
    days, hours = seconds // 86_400, seconds // 3600 % 24
    minutes, rest = seconds // 60 % 60, seconds % 60
    if days:
        return f"{days} day{'s' if days > 1 else ''} {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _standing(acts: Acts, domain: str, begun: str, ended: str) -> "ActRecord | None":
    act = acts.latest(domain, (begun, ended))
    return act if act is not None and act.kind == begun else None


def _of_phase(act: "ActRecord | None", rollout: "Rollout") -> "ActRecord | None":
    act, began = _of_now(act, rollout), rollout.phase_started_at
    return act if act is not None and (began is None or act.at >= began) else None


def _of_now(act: "ActRecord | None", rollout: "Rollout") -> "ActRecord | None":
    return act if act is not None and act.intent.get("epoch") == rollout.epoch else None
