"""Sync as a whole: switching it on and off. How it stands and its end are part of this API too."""

from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, LiteralString

import psycopg

from estate.config import Config
from estate.connections import connect
from estate.errors import ExitCode, SplitctlError
from migrator import control, ownership, publication, readiness, sequences, slots, states
from migrator.mapping import Stream, streams
from migrator.status import StreamStatus, status
from migrator.teardown import Removed, teardown

__all__ = [
    "Disabled",
    "Enabled",
    "Removed",
    "StreamStatus",
    "disable",
    "enable",
    "status",
    "teardown",
]

Connection = psycopg.Connection[Any]
PROGRESS: LiteralString = "SELECT 1 FROM splitctl_sync.progress WHERE stream = %s"
START: LiteralString = """
INSERT INTO splitctl_sync.progress (stream, system_id, timeline, lsn)
VALUES (%s, %s, %s, %s::pg_lsn) ON CONFLICT (stream) DO NOTHING
"""
BACKFILL: LiteralString = """
INSERT INTO splitctl_sync.backfill (stream, mapping) VALUES (%s, %s)
ON CONFLICT (stream, mapping) DO NOTHING
"""
# Our own transaction id, taken when the slot is there: whatever had written by then is below it. (A
# snapshot's end would not do: it lies behind the last *ended* transaction, not behind all running.)
HORIZON: LiteralString = """
INSERT INTO splitctl_sync.slot_horizon (stream, below) VALUES (%s, pg_current_xact_id())
ON CONFLICT (stream) DO NOTHING
"""


class SlotLost(SplitctlError):
    """The slot {slot} is {state} in database '{database}', though stream '{stream}' had begun: what
    was changed since is unknown. Nothing was changed now."""

    hint = "splitctl sync teardown {domain}, then enable, backfill and verify again"
    exit_code = ExitCode.PRECONDITION


class StillCarrying(SplitctlError):
    """Domain '{domain}' cannot be disabled: the new side owns buckets below {new_below}, and
    without sync the way back would be closed. Nothing was changed."""

    hint = "splitctl rollback {domain}, then: splitctl sync disable {domain}"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Enabled:
    """What enable found and made. Everything not named was there already."""

    domain: str
    publications_set: tuple[str, ...]
    slots_created: tuple[str, ...]
    sequences: sequences.SharedOut
    resumed: int
    warnings: tuple[str, ...]

    @property
    def next_command(self) -> str:
        """Carry, then copy; where sync was on before, look how it stands."""
        if self.slots_created:
            return f"splitctl sync run  (as a service), then: splitctl backfill run {self.domain}"
        return "splitctl sync status" if self.resumed else "splitctl status"


@dataclass(frozen=True)
class Disabled:
    """Mappings that now wait, and the keys each stream holds already."""

    domain: str
    mappings_to_spool: int

    @property
    def next_command(self) -> str:
        """The way back on. The worker has to go on meanwhile: it keeps the keys."""
        return f"splitctl sync enable {self.domain}  (leave the worker running until then)"


def enable(config: Config, domain: str) -> Enabled:
    """Switch sync on for a domain, both ways; what is there already stays.

    All checks come first, and all problems are told at once. Then, each step harmless by itself:
    control schema, owner, sequences, publications, slots, positions, mapping states. Raises
    NotReady, SlotBlocked, SlotLost, TableNotPublished, DatabaseUnreachable.
    """
    warnings = readiness.require(config, domain)
    both = streams(config, domain)
    with ExitStack() as stack:
        connections = {
            stream.source.name: stack.enter_context(connect(stream.source, "enable"))
            for stream in both
        }
        for connection in connections.values():
            control.install(connection)
            ownership.create(connection, domain)
        for stream in both:
            _check_slot(connections, stream)
            _check_published(connections, stream)
        shared = sequences.share_out(config, domain)
        published = [
            stream.publication
            for stream in both
            if slots.publish(
                connections[stream.source.name],
                stream.publication,
                list(stream.tables),
                stream.source.name,
            )
        ]
        created = [stream.slot for stream in both if _begin(connections, stream)]
        resumed = 0
        for stream in both:
            target = connections[stream.target.name]
            with target.transaction():
                for mapping in stream.mappings:
                    first = "spool" if stream.direction == "forward" else "live"
                    states.create(target, stream.name, mapping.name, first)
                    if stream.direction == "forward":
                        target.execute(BACKFILL, (stream.name, mapping.name))
                resumed += states.resume(target, stream.name)
    return Enabled(domain, tuple(published), tuple(created), shared, resumed, tuple(warnings))


def _check_slot(connections: dict[str, Connection], stream: Stream) -> None:
    begun = connections[stream.target.name].execute(PROGRESS, (stream.name,)).fetchone()
    slot = slots.find(connections[stream.source.name], stream.slot)
    if begun and (slot is None or slot.lost):
        raise SlotLost(
            slot=stream.slot,
            state="gone" if slot is None else "lost",
            database=stream.source.name,
            stream=stream.name,
            domain=stream.domain.name,
        )


def _check_published(connections: dict[str, Connection], stream: Stream) -> None:
    """A table that was replaced since the stream began has changed unseen: it is no new one."""
    source, target = connections[stream.source.name], connections[stream.target.name]
    known = states.read(target, stream.name)
    begun = [mapping for mapping in stream.mappings if mapping.name in known]
    if begun and slots.published(source, stream.publication):
        publication.check(source, replace(stream, mappings=tuple(begun)))


def _begin(connections: dict[str, Connection], stream: Stream) -> bool:
    """Slot, horizon, position: in this order, so that a kill in between is made good later."""
    source, target = connections[stream.source.name], connections[stream.target.name]
    slot = slots.find(source, stream.slot)
    created = slot is None
    if slot is None:
        slot = slots.create(source, stream.slot, stream.source.name)
    source.execute(HORIZON, (stream.name,))
    identity = slots.identify(stream.source)
    target.execute(START, (stream.name, identity.system_id, identity.timeline, slot.lsn))
    return created


def disable(config: Config, domain: str) -> Disabled:
    """Stop carrying, and lose nothing: changed keys wait in the spool until enable.

    Raises StillCarrying while the new side owns buckets.
    """
    both = streams(config, domain)
    changed = 0
    with ExitStack() as stack:
        connections = {
            stream.target.name: stack.enter_context(connect(stream.target, "disable"))
            for stream in both
        }
        for stream in both:
            target = connections[stream.target.name]
            control.require(target, stream.target.name, domain)
            owner = ownership.read(target, domain)
            if owner is not None and owner.new_below > 0:
                raise StillCarrying(domain=domain, new_below=owner.new_below)
        for stream in both:
            changed += states.spool(connections[stream.target.name], stream.name)
    return Disabled(domain, changed)
