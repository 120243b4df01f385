"""`splitctl init`: the worked example as a starting point for one's own estate."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from estate.errors import ExitCode, SplitctlError
from rehearsal import shipped


class AlreadyThere(SplitctlError):
    """{path} exists already and is not overwritten. Nothing was changed."""

    hint = "splitctl init OTHER_DIRECTORY"
    exit_code = ExitCode.PRECONDITION


class NotWritable(SplitctlError):
    """The example cannot be written to {directory}: {reason}."""

    hint = "splitctl init OTHER_DIRECTORY"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Starter:
    """What was written: the configuration, and the folders that it names."""

    config: Path
    folders: list[Path]

    @property
    def next_command(self) -> str:
        """What tells which values are still the example's."""
        here = self.config.resolve() == Path("config.toml").resolve()
        chosen = "" if here else f" --config {shlex.quote(str(self.config))}"
        return f"splitctl doctor{chosen}"


def write(directory: Path) -> Starter:
    """Write the example into `directory`, whole. Raises AlreadyThere or NotWritable."""
    config, folders = directory / "config.toml", [directory / place for place in shipped.named()]
    for path in (config, *folders):
        if path.exists():
            raise AlreadyThere(path=path)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        shipped.copy_named(directory)
        # Last, so that a configuration that is there is whole.
        config.write_text(shipped.configuration(), encoding="utf-8")
    except OSError as error:
        raise NotWritable(directory=directory, reason=error.strerror or error) from error
    return Starter(config, folders)
