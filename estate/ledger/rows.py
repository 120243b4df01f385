"""Between the ledger's rows and the records that leave it."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from estate.ledger.models import ActRow, RolloutRow, VerdictRow
from estate.ledger.records import ActRecord, Rollout, VerdictRecord

# By their end: what was kept in a journal comes late, and an act may stand within another.
NEWEST_FIRST = (ActRow.finished_at.desc(), ActRow.id.desc())


@dataclass(frozen=True)
class Author:
    """Who writes into the ledger, from where, with which command."""

    operator: str
    host: str
    command: str


class Change:
    """One domain's row, locked. `now` is the ledger's clock."""

    def __init__(
        self, session: Session, rollout: Rollout | None, now: datetime, author: Author
    ) -> None:
        self._session, self.rollout, self.now, self._author = session, rollout, now, author

    def save(self, rollout: Rollout) -> None:
        """Write it back."""
        save(self._session, rollout)

    def latest(self, domain: str, kinds: Sequence[str]) -> ActRecord | None:
        """The newest act of these kinds that was done."""
        return latest(self._session, domain, kinds)

    def begin(self, domain: str, kind: str, intent: Mapping[str, Any]) -> ActRecord:
        """Write an intent down; it is durable when the change ends."""
        return write(self._session, self._author, domain, kind, intent)

    def record(
        self, domain: str, kind: str, intent: Mapping[str, Any], outcome: Mapping[str, Any]
    ) -> ActRecord:
        """Write an act down that is done by being written."""
        return write(self._session, self._author, domain, kind, intent, outcome)


def save(session: Session, rollout: Rollout) -> None:
    """Write where a domain stands, unless something of a later epoch is there."""
    values = {**asdict(rollout), "updated_at": func.clock_timestamp()}
    changed = {name: value for name, value in values.items() if name != "domain"}
    session.execute(
        insert(RolloutRow)
        .values(**values)
        .on_conflict_do_update(
            index_elements=[RolloutRow.domain],
            set_=changed,
            # A rollback waits for nobody: a step that it overtook must not write over it.
            where=RolloutRow.epoch <= rollout.epoch,
        )
    )


def write(
    session: Session,
    author: Author,
    domain: str | None,
    kind: str,
    intent: Mapping[str, Any],
    outcome: Mapping[str, Any] | None = None,
) -> ActRecord:
    """A new act: an intent, or one that is done already when it has an outcome."""
    row = ActRow(
        **asdict(author),
        domain=domain,
        kind=kind,
        intent=dict(intent),
        outcome=None if outcome is None else dict(outcome),
        state="intended" if outcome is None else "done",
        finished_at=None if outcome is None else func.clock_timestamp(),
    )
    session.add(row)
    session.flush()
    session.refresh(row)
    return act_of(row)


def latest(session: Session, domain: str, kinds: Sequence[str]) -> ActRecord | None:
    """The newest act of these kinds that was done."""
    wanted = (ActRow.domain == domain, ActRow.kind.in_(kinds), ActRow.state == "done")
    query = select(ActRow).where(*wanted).order_by(*NEWEST_FIRST).limit(1)
    row = session.scalars(query).first()
    return act_of(row) if row else None


def rollout_of(row: RolloutRow) -> Rollout:
    """The record of a row."""
    return Rollout(**{name: getattr(row, name) for name in Rollout.__dataclass_fields__})


def act_of(row: ActRow) -> ActRecord:
    """The record of a row."""
    return ActRecord(**{name: getattr(row, name) for name in ActRecord.__dataclass_fields__})


def verdict_of(row: VerdictRow, age_s: float) -> VerdictRecord:
    """The record of a row that was read so many seconds after it was written."""
    names = ("at", "started_at", "domain", "kind", "name", "verdict", "data")
    return VerdictRecord(**{name: getattr(row, name) for name in names}, age_s=float(age_s))
