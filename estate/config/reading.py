"""Finding a configuration and reading it whole."""

import os
import tomllib
from pathlib import Path

from pydantic import ValidationError

from estate.config import mistakes
from estate.config.mistakes import ConfigInvalid, ConfigNotFound, Problem
from estate.config.sections import KEYS, Config


def find(path: Path | None = None) -> Path:
    """The configuration file: the argument, SPLITCTL_CONFIG, then ./config.toml."""
    chosen = path or Path(os.environ.get("SPLITCTL_CONFIG") or "config.toml")
    if not chosen.is_file():
        raise ConfigNotFound(path=chosen)
    return chosen.resolve()


def load(path: Path | None = None) -> Config:
    """Read and check the whole configuration.

    Raises ConfigNotFound, or ConfigInvalid with every mistake there is.
    """
    chosen = find(path)
    try:
        text = chosen.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        problem = Problem("file", f"not valid TOML: {error}", "Mend the line it names.")
        raise ConfigInvalid(chosen, [problem]) from None
    except UnicodeDecodeError:
        problem = Problem("file", "not UTF-8 text", "Save it as UTF-8.")
        raise ConfigInvalid(chosen, [problem]) from None
    except OSError as error:
        problem = Problem("file", f"cannot be read ({error.strerror})", "Mend its permissions.")
        raise ConfigInvalid(chosen, [problem]) from None
    for section in ("databases", "domains"):
        for name, table in mistakes.tables(data, section).items():
            table["name"] = name
    problems: list[Problem] = []
    try:
        config = Config.model_validate({**data, "path": chosen}, context={"base": chosen.parent})
    except ValidationError as error:
        problems = mistakes.of_validation(error, KEYS)
    problems += mistakes.of_names(data)
    if problems:
        raise ConfigInvalid(chosen, problems, text)
    return config
