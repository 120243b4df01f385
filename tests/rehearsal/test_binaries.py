"""The programs of each PostgreSQL version: found where they are, missed by name."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal import binaries as found
from rehearsal.binaries import SUPPORTED, PostgresMissing, binaries, missing


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A machine without any of them; it has what is put below this directory."""
    binaries.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr(found, "find_spec", lambda _: None)
        patched.setattr(found, "DEBIAN", tmp_path / "debian")
        patched.setattr(found, "NPM", (tmp_path / "npm",))
        yield tmp_path
    binaries.cache_clear()


def test_each_version_that_is_found_is_that_version() -> None:
    for version in set(SUPPORTED) - set(missing()):
        text = subprocess.check_output([binaries(version) / "postgres", "--version"], text=True)
        assert text.startswith(f"postgres (PostgreSQL) {version}."), version


def test_a_version_that_is_not_there_is_named_with_the_remedy(bare: Path) -> None:
    assert list(missing()) == list(SUPPORTED)
    with pytest.raises(PostgresMissing, match="PostgreSQL 14 is not on this machine: make system"):
        binaries(14)
    with pytest.raises(PostgresMissing, match=r"PostgreSQL 18 .*pip install"):
        binaries(18)


def test_half_an_installation_is_none(bare: Path) -> None:
    """Debian's client package has a directory of the version too."""
    directory = bare / "debian/15/bin"
    directory.mkdir(parents=True)
    (directory / "psql").touch()
    assert 15 in missing()
    for name in ("postgres", "initdb"):
        (directory / name).touch()
    assert binaries(15) == directory
