"""The next sensible command after those answers of this room that are lists.

Pure: the answer in, a command out. `splitctl status` knows a domain's whole story, so it follows
wherever nothing here asks for more.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from estate.config import Config

if TYPE_CHECKING:
    from migrator.backfill import MappingBackfill
    from migrator.parked import StrayRow, WaitingKey
    from migrator.schema import SchemaApplied, SchemaStatus
    from migrator.status import StreamStatus

STATUS = "splitctl status"
DOCTOR = "splitctl doctor"


def after_schema_apply(config: Config, done: "Sequence[SchemaApplied]") -> str:
    """New tables want to be filled; changed ones may no longer fit their mappings."""
    made = {item.database for item in done if item.before is None and item.applied}
    for domain in config.domains.values():
        if domain.new in made:
            return f"splitctl sync enable {domain.name}"
    return DOCTOR if any(item.applied for item in done) else STATUS


def after_schema_status(found: "Sequence[SchemaStatus]") -> str:
    """Apply what is pending: to the one database that was asked for, or to all."""
    if not found:
        return DOCTOR
    if all(item.up_to_date for item in found):
        return STATUS
    return "splitctl schema apply" + (f" {found[0].database}" if len(found) == 1 else "")


def after_sync_status(found: "Sequence[StreamStatus]") -> str:
    """What is unknown first, then what stands still, then what waits."""
    if any(stream.enabled is None for stream in found):
        return DOCTOR
    for stream in found:
        if stream.problem:
            return f"splitctl sync enable {_domain(stream.stream)}"  # it names the way out
    enabled = [stream for stream in found if stream.enabled]
    if not enabled:
        return f"splitctl sync enable {_domain(found[0].stream)}"
    if not all(stream.worker_alive for stream in enabled):
        return "splitctl sync run"
    if any(set(stream.states.values()) - {"live"} for stream in enabled):
        return "splitctl backfill status"
    for stream in enabled:
        if stream.strays:
            return f"splitctl sync strays {_domain(stream.stream)}"
    for stream in enabled:
        if stream.waiting:
            return f"splitctl sync waiting {_domain(stream.stream)}"
    return STATUS


def after_strays(found: "Sequence[StrayRow]") -> str:
    """Who has looked at them says so; nothing to look at: how it stands."""
    left = [item for item in found if item.settled_at is None]
    if not left:
        return STATUS
    return f"splitctl sync settle {left[0].stray} --keep owner  (or stray; look at both first)"


def after_waiting(found: "Sequence[WaitingKey]") -> str:
    """What waits is tried again by itself; what the target refuses needs somebody to see to it."""
    from migrator.parked import REFUSED

    if any(item.reason == REFUSED for item in found):
        return "splitctl sync waiting  (again, when the target takes what it refuses now)"
    return "splitctl sync waiting  (again: it goes on by itself)" if found else STATUS


def after_backfill_status(config: Config, found: "Sequence[MappingBackfill]") -> str:
    """The first domain whose copy is not whole, not let go, or not caught up."""
    if not found:
        return f"splitctl sync enable {next(iter(config.domains))}"
    for mapping in found:
        domain = _domain(mapping.mapping)
        if mapping.held_by == "paused":
            return f"splitctl backfill resume {domain}"
        if mapping.copy != "copied":
            return f"splitctl backfill run {domain}"
        if mapping.sync == "spool":
            return f"splitctl sync enable {domain}"
    if any(mapping.sync != "live" for mapping in found):
        return "splitctl sync status"
    return "splitctl verify run"


def _domain(name: str) -> str:
    """The domain of a stream or of a mapping."""
    return name.split(".", 1)[0]
