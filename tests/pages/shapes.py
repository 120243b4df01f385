"""Commands with the options they were typed with, whatever stands between these words."""

import ast
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.pages import grammar

Shape = tuple[tuple[str, ...], frozenset[str]]


@dataclass
class Shapes:
    """For each command, by its path, the options that were typed with it."""

    options: dict[tuple[str, ...], set[str]] = field(default_factory=dict)

    def add(self, shapes: Iterable[Shape]) -> None:
        """These were typed."""
        for path, options in shapes:
            self.options.setdefault(path, set()).update(options)

    def has(self, shape: Shape) -> bool:
        """Whether this was typed, each option at least once. A group was, when one of it was."""
        path, options = shape
        paths = [()]
        for names in path:
            paths = [(*one, name) for one in paths for name in names.split("|")]
        return all(
            any(
                known[: len(one)] == one and options <= given
                for known, given in self.options.items()
            )
            for one in paths
        )


def named(text: str) -> Shape:
    """What follows `splitctl` in a page."""
    return _shape(shlex.split(text))


def typed_by(source: str) -> Iterator[Shape]:
    """Calls and lists of a program whose first words are a command."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            parts = node.args
        elif isinstance(node, ast.List | ast.Tuple):
            parts = node.elts
        else:
            continue
        words = [
            part.value if isinstance(part, ast.Constant) and isinstance(part.value, str) else "X"
            for part in parts
        ]
        shape = _shape(words)
        if shape[0]:
            yield shape


def _shape(words: list[str]) -> Shape:
    """The words that lead to a command, and its options by all their names."""
    command, path, left = grammar.program(), [], list(words)
    while hasattr(command, "commands") and left:
        found = command.commands.get(left[0].split("|")[0])
        if found is None:
            break
        path.append(left.pop(0))
        command = found
    names = {
        name: min([*param.opts, *param.secondary_opts])
        for param in command.params
        for name in [*param.opts, *param.secondary_opts]
    }
    used = {word.split("=")[0].split("|")[0] for word in left if word.startswith("-")}
    return tuple(path), frozenset(names.get(word, word) for word in used)
