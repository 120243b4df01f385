"""One small split for all tests of this folder; each test begins with everyone at 0 %."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rehearsal.faults.ground import Split


@pytest.fixture(scope="package")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    """Built once: it takes half a minute."""
    split = Split.build(tmp_path_factory.mktemp("faults"))
    try:
        split.begin()
        yield split
    finally:
        split.estate.stop()


@pytest.fixture
def split(built: Split) -> Iterator[Split]:
    """The split with customers at work; brought back to 0 % and made whole after the test."""
    yield built
    built.type("rollback")


@pytest.fixture(scope="module")
def open_directory() -> Iterator[Path]:
    """A directory that PostgreSQL's user can reach, so that all data is below it."""
    top = Path(tempfile.mkdtemp(prefix="splitctl-faults-"))
    top.chmod(0o755)
    yield top
    shutil.rmtree(top, ignore_errors=True)
