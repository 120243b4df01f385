"""A sequential test of two shares that may be looked at as often as one likes. Pure.

Turner, Ly and Grünwald, "Generic E-variables for exact sequential k-sample tests that allow for
optional stopping" (2022), and Turner and Grünwald, "Exact anytime-valid confidence intervals for
contingency tables and beyond" (2023). Samples come in blocks. Before a block's outcomes are seen, a
bet is made on two shares, made of earlier blocks alone; the block pays

    p(outcomes | the bet) / p(outcomes | the null's point that is nearest to the bet)

where nearest is by relative entropy, weighted by the block's samples. The log of what is expected
under shares (a, b) is concave in them, and its slope at the nearest point is minus that of the
entropy, which falls nowhere in a convex null: so no shares of a convex null, not only that
point, let the block pay more than 1 on average. The payments multiply to an e-value; a null that is
true lets it reach 1/alpha at any time at all with probability alpha at most (Ville's inequality).
How many samples a block has may depend on anything but its own outcomes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any, Self

# A block is closed with so many samples of each cohort: a block that holds one cohort alone pays
# nothing, and one of few samples pays a share of 1/samples less.
LEAST = 10
# A plan speaks of what happens four times in five.
POWER = 0.8
# What it costs in samples to learn the rate on the way, by simulation: 2 to 7 %.
LEARNING = 1.04
# A bet on certainty could lose everything at once.
SUREST = 0.999
NORMAL = NormalDist()


@dataclass(frozen=True)
class Sample:
    """So many subjects, and how many of them were good."""

    number: int = 0
    good: int = 0

    def __add__(self, other: "Sample") -> "Sample":
        return Sample(self.number + other.number, self.good + other.good)

    @property
    def share(self) -> float | None:
        """The share of good ones; None without any."""
        return self.good / self.number if self.number else None


@dataclass(frozen=True)
class Block:
    """Samples of both cohorts: the one that is judged and the one it is compared with."""

    new: Sample = Sample()
    old: Sample = Sample()

    def __add__(self, other: "Block") -> "Block":
        return Block(self.new + other.new, self.old + other.old)


@dataclass(frozen=True)
class Trial:
    """Two tests of one question, whether the new cohort's share fell by `drop` (relative) or more.

    `log_drop` is evidence against "it did not fall", `highest` the most there ever was of it;
    `log_sound` is evidence against "it fell by `drop` at least". All are natural logarithms of
    e-values. `total` is what they rest on, `open` a block that is not closed yet.
    """

    drop: float
    total: Block = field(default_factory=Block)
    open: Block = field(default_factory=Block)
    log_drop: float = 0.0
    highest: float = 0.0
    log_sound: float = 0.0

    def advanced(self, seen: Block) -> "Trial":
        """The trial after more samples. The first block only teaches what to bet on."""
        block = self.open + seen
        if min(block.new.number, block.old.number) < LEAST:
            return replace(self, open=block)
        closed = replace(self, total=self.total + block, open=Block())
        known = self.total.new + self.total.old
        if not known.number:
            return closed
        rate = (known.good + 0.5) / (known.number + 1)
        log_drop = self.log_drop + paid(block, *fallen(rate, self.drop, block), 1.0)
        log_sound = self.log_sound + paid(block, rate, rate, 1 - self.drop)
        highest = max(self.highest, log_drop)
        return replace(closed, log_drop=log_drop, highest=highest, log_sound=log_sound)

    def proven(self, alpha: float) -> bool:
        """Whether it fell: wrong in a share `alpha` of all rollouts at most, whenever one asks."""
        return self.highest >= -math.log(alpha)

    def excluded(self, beta: float) -> bool:
        """Whether it did not fall by `drop`: wrong with probability `beta` at most."""
        return self.log_sound >= -math.log(beta)

    def to_json(self) -> dict[str, Any]:
        """Plain data for the ledger."""
        return {
            "drop": self.drop,
            "total": _numbers(self.total),
            "open": _numbers(self.open),
            "log_drop": self.log_drop,
            "highest": self.highest,
            "log_sound": self.log_sound,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """What `to_json` gave."""
        logs = (float(data[name]) for name in ("log_drop", "highest", "log_sound"))
        return cls(float(data["drop"]), _block(data["total"]), _block(data["open"]), *logs)


def fallen(rate: float, drop: float, block: Block) -> tuple[float, float]:
    """Shares (new, old) that lie `drop` apart and are `rate` on average over a block."""
    whole = block.new.number + block.old.number
    mean = (block.new.number * (1 - drop) + block.old.number) / whole
    old = min(rate / mean, SUREST)
    return (1 - drop) * old, old


def nearest(block: Block, new: float, old: float, ratio: float) -> tuple[float, float]:
    """The shares with new = ratio * old that are nearest to these, weighted by a block's samples.

    Root of a quadratic: Farrington and Manning (1990), for a ratio of two shares.
    """
    n, m = block.new.number, block.old.number
    square = ratio * (n + m)
    linear = n * (ratio + new) + m * (1 + ratio * old)
    constant = n * new + m * old
    # The smaller root, in the form that does not subtract two nearly equal numbers.
    root = 2 * constant / (linear + math.sqrt(max(linear * linear - 4 * square * constant, 0.0)))
    return ratio * root, root


def paid(block: Block, new: float, old: float, ratio: float) -> float:
    """What a block pays who bet on these shares, against new = ratio * old; as a logarithm."""
    null = nearest(block, new, old, ratio)
    return _against(block.new, new, null[0]) + _against(block.old, old, null[1])


def _against(sample: Sample, bet: float, null: float) -> float:
    bad = sample.number - sample.good
    return sample.good * math.log(bet / null) + bad * math.log((1 - bet) / (1 - null))


# Power


def to_see(rate: float, drop: float, share: float, alpha: float) -> int:
    """Subjects of both cohorts after which a drop is proven with probability POWER.

    rate: the old cohort's share of good ones, between 0 and 1; share: the new cohort's share of
    the subjects, likewise.
    """
    return _needed(share, rate * (1 - drop), rate, 1.0, alpha)


def to_pass(rate: float, drop: float, share: float, beta: float) -> int:
    """Subjects after which such a drop is excluded with probability POWER, if there is none."""
    return _needed(share, rate, rate, 1 - drop, beta)


def _needed(share: float, new: float, old: float, ratio: float, error: float) -> int:
    """By the first passage of a Brownian motion with the mean and variance that a subject pays.

    It is looked at from block to block only, and so passes a level that is higher by 0.583
    standard deviations of a block (Siegmund, "Sequential Analysis", 1985, chapter X).
    """
    weights = share, 1 - share
    scaled = Block(*(Sample(round(weight * 10**6)) for weight in weights))
    null = nearest(scaled, new, old, ratio)
    mean = variance = 0.0
    for weight, true, held in zip(weights, (new, old), null, strict=True):
        good, bad = math.log(true / held), math.log((1 - true) / (1 - held))
        mean += weight * (true * good + (1 - true) * bad)
        variance += weight * true * (1 - true) * (good - bad) ** 2
    size = LEAST / min(weights)
    level = -math.log(error) + 0.583 * math.sqrt(variance * size)
    few, many = 0.0, 1.0
    while _reached(mean, variance, level, many) < POWER:
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) / 2
        if _reached(mean, variance, level, middle) < POWER:
            few = middle
        else:
            many = middle
    return math.ceil(LEARNING * many + size)  # the first block only teaches


def _reached(mean: float, variance: float, level: float, subjects: float) -> float:
    """The chance that a Brownian motion has reached a level by then (inverse Gaussian)."""
    spread = math.sqrt(variance * subjects)
    beyond = NORMAL.cdf((mean * subjects - level) / spread)
    returned = NORMAL.cdf(-(mean * subjects + level) / spread)
    return beyond + math.exp(2 * mean * level / variance) * returned


def _numbers(block: Block) -> list[int]:
    return [block.new.number, block.new.good, block.old.number, block.old.good]


def _block(numbers: list[int]) -> Block:
    return Block(Sample(*numbers[:2]), Sample(*numbers[2:]))
