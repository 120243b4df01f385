"""What one share may be, by a sample of it. Pure.

`lean` may be asked as often as one likes. A mixture of all bets on the share (Robbins 1970; here
weighted by Jeffreys' Beta(1/2, 1/2)) is paid against the share that is doubted:

    integral of q^good (1 - q)^bad dBeta(q)  /  share^good (1 - share)^bad

If that share is the true one this is a martingale that begins at 1, so it reaches 1/alpha at any
time at all with probability alpha at most (Ville's inequality). It depends on nothing but the two
counts: so it does not matter when, how often, or by whom they were looked at. A sample may also
count in part, with a value between 0 and 1: that never pays more.
"""

import math
from collections.abc import Callable

# Halvings of a bracket that is as wide as a share can be: to the last digit that counts.
HALVINGS = 50


def lean(good: float, number: float, share: float) -> float:
    """Evidence against a share that lies between 0 and 1: the logarithm of an e-value."""
    bad = number - good
    mixed = math.lgamma(good + 0.5) + math.lgamma(bad + 0.5) - math.lgamma(number + 1)
    return mixed - math.log(math.pi) - good * math.log(share) - bad * math.log1p(-share)


def exceeds(good: float, number: float, share: float, alpha: float) -> bool:
    """Whether the true share is proven to lie above `share`.

    If it does not, this is ever true with probability `alpha` at most.
    """
    return good > share * number and lean(good, number, share) >= -math.log(alpha)


def around(share: float, number: float, alpha: float) -> tuple[float, float | None]:
    """The lowest and the highest share of a sample that still agree with a true one.

    With probability 1 - alpha no sample is ever outside. The highest is None where even a sample
    that holds nothing else agrees; the lowest is 0 likewise.
    """
    level = -math.log(alpha)

    def outside(observed: float) -> bool:
        return lean(observed * number, number, share) >= level

    low = _edge(outside, share, 0.0) if outside(0.0) else 0.0
    return low, _edge(outside, share, 1.0) if outside(1.0) else None


def wilson(share: float, number: float, z: float) -> tuple[float, float]:
    """Bounds for a share that was observed among `number` (Wilson's score interval)."""
    spread = z * z / number
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / number + spread / (4 * number))
    return middle - half, middle + half


def _edge(outside: Callable[[float], bool], inside: float, beyond: float) -> float:
    """Where being outside begins: between a value inside and one beyond."""
    for _ in range(HALVINGS):
        middle = (inside + beyond) / 2
        if outside(middle):
            beyond = middle
        else:
            inside = middle
    return beyond
