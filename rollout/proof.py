"""The proof of a step: is it the new percentage that is served, and no longer the old one? Pure.

Flags say what gateways were told; customers say what became of it. The bounds of the measured share
are an interval that may be looked at as often as one likes: the shares against which a uniform
mixture of all shares has not yet won 1/ALPHA (Robbins 1970; Ville's inequality). Were the share
asked for the true one, the bounds would ever exclude it with probability ALPHA at most.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from estate.config import Config
from rollout.counters import Window
from rollout.gates import asked
from rollout.phases import Stage
from rollout.seen import Evidence

if TYPE_CHECKING:
    from estate.ledger.records import Rollout

Word = Literal["proven", "contradicted", "open"]
ALPHA = 0.01
# What was under way when the flags changed, and is counted on the side that it had set out for.
UNDER_WAY = 0.005
# Near 0 and 100 % nobody is where nobody should be, but for one in a thousand.
ASTRAY = 0.001
# Of a domain without a `share` gate.
TOLERANCE = 0.05
# So near to what was asked for the bounds have to lie, also where they exclude the one before: 12
# customers of whom 4 were on the new side tell 10 % from nobody, and nothing else.
NEAR = 0.2
# A gateway tells 10,000 shares of customers apart, and meets the last of them late: bounds that are
# not within a narrow tolerance by now would never be.
ENOUGH = 9_000
# Where a gateway counts requests only: as if each customer had brought so many. They are not
# independent of each other, and their number would promise a precision that is not there.
REQUESTS_A_CUSTOMER = 20


@dataclass(frozen=True)
class Proof:
    """What the measured share says of a step. Percent; `before` None: not known.

    customers: different ones that were surely seen; of requests alone, how many they count as
    """

    word: Word
    asked: int
    before: int | None = None
    measured: float | None = None
    low: float | None = None
    high: float | None = None
    customers: int = 0
    reason: str = ""

    @property
    def proven(self) -> bool:
        """Whether it is the percentage asked for."""
        return self.word == "proven"

    def __str__(self) -> str:
        """For a person: the figure, its bounds, and what it rests on."""
        if self.measured is None:
            return "nothing measured yet"
        return (
            f"measured {self.measured:.1f} % "
            f"({self.low:.1f} to {self.high:.1f}, {self.customers:,} customers)"
        )

    @property
    def told(self) -> str:
        """The same with what it means."""
        return f"{self}; {self.asked} % asked: {self.reason}"

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        return cls(**{name: data[name] for name in cls.__dataclass_fields__ if name in data})


def wanted(rollout: "Rollout") -> bool:
    """Whether there is a step to be proven: nobody is on the new side, or all is over, else."""
    return rollout.stage == Stage.LIVE and rollout.percentage > 0


def of(config: Config, rollout: "Rollout", found: Evidence) -> Proof:
    """The proof of the step that opened the present phase, by what was counted since."""
    before = rollout.evidence.get("from")
    return judge(
        rollout.percentage, before, found.window, found.blind, tolerance(config, rollout.domain)
    )


def tolerance(config: Config, domain: str) -> float:
    """That of the domain's `share` gate, or else TOLERANCE; a share."""
    gates = [gate for gate in asked(config.gates, domain, 1) if gate.kind == "share"]
    return next((gate.tolerance for gate in gates if gate.tolerance is not None), TOLERANCE)


def judge(
    percentage: int, before: int | None, window: Window, blind: Mapping[str, str], within: float
) -> Proof:
    """Proven when the bounds hold the percentage asked for, and something besides that means it.

    Namely, that they lie NEAR and exclude the one before; or, where that is near itself, that they
    lie within the tolerance `within` (a share), or that nobody could measure it better, and that
    customers speak for what was asked rather than for what was before. Where that is not known
    the tolerance has to do. Contradicted when they exclude what was asked for.
    """

    def result(word: Word, reason: str, **more: Any) -> Proof:
        return Proof(word, percentage, before, reason=reason, **more)

    number, share = _customers(window), window.share
    if blind:
        told = "; ".join(f"{url}: {why}" for url, why in sorted(blind.items()))
        return result("open", f"not every gateway was seen: {told}")
    if number < 1 or share is None:
        return result("open", "no customer was seen yet")
    low, high = (100 * bound for bound in bounds(share, number))
    seen = {
        "measured": round(100 * share, 2),
        "low": round(low, 2),
        "high": round(high, 2),
        "customers": int(number),
    }
    if not low <= percentage <= high:
        return result("contradicted", "that is not what is served", **seen)
    off = max(percentage - low, high - percentage)
    excluded = before is not None and not low <= before <= high
    if excluded and off <= 100 * max(NEAR, within):
        return result("proven", f"no longer {before} %", **seen)
    odds = math.inf if before is None else _odds(percentage / 100, before / 100, share, number)
    if off <= 100 * within and odds >= math.log(1 / ALPHA):
        return result("proven", f"within {100 * within:g} %", **seen)
    if number >= ENOUGH and odds > 0:
        return result("proven", f"within {off:.1f} %: more customers cannot be told apart", **seen)
    told = "" if before is None or excluded else f" it from {before} %"
    return result("open", f"too few customers to tell{told}", **seen)


def bounds(share: float, number: float) -> tuple[float, float]:
    """Shares that agree with one that was seen among `number` customers, however often one asks."""
    good, bad = share * number, (1 - share) * number
    mixed = math.lgamma(good + 1) + math.lgamma(bad + 1) - math.lgamma(number + 2)
    limit = mixed + math.log(ALPHA)

    def outside(candidate: float) -> bool:
        # A share of 0 or 1 could not have brought what contradicts it.
        likely = good * math.log(candidate) if good else 0.0
        likely += bad * math.log1p(-candidate) if bad else 0.0
        return likely <= limit

    low = _edge(outside, 0.0, share) if good else 0.0
    high = _edge(outside, 1.0, share) if bad else 1.0
    return max(low - UNDER_WAY, 0.0), min(high + UNDER_WAY, 1.0)


def _odds(asked: float, before: float, share: float, number: float) -> float:
    """How much likelier what was seen is with the one share than with the other; its logarithm.

    Were it still the one before, 1/ALPHA would ever be reached with probability ALPHA at most
    (Ville).
    """
    if asked == before:
        return math.inf  # nobody had to move
    asked, before = (min(max(item, ASTRAY), 1 - ASTRAY) for item in (asked, before))
    likelier = share * math.log(asked / before) + (1 - share) * math.log((1 - asked) / (1 - before))
    return number * likelier


def _edge(outside: Callable[[float], bool], out: float, inside: float) -> float:
    """Between a share that is outside and one that is not: where the bounds end."""
    for _ in range(50):
        middle = (out + inside) / 2
        if outside(middle):
            out = middle
        else:
            inside = middle
    return out


def _customers(window: Window) -> float:
    if window.customers is not None:
        return window.customers
    requests = window.side("new").requests + window.side("old").requests
    return requests / REQUESTS_A_CUSTOMER
