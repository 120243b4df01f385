"""Two contestants, by turns: only ratios within one run mean anything on a shared machine."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Turn = Callable[[], float]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Figure:
    """What is measured, and what must come of it.

    `bound` is what the median of ours divided by theirs has to be, at least or at most.
    """

    name: str
    rival: str
    unit: str
    direction: Literal["at least", "at most"]
    bound: float


@dataclass
class Result:
    """What the turns gave, in the figure's unit: `ours[n]` and `theirs[n]` are of the same round.

    `notes` are further medians of our own turns, by name.
    """

    figure: Figure
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    notes: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios, ours divided by theirs."""
        return statistics.median(
            our / their for our, their in zip(self.ours, self.theirs, strict=True)
        )

    @property
    def reached(self) -> bool:
        """Whether the ratio keeps its bound."""
        if self.figure.direction == "at least":
            return self.ratio >= self.figure.bound
        return self.ratio <= self.figure.bound


def alternate(figure: Figure, ours: Turn, theirs: Turn, rounds: int, tell: Tell) -> Result:
    """Let both have their turn in every round; who comes first changes from round to round."""
    result = Result(figure)
    places = ((ours, result.ours, "ours"), (theirs, result.theirs, figure.rival))
    for number in range(rounds):
        for turn, values, name in places if number % 2 == 0 else places[::-1]:
            value = turn()
            values.append(value)
            tell(f"{figure.name}, round {number + 1}: {name}: {value:,.1f} {figure.unit}")
    return result
