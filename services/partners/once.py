"""Idempotency keys: the first request with a key acts, each later one gets the same answer."""

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

Document = dict[str, Any]


class KeyReused(Exception):
    """The key came before, with another body."""


class Once:
    """The answers given so far, by operation and key. There is no pause inside `answer`."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], tuple[str, Document]] = {}
        self.acted: Counter[str] = Counter()
        self.repeated: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()

    def answer(
        self, operation: str, key: str, body: Document, act: Callable[[], Document]
    ) -> Document:
        """The answer of `act`, or the one given before. Raises KeyReused."""
        print_ = json.dumps(body, sort_keys=True)
        before = self._given.get((operation, key))
        if before is not None:
            if before[0] != print_:
                self.refused[operation] += 1
                raise KeyReused(f"the key was used before for another {operation}")
            self.repeated[operation] += 1
            return before[1]
        answer = act()
        self._given[operation, key] = (print_, answer)
        self.acted[operation] += 1
        return answer
