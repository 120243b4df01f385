"""`splitctl init`: the worked example as a starting point for one's own estate."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from estate.errors import ExitCode, SplitctlError


class AlreadyThere(SplitctlError):
    """{path} exists already and is not overwritten. Nothing was changed."""

    hint = "splitctl init OTHER_DIRECTORY"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Starter:
    """What was written."""

    config: Path
    mappings: Path
    next_command: str


def example_directory() -> Path:
    """Where the worked example lies: in the wheel, or at the root of the repository."""
    root = Path(__file__).resolve().parents[1]
    packaged = root / "rehearsal" / "example"
    return packaged if packaged.is_dir() else root


def write(directory: Path) -> Starter:
    """Write config.toml and mappings/ into `directory`. Raises AlreadyThere."""
    source = example_directory()
    config, mappings = directory / "config.toml", directory / "mappings"
    for path in (config, mappings):
        if path.exists():
            raise AlreadyThere(path=path)
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "config.example.toml", config)
    shutil.copytree(source / "mappings", mappings)
    return Starter(config, mappings, f"splitctl doctor --config {config}")
