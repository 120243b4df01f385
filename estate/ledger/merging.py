"""Taking in what the journal kept while the ledger was away."""

from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from estate.journal import Entry
from estate.ledger.models import ActRow, RolloutRow
from estate.ledger.records import Rollout
from estate.ledger.rows import rollout_of, save


def take_in(session: Session, entry: Entry) -> None:
    """Bring the ledger to what this entry says; the same entry again changes nothing."""
    ended = {
        "outcome": entry.outcome,
        "finished_at": entry.finished_at or entry.at,
        "state": entry.state,
    }
    if entry.act_id is not None:
        # The intent stands in the ledger; only its end is missing.
        session.execute(
            update(ActRow)
            .where(ActRow.id == entry.act_id, ActRow.state == "intended")
            .values(**ended)
        )
    else:
        told = ("at", "operator", "host", "command", "domain", "kind", "intent")
        values = {name: getattr(entry, name) for name in told}
        # The same entry again: it was taken in before, and its file not yet put away.
        session.execute(
            insert(ActRow)
            .values(**values, **ended, journal_id=entry.id)
            .on_conflict_do_nothing(index_elements=[ActRow.journal_id])
        )
    if entry.domain is not None and entry.rollout is not None:
        _settle(session, entry.domain, entry)


def _settle(session: Session, domain: str, entry: Entry) -> None:
    """Where the domain stands after a journalled act, unless something later is known."""
    row = session.get(RolloutRow, domain, with_for_update=True)
    known = rollout_of(row) if row else Rollout(domain)
    told = entry.rollout or {}
    if int(told.get("epoch", 0)) <= known.epoch:
        return
    moved = entry.finished_at or entry.at
    save(
        session,
        Rollout(
            domain=domain,
            stage=str(told.get("stage", known.stage)),
            percentage=int(told["percentage"]),
            phase=int(told.get("phase", -1)),
            phase_started_at=moved,
            moved_at=moved,
            epoch=int(told["epoch"]),
        ),
    )
