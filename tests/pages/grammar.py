"""What `splitctl` understands: whether words are a command of it, with options that it has."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import typer

from splitctl.main import app

# The kind of all that is said of words that are no command.
USAGE = typer.BadParameter.__bases__


@cache
def program() -> Any:
    """The whole program as a tree: groups have `commands`. What its nodes are is typer's affair."""
    return typer.main.get_command(app)


def fault(words: Sequence[str], *, whole: bool = False) -> str:
    """What is wrong with `splitctl WORDS`; empty when nothing is.

    whole: it is there to be typed as it stands, so nothing that it needs may be left out
    """
    command = program()
    path = ["splitctl"]
    left = list(words)
    while hasattr(command, "commands") and left and not left[0].startswith("-"):
        name = left.pop(0)
        # `start|advance|watch` are several.
        names = name.split("|")
        lacking = [one for one in names if one not in command.commands]
        if lacking:
            return f"`{' '.join(path)}` has no command `{lacking[0]}`"
        path.append(names[0])
        command = command.commands[names[0]]
    return _arguments(command, " ".join(path), left, whole)


def _arguments(command: Any, path: str, words: list[str], whole: bool) -> str:
    context = command.context_class(command, info_name=path)
    if hasattr(command, "commands") and whole and not words and not _alone(command):
        return f"`{path}` is no command, but a group of them"
    try:
        # `--yes|--no` is a choice.
        chosen = [word.split("|")[0] if word.startswith("--") else word for word in words]
        given, rest, _ = command.make_parser(context).parse_args(chosen)
    except USAGE as error:
        return f"`{path}`: {error}"
    if rest:
        return f"`{path}` takes no `{' '.join(rest)}`"
    lacking = [
        str(param.name) for param in command.params if param.required and _absent(given, param)
    ]
    return f"`{path}` needs {', '.join(lacking)}" if whole and lacking else ""


def _alone(group: Any) -> bool:
    return bool(group.invoke_without_command)


def _absent(given: dict[str, Any], param: Any) -> bool:
    return given.get(str(param.name)) in (None, (), [])


def groups() -> set[str]:
    """The names of the groups of commands."""
    return {name for name, one in program().commands.items() if hasattr(one, "commands")}
