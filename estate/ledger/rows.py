"""Between the ledger's rows and the records that leave it."""

from dataclasses import asdict
from datetime import datetime

from sqlalchemy import func
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from estate.ledger.models import ActRow, RolloutRow
from estate.ledger.records import ActRecord, Rollout


class Change:
    """One domain's row, locked. `now` is the ledger's clock."""

    def __init__(self, session: Session, rollout: Rollout | None, now: datetime) -> None:
        self._session, self.rollout, self.now = session, rollout, now

    def save(self, rollout: Rollout) -> None:
        """Write it back."""
        save(self._session, rollout)


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


def rollout_of(row: RolloutRow) -> Rollout:
    """The record of a row."""
    return Rollout(**{name: getattr(row, name) for name in Rollout.__dataclass_fields__})


def act_of(row: ActRow) -> ActRecord:
    """The record of a row."""
    return ActRecord(**{name: getattr(row, name) for name in ActRecord.__dataclass_fields__})
