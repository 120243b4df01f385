"""Every state that can be reached, breadth first; and the shortest way to one that must not be."""

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
        return "\n".join([f"{self.states} states: {self.broken}", *self.way, str(self.last)])


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
    came: dict[S, tuple[S, str] | None] = {first: None}
    before: dict[S, list[S]] = {}
    rest: list[S] = []
    queue = deque([first])
    while queue:
        state = queue.popleft()
        broken = promise(state)
        if broken:
            return Found(len(came), broken, _way(came, state), state)
        if at_rest(state):
            rest.append(state)
        for label, after in steps(state):
            if by_itself(label):
                before.setdefault(after, []).append(state)
            if after not in came:
                came[after] = (state, label)
                queue.append(after)
        assert len(came) < LIMIT, "the model does not end"
    ends = set(rest)
    back = deque(rest)
    while back:
        for state in before.get(back.popleft(), ()):
            if state not in ends:
                ends.add(state)
                back.append(state)
    for state in came:
        if state not in ends:
            return Found(len(came), "it never comes to rest", _way(came, state), state)
    return Found(len(came))


def _way(came: dict[S, tuple[S, str] | None], state: S) -> tuple[str, ...]:
    labels: list[str] = []
    link = came[state]
    while link is not None:
        labels.append(link[1])
        link = came[link[0]]
    return tuple(reversed(labels))
