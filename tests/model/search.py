"""Every state that can be reached, breadth first; and the shortest way to one that must not be."""

import gc
from collections import deque
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

S = TypeVar("S", bound=Hashable)
Step = tuple[str, S]
# A model that does not end is a mistake in the model; none of ours needs a tenth of this.
LIMIT = 3_000_000


@dataclass(frozen=True)
class Found(Generic[S]):
    """What a search found: how many states, and the first broken promise with the way to it."""

    states: int
    broken: str | None = None
    way: tuple[str, ...] = ()
    last: S | None = None

    def __str__(self) -> str:
        """The way as a story. What came from outside stands further left."""
        lines = [
            f"{number:3}. {label[1:]}" if label.startswith("!") else f"{number:3}.   {label}"
            for number, label in enumerate(self.way, 1)
        ]
        return "\n".join([f"{self.broken} ({self.states} states)", *lines, str(self.last)])


def search(
    first: S,
    steps: Callable[[S], Iterable[Step[S]]],
    promise: Callable[[S], str | None],
    at_rest: Callable[[S], bool],
    by_itself: Callable[[str], bool],
) -> Found[S]:
    """Look at every reachable state.

    `promise` names what is broken in a state, or None. From every state one that is `at_rest` must
    be reachable by steps which happen `by_itself` (told by their label): else it waits for ever.
    """
    # All that is made is kept until the end: to look for garbage meanwhile is half of the time.
    gc.disable()
    try:
        return _search(first, steps, promise, at_rest, by_itself)
    finally:
        gc.enable()


def _search(
    first: S,
    steps: Callable[[S], Iterable[Step[S]]],
    promise: Callable[[S], str | None],
    at_rest: Callable[[S], bool],
    by_itself: Callable[[str], bool],
) -> Found[S]:
    # A state is hashed once for each step that leads to it; everything else goes by its number.
    numbers: dict[S, int] = {first: 0}
    came: list[tuple[int, str] | None] = [None]
    before: list[list[int]] = [[]]
    rest: list[int] = []
    queue: deque[tuple[int, S]] = deque([(0, first)])
    while queue:
        number, state = queue.popleft()
        broken = promise(state)
        if broken:
            return Found(len(came), broken, _way(came, number), state)
        if at_rest(state):
            rest.append(number)
        for label, after in steps(state):
            found = numbers.setdefault(after, len(came))
            if found == len(came):
                came.append((number, label))
                before.append([])
                queue.append((found, after))
            if by_itself(label):
                before[found].append(number)
        assert len(came) < LIMIT, "the model does not end"
    stuck = _without_end(rest, before)
    if stuck is not None:
        state = next(state for state, number in numbers.items() if number == stuck)
        return Found(len(came), "it never comes to rest", _way(came, stuck), state)
    return Found(len(came))


def _without_end(rest: list[int], before: list[list[int]]) -> int | None:
    """The first state from which none at rest can be reached."""
    ends = bytearray(len(before))
    back = deque(rest)
    for number in rest:
        ends[number] = 1
    while back:
        for number in before[back.popleft()]:
            if not ends[number]:
                ends[number] = 1
                back.append(number)
    stuck = ends.find(0)
    return None if stuck < 0 else stuck


def _way(came: list[tuple[int, str] | None], number: int) -> tuple[str, ...]:
    labels: list[str] = []
    link = came[number]
    while link is not None:
        labels.append(link[1])
        link = came[link[0]]
    return tuple(reversed(labels))
