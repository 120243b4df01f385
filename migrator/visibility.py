"""Whether a snapshot already sees the transactions that the log told of (law L3)."""

from collections.abc import Iterable


def widen(xid: int, near: int) -> int:
    """A transaction id of 32 bits as one of 64, next to a 64-bit id of about the same time."""
    candidate = (near & ~0xFFFFFFFF) | xid
    if candidate - near > 1 << 31:
        return candidate - (1 << 32)
    if near - candidate > 1 << 31:
        return candidate + (1 << 32)
    return candidate


def unseen(xids: Iterable[int], snapshot: str) -> set[int]:
    """Which of these 32-bit ids the snapshot (text of pg_snapshot) does not see yet, widened."""
    low, high, running = snapshot.split(":")
    xmin, xmax = int(low), int(high)
    # Nearly all of a large batch lie below everything that runs.
    recent = [xid for xid in xids if (xid - xmin) & 0xFFFFFFFF < 1 << 31]
    inside = {int(number) for number in running.split(",") if number}
    wide = {widen(xid, xmax) for xid in recent}
    return {xid for xid in wide if xid >= xmax or xid in inside}
