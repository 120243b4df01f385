"""The fence: who is under way, who is held, and who may go on.

A `Door` keeps one domain: its flags, the requests under way by bucket and side, and at most one
fence. There is no network here; clock and timer are given, so every case can be played through.

A fence is a lease. While it stands, new requests of its buckets wait at `enter`. It ends
  switched    the flags change and the waiting go on in one step of the event loop,
  released    the waiting go on under the flags as they were,
  expired     nobody renewed the lease: like released, and its switch is refused from then on,
  broken      a rollback or an unfenced change of flags came between: like expired.
A lease that nobody ends may belong to a command that died between two gateways. So shortly before
its end a gateway asks its peers. One that has switched says so, and the asker follows. Any other
promises to take no switch to this epoch any more, as the asker does itself, and asks in its turn
when its own lease ends. So either somebody has switched and all follow, or nobody ever will.
The hold of a rollback is the same thing the other way round: the flags are changed already, and
the buckets that come back wait, never longer than `LONGEST_ROLLBACK_HOLD`.
"""

import math
from collections.abc import Callable, Sequence
from itertools import count

from services.gateway.flags import DomainFlags, Side
from services.gateway.leases import (
    Clock,
    Ended,
    Ending,
    FenceMissing,
    FenceRefused,
    FenceView,
    Lease,
    Timer,
)

LONGEST_ROLLBACK_HOLD = 1.0
# How long before its end a lease's fence asks the peers: a share of the lease, and the longest (s).
ASKING_SHARE, LONGEST_ASKING = 0.2, 1.0
# Ask the peers of this epoch what they decided, within so many seconds; then call `conclude`.
Ask = Callable[["Door", int, Sequence[str], float], None]


class Visit:
    """A request under way. `leave` when its upstream has truly answered, not when we gave up.

    `sides` and `flags` are those of the moment it came in; it stays counted on these sides.
    """

    __slots__ = ("_counted", "_door", "flags", "sides")

    def __init__(self, door: "Door", counted: tuple[tuple[int, Side], ...]) -> None:
        self._door = door
        self._counted = counted
        self.flags = door.flags
        self.sides: tuple[Side, ...] = tuple(side for _, side in counted)

    def leave(self) -> None:
        """Count the request as over. A second call does nothing."""
        counted, self._counted = self._counted, ()
        self._door.left(counted)

    def moved(self, bucket: int, side: Side) -> bool:
        """Whether a bucket is served by another side than this one by now."""
        return self._door.flags.side(bucket) != side

    async def enter_anew(self, *buckets: int) -> None:
        """Leave and come in again: wait at a fence, then be counted on the sides as they are."""
        self.leave()
        again = await self._door.enter(*buckets)
        self._counted, self.flags, self.sides = again._counted, again.flags, again.sides


class Door:
    """One domain's door. Not for use from several threads."""

    def __init__(
        self,
        domain: str,
        flags: DomainFlags,
        clock: Clock,
        timer: Timer,
        ask: Ask = lambda *_: None,
    ) -> None:
        self.domain = domain
        self._ask = ask
        self._closed_to = -1  # no switch to an epoch up to this one
        self.flags = flags
        self.held_total = 0
        self.longest_hold = 0.0
        self._clock = clock
        self._timer = timer
        self._fence: Lease | None = None
        self._ended: Ended | None = None
        self._closed = False
        self._tickets = count()
        self._under_way: dict[Side, dict[int, int]] = {"old": {}, "new": {}}

    # Requests

    async def enter(self, *buckets: int) -> Visit:
        """Wait while any of the buckets is fenced, then count all of them as under way.

        Nothing is counted while waiting, and there is no pause between the last look and the
        count: a fence set later sees the request, a fence set earlier holds it, and a request of
        two buckets never blocks the fence that it waits for.
        """
        if self._fence is not None:
            await self._wait(buckets)
        counted = tuple((bucket, self.flags.side(bucket)) for bucket in buckets)
        for bucket, side in counted:
            here = self._under_way[side]
            here[bucket] = here.get(bucket, 0) + 1
        return Visit(self, counted)

    async def _wait(self, buckets: tuple[int, ...]) -> None:
        began: float | None = None
        ticket = next(self._tickets)
        try:
            while (fence := self._over(buckets)) is not None:
                now = self._clock()
                if began is None:
                    began = now
                    self.held_total += 1
                fence.held_requests += 1
                fence.waiting[ticket] = now
                try:
                    await fence.released.wait()
                finally:
                    since = fence.waiting.pop(ticket)
                    # A fence that has ended has counted those who waited for it.
                    if not fence.released.is_set():
                        fence.longest = max(fence.longest, self._clock() - since)
        finally:
            if began is not None:
                self.longest_hold = max(self.longest_hold, self._clock() - began)

    def _over(self, buckets: tuple[int, ...]) -> Lease | None:
        fence = self._standing()
        if fence is not None and any(fence.low <= bucket < fence.high for bucket in buckets):
            return fence
        return None

    def left(self, counted: tuple[tuple[int, Side], ...]) -> None:
        """Take requests off the count: pairs of bucket and the side they were counted on."""
        for bucket, side in counted:
            here = self._under_way[side]
            if here[bucket] == 1:
                del here[bucket]
            else:
                here[bucket] -= 1

    def in_flight(self, side: Side) -> int:
        """Requests under way on a side, all buckets."""
        return sum(self._under_way[side].values())

    def _in_range(self, low: int, high: int) -> int:
        # Both sides count: whoever still writes to these buckets must end before they move.
        return sum(
            number
            for here in self._under_way.values()
            for bucket, number in here.items()
            if low <= bucket < high
        )

    # Fences

    def fence(
        self, epoch: int, low: int, high: int, lease: float, peers: Sequence[str] = ()
    ) -> FenceView:
        """Hold new requests of buckets low <= b < high for `lease` seconds.

        `peers` are the gateways that get the same fence. The same fence again renews the lease.
        Raises FenceRefused.
        """
        if self._closed:
            raise FenceRefused("this gateway is shutting down")
        standing = self._standing()
        if standing is not None:
            same = (standing.epoch, standing.low, standing.high) == (epoch, low, high)
            if standing.returning or not same or epoch <= self._closed_to:
                raise FenceRefused(
                    f"a fence of epoch {standing.epoch} over buckets"
                    f" {standing.low}..{standing.high} stands"
                )
            self._renew(standing, lease)
            return self._view(standing)
        if epoch <= self.flags.epoch:
            raise FenceRefused(f"epoch {epoch} is not above the served epoch {self.flags.epoch}")
        if epoch <= self._closed_to:
            raise FenceRefused(f"epoch {epoch} was given up")
        fence = Lease(epoch, low, high, self._clock() + lease, returning=False, peers=peers)
        return self._view(self._set(fence))

    def view(self) -> FenceView:
        """The fence or rollback hold that stands. Raises FenceMissing."""
        fence = self._standing()
        if fence is None:
            raise FenceMissing(f"no fence on {self.domain}")
        return self._view(fence)

    def confirm(self, epoch: int, lease: float) -> FenceView:
        """Renew the lease; says that nobody of this epoch has passed. Raises FenceRefused."""
        fence = self._of_step(epoch)
        self._renew(fence, lease)
        return self._view(fence)

    def switch(self, flags: DomainFlags) -> Ended:
        """Set the flags and let the held requests go on, in one step.

        The same switch again gives the same answer. Raises FenceRefused when the fence of this
        epoch is gone (requests may have passed), or does not cover every bucket that moves.
        """
        if flags == self.flags:
            ended = self._ended
            if ended is not None and ended.epoch == flags.epoch and ended.how == "switched":
                return ended
            return Ended(flags.epoch, "switched", 0, 0)
        if flags.epoch <= self.flags.epoch:
            raise FenceRefused(
                f"epoch {self.flags.epoch} is served, at {self.flags.percentage} percent"
            )
        fence = self._of_step(flags.epoch)
        low, high = sorted((self.flags.new_below, flags.new_below))
        if low < high and not (fence.low <= low and high <= fence.high):
            raise FenceRefused(
                f"buckets {low}..{high} would move, the fence covers {fence.low}..{fence.high}"
            )
        self.flags = flags
        return self._end(fence, "switched")

    def release(self, epoch: int) -> Ended:
        """Let the held requests go on under the flags as they are. Raises FenceMissing."""
        fence = self._standing()
        if fence is None or fence.epoch != epoch:
            raise FenceMissing(f"no fence of epoch {epoch} on {self.domain}")
        return self._end(fence, "released")

    def ended(self, epoch: int) -> Ended | None:
        """How the fence of this epoch ended, if it was the last one."""
        return self._ended if self._ended is not None and self._ended.epoch == epoch else None

    # What becomes of an epoch whose command has died

    def settle(self, epoch: int) -> DomainFlags:
        """A peer's question: the flags served here. From now on no switch to the epoch is taken."""
        self._closed_to = max(self._closed_to, epoch)
        return self.flags

    def conclude(self, epoch: int, answers: Sequence[DomainFlags]) -> None:
        """The peers' answers: follow one that has switched, else let the held go on unswitched.

        A peer that did not answer has most likely died, and then serves nobody.
        """
        newest = max(answers, key=lambda flags: flags.epoch, default=self.flags)
        if newest.epoch >= epoch and newest.epoch > self.flags.epoch:
            fence = self._standing()
            self.flags = newest
            if fence is not None:
                self._end(fence, "switched" if fence.epoch == newest.epoch else "broken")
            return
        fence = self._standing()
        if fence is not None and fence.epoch == epoch and not fence.returning:
            self._end(fence, "expired")

    def _put_question(self, fence: Lease) -> None:
        fence.asked = True
        self._closed_to = max(self._closed_to, fence.epoch)
        left = max(fence.expires_at - self._clock(), 0.0)
        self._ask(self, fence.epoch, fence.peers, left)

    # Flags without a fence

    def set_flags(self, flags: DomainFlags) -> None:
        """Serve these flags at once. A fence that stands is broken. Raises FenceRefused."""
        if flags.epoch < self.flags.epoch:
            raise FenceRefused(
                f"epoch {flags.epoch} is older than the served epoch {self.flags.epoch}"
            )
        fence = self._standing()
        self.flags = flags
        if fence is not None:
            self._end(fence, "broken")

    def rollback(self, epoch: int, percentage: int, hold: float) -> FenceView:
        """Serve the lower percentage at once and hold the buckets that come back.

        They wait until `release`, at most `hold` seconds (never more than the limit above), and
        are then served by the old side. The same rollback again changes nothing. A further one
        while the first still holds adds its buckets to that hold and does not prolong it.
        Raises FenceRefused for an older epoch, or for a percentage above the present one.
        """
        before, standing = self.flags, self._standing()
        if epoch < before.epoch or percentage > before.percentage:
            raise FenceRefused(
                f"epoch {before.epoch} is served, at {before.percentage} percent:"
                f" cannot roll back to {percentage} percent under epoch {epoch}"
            )
        if epoch == before.epoch:
            if percentage != before.percentage:
                raise FenceRefused(
                    f"epoch {epoch} is served, at {before.percentage} percent: use a higher epoch"
                )
            if standing is not None and standing.epoch == epoch:
                return self._view(standing)
        after = DomainFlags(before.enabled, percentage, epoch)
        low, high = after.new_below, before.new_below
        self.flags = after
        if standing is not None and standing.returning:
            standing.epoch, standing.low = epoch, min(standing.low, low)
            standing.high = max(standing.high, high)
            return self._view(standing)
        if standing is not None:
            self._end(standing, "broken")
        hold = min(hold, LONGEST_ROLLBACK_HOLD)
        if self._closed or low >= high or hold <= 0:
            return FenceView(epoch, low, high, "released", self._in_range(low, high), 0, 0)
        fence = Lease(epoch, low, high, self._clock() + hold, returning=True)
        return self._view(self._set(fence))

    def close(self) -> None:
        """Release what is held and accept no further fence: the gateway is going down."""
        self._closed = True
        if self._fence is not None:
            self._end(self._fence, "released")

    # Inside

    def _standing(self) -> Lease | None:
        # The timer may be late when the loop was busy; the lease is over all the same.
        fence = self._fence
        if fence is not None and self._clock() >= fence.expires_at:
            self._end(fence, "expired")
            return None
        return fence

    def _of_step(self, epoch: int) -> Lease:
        fence = self._standing()
        if fence is None or fence.epoch != epoch or fence.returning:
            last = self.ended(epoch)
            what = last.how if last is not None else "unknown"
            raise FenceRefused(f"the fence of epoch {epoch} does not stand: {what}")
        if epoch <= self._closed_to:
            raise FenceRefused(
                f"the lease of epoch {epoch} ends: its gateways agree without a step"
            )
        return fence

    def _set(self, fence: Lease) -> Lease:
        self._fence = fence
        self._arm(fence)
        return fence

    def _renew(self, fence: Lease, lease: float) -> None:
        fence.expires_at = self._clock() + lease
        self._arm(fence)

    def _arm(self, fence: Lease) -> None:
        """Set the timers of a lease: its end, and before that the question to the peers."""
        fence.silence()
        left = fence.expires_at - self._clock()
        fence.alarm = self._timer(left, lambda: self._rang(fence))
        if fence.peers:
            before = min(left * ASKING_SHARE, LONGEST_ASKING)
            fence.question = self._timer(left - before, lambda: self._due(fence))

    def _due(self, fence: Lease) -> None:
        if self._fence is fence:
            self._put_question(fence)

    def _rang(self, fence: Lease) -> None:
        if self._fence is fence:
            self._end(fence, "expired")

    def _end(self, fence: Lease, how: Ending) -> Ended:
        fence.silence()
        if fence.waiting:
            oldest = next(iter(fence.waiting.values()))
            fence.longest = max(fence.longest, self._clock() - oldest)
        longest = math.ceil(round(fence.longest * 1000, 3))
        self._ended = Ended(fence.epoch, how, fence.held_requests, longest)
        self._fence = None
        fence.released.set()
        if how == "expired" and fence.peers and not fence.asked:
            # This gateway stood still over the end of its lease: better late than never.
            self._put_question(fence)
        return self._ended

    def _view(self, fence: Lease) -> FenceView:
        left = max(0, round((fence.expires_at - self._clock()) * 1000))
        under_way = self._in_range(fence.low, fence.high)
        return FenceView(
            fence.epoch, fence.low, fence.high, "holding", under_way, len(fence.waiting), left
        )
