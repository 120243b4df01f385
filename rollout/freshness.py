"""Keeps the verification of domains as fresh as their gates want it, while something else is done.

Nothing of it is remembered: whether one is due stands in the ledger, whoever made the last one.
Where customers move one that is under way ends: what began before is no evidence for what comes
after.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from estate.config import Config
from estate.ledger import Ledger, Rollout
from rollout import preconditions
from rollout.backoff import Backoff
from rollout.evidence import trusted
from rollout.verifying import Running, Verifications

log = logging.getLogger(__name__)

# From the end of one to the beginning of the next, whatever is due.
SHORTEST_PAUSE_S = 10.0
LONGEST_PAUSE_S = 600.0
# Beside the time that it takes: to begin, and to be seen.
MARGIN_S = 30.0


@dataclass
class _Kept:
    """What is remembered of a domain. `epoch`: where its customers were when the last one began."""

    backoff: Backoff
    running: Running | None = None
    epoch: int = 0


class Keeper:
    """Keeps the verification of domains as fresh as their gates want it.

    on_change gets a line when one begins and when it ends
    """

    def __init__(
        self, config: Config, verifications: Verifications, on_change: Callable[[str], None]
    ) -> None:
        self._config, self._verifications, self._say = config, verifications, on_change
        self._kept: dict[str, _Kept] = {}
        self._ending: list[Running] = []

    def keep(self, domain: str, row: Rollout | None, ledger: Ledger, clock: float) -> None:
        """Begin one if it is due, see to one that runs. Waits for nothing.

        Raises LedgerUnreachable.
        """
        kept = self._kept_of(domain, row, clock)
        due = self._due(domain, row, ledger)
        if kept.running is not None:
            self._see(domain, kept, kept.running, due, clock)
        elif due and clock >= kept.backoff.not_before and not self._busy():
            self._begin(domain, kept, clock, due)

    def see_to(self, domain: str, row: Rollout | None, ledger: Ledger, clock: float) -> None:
        """See to one that runs, and begin none. Waits for nothing. Raises LedgerUnreachable."""
        kept = self._kept_of(domain, row, clock)
        if kept.running is not None:
            self._see(domain, kept, kept.running, self._due(domain, row, ledger), clock)

    def _kept_of(self, domain: str, row: Rollout | None, clock: float) -> _Kept:
        """What is remembered; one that began before customers moved ends."""
        kept = self._kept.setdefault(domain, _Kept(_backoff(clock)))
        epoch = row.epoch if row is not None else 0
        if kept.epoch != epoch:
            self._end(kept)
            kept.backoff, kept.epoch = _backoff(clock), epoch
        return kept

    def running(self, domain: str) -> bool:
        """Whether one is under way."""
        kept = self._kept.get(domain)
        return kept is not None and kept.running is not None

    def _busy(self) -> bool:
        """One at a time, whatever the domains: they share databases, which others use too."""
        running = (kept.running for kept in self._kept.values())
        return any(item is not None and item.outcome() is None for item in running)

    def stop(self, domain: str) -> None:
        """No more of it: what it would find is of no use any more. Waits for nothing."""
        self._end(self._kept.get(domain))

    def close(self) -> None:
        """End all, and see that they have ended."""
        for kept in self._kept.values():
            self._end(kept)
        for running in self._ending:
            running.close()
        self._ending.clear()

    def _due(self, domain: str, row: Rollout | None, ledger: Ledger) -> str:
        """Why one is due; empty when none is."""
        lack = preconditions.verdict_lack(self._config, domain, row, ledger)
        if lack:
            return lack
        record = trusted(ledger, domain)
        assert record is not None  # it lacks nothing
        takes_s = (record.at - record.started_at).total_seconds()
        limit = preconditions.fresh_for(self._config, domain)
        return "the last verification gets old" if ages(record.age_s, takes_s, limit) else ""

    def _begin(self, domain: str, kept: _Kept, clock: float, due: str) -> None:
        try:
            kept.running = self._verifications.begin(domain)
        except OSError as error:
            self._failed(domain, kept, f"it could not be started: {error}", clock)
        else:
            self._say(f"{domain}: a verification begins: {due}")

    def _see(self, domain: str, kept: _Kept, running: Running, due: str, clock: float) -> None:
        outcome = running.outcome()
        if outcome is None:
            if not due:
                # Somebody else's; both would find the same.
                self._end(kept)
                self._say(f"{domain}: a verification of somebody else is fresh: ours has ended")
            return
        running.close()
        kept.running = None
        if outcome.verdict == "equal":
            kept.backoff = _backoff(clock)
            kept.backoff.not_before = clock + SHORTEST_PAUSE_S
            self._say(f"{domain}: verified: equal")
        elif outcome.verdict == "different":
            # It does not go away by asking again, and a person may need hours to mend it.
            pause = kept.backoff.wait(clock)
            self._say(f"{domain}: verified: different; again in {pause:.0f} s")
        else:
            told = f"{outcome.verdict}: {outcome.reason}" if outcome.verdict else outcome.reason
            self._failed(domain, kept, told, clock)

    def _failed(self, domain: str, kept: _Kept, why: str, clock: float) -> None:
        pause = kept.backoff.wait(clock)
        log.warning("%s: not verified: %s", domain, why)
        self._say(f"{domain}: not verified ({why.rstrip('.')}); again in {pause:.0f} s")

    def _end(self, kept: _Kept | None) -> None:
        if kept is None or kept.running is None:
            return
        kept.running.end()
        # Those that ended since are let go; one that does not is, when all is over.
        over = [running for running in self._ending if running.outcome() is not None]
        for running in over:
            running.close()
        self._ending = [item for item in self._ending if item not in over] + [kept.running]
        kept.running = None


def ages(age_s: float, takes_s: float, limit: timedelta) -> bool:
    """Whether it is time for the next, so that it is there before the last one is too old.

    Never before half of the time has passed: the source is there for others.
    """
    limit_s = limit.total_seconds()
    return age_s >= max(limit_s / 2, limit_s - 2 * takes_s - MARGIN_S)


def _backoff(clock: float) -> Backoff:
    return Backoff(SHORTEST_PAUSE_S, LONGEST_PAUSE_S, clock)
