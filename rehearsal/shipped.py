"""The worked example as it is shipped: a configuration, and the files that it names."""

import shutil
import tomllib
from pathlib import Path

# The repository, or the folder that the packages were installed to.
ROOT = Path(__file__).parent.parent


def _folder() -> Path:
    """Where the configuration and its queries lie: in a wheel, or at the repository's root."""
    packaged = Path(__file__).parent / "example"
    return packaged if packaged.is_dir() else ROOT


def configuration() -> str:
    """The text of config.example.toml."""
    return (_folder() / "config.example.toml").read_text(encoding="utf-8")


def named() -> dict[str, Path]:
    """The folders that the configuration names, by the place it expects them at."""
    databases = tomllib.loads(configuration())["databases"].values()
    migrations = [database["migrations"] for database in databases if "migrations" in database]
    queries = {place: _folder() / place for place in ("mappings", "invariants", "flows")}
    return {**queries, **{place: ROOT / place for place in migrations}}


def copy_named(directory: Path) -> None:
    """Copy them to where a configuration in this directory expects them."""
    for place, source in named().items():
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(source, directory / place, ignore=ignore, dirs_exist_ok=True)
