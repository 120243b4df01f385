"""The PostgreSQL versions that tests run on, and the servers of each.

A test marked `every_version` runs once for each pair here, which says what the old and the new side
are; all others run on the newest version. A version that is not on this machine is a skip that
names the remedy, and the summary lists it; in CI such a skip is a failure (`tests/skips.py`).
"""

from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from rehearsal.binaries import SUPPORTED, missing
from rehearsal.children import Children
from rehearsal.postgres import FASTEST, Server, start_all

Pair = tuple[int, int]
OLDEST, NEWEST = min(SUPPORTED), max(SUPPORTED)
PAIRS: tuple[Pair, ...] = (
    *((version, version) for version in SUPPORTED),
    (OLDEST, NEWEST),
    (NEWEST, OLDEST),
)
SETTINGS = {**FASTEST, "shared_buffers": "32MB", "max_wal_size": "256MB"}


class Pool:
    """Servers that were started because a test asked for their version; they stay until the end."""

    def __init__(self, directory: Path, children: Children) -> None:
        self._directory, self._children = directory, children
        self._running: dict[tuple[str, int], Server] = {}

    def servers(self, pair: Pair = (NEWEST, NEWEST)) -> dict[str, Server]:
        """The three servers by name: "order" of the pair's first version, the others of its second.

        Only the newest version has a server of its own for "return".
        """
        old, new = pair
        last = "return" if new == NEWEST else "checkout"
        places = {"order": ("order", old), "checkout": ("checkout", new), "return": (last, new)}
        lacking = [place for place in dict.fromkeys(places.values()) if place not in self._running]
        started = {place: self._server(*place) for place in lacking}
        start_all(list(started.values()))
        self._running.update(started)
        return {name: self._running[place] for name, place in places.items()}

    def _server(self, name: str, version: int) -> Server:
        name = name if version == NEWEST else f"{name}-{version}"
        return Server(
            name,
            self._directory / name,
            children=self._children,
            version=version,
            settings=SETTINGS,
        )


def parametrized() -> list[ParameterSet]:
    """The pairs as parameters of a test."""
    return [pair(*versions) for versions in PAIRS]


def pair(old: int, new: int) -> ParameterSet:
    """One pair as a parameter of the fixture `versions`; a skip where it cannot be tested."""
    absent = missing()
    marks = [pytest.mark.skip(str(absent[v])) for v in sorted({old, new}) if v in absent]
    return pytest.param((old, new), id=f"old-{old}-new-{new}", marks=marks)


def summary() -> list[str]:
    """What the end of a test run says of versions."""
    absent = missing()
    tested = ", ".join(str(version) for version in SUPPORTED if version not in absent)
    return [f"on this machine: {tested}", *(f"NOT TESTED: {error}" for error in absent.values())]
