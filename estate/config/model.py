"""What every section of a `config.toml` is: frozen, no unknown keys, paths beside the file."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationInfo


class Model(BaseModel):
    """A section. Unknown keys are mistakes."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


def beside(value: Path, info: ValidationInfo) -> Path:
    """A path as it is meant: relative to the configuration's own file."""
    base = (info.context or {}).get("base", Path())
    path: Path = value.expanduser()
    return path if path.is_absolute() else base / path


def sql_of(path: Path, key: str) -> str:
    """A file's SQL without a trailing semicolon."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise ValueError(f"{key}: {path} cannot be read: {reason}") from error
    found = text.strip().rstrip(";").strip()
    if not found:
        raise ValueError(f"{key}: {path} is empty")
    return found
