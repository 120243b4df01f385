"""Flags in files: a mounted ConfigMap, that changes while the gateway runs.

A directory holds a file for each variable, named like it. It is read again and again; whatever
cannot be read, or is older than what is served, changes nothing and is told in the log. Nor does a
domain whose files are gone: it goes on as it is.
"""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from services.gateway.fence import Door
from services.gateway.flags import VARIABLES, FlagsInvalid, from_environment, stands
from services.gateway.leases import FenceRefused

log = logging.getLogger(__name__)
EVERY_S = 0.5
NAMES = tuple(name for names in VARIABLES.values() for name in names)


def read(folder: Path) -> dict[str, str]:
    """What the files say; a variable without a file is not among them."""
    found: dict[str, str] = {}
    for name in NAMES:
        try:
            found[name] = (folder / name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
    return found


class FlagFiles:
    """Brings the doors to what the files say, for as long as it runs."""

    def __init__(self, folder: Path, doors: Mapping[str, Door]) -> None:
        self._folder, self._doors = folder, doors
        self._seen: dict[str, str] | None = None

    async def follow(self) -> None:
        """Look until it is cancelled."""
        while True:
            self.look()
            await asyncio.sleep(EVERY_S)

    def look(self) -> None:
        """Once."""
        found = read(self._folder)
        # Read twice: what is changed just now may be half old and half new.
        if found == self._seen or found != read(self._folder):
            return
        self._seen = found
        try:
            wanted = from_environment(found)
        except FlagsInvalid as error:
            log.warning("flags in %s: %s; nothing was changed", self._folder, error)
            return
        for domain, flags in wanted.items():
            door = self._doors[domain]
            if door.flags == flags or not stands(found, domain):
                continue
            try:
                door.set_flags(flags)
            except FenceRefused as error:
                log.warning("flags of %s in %s: %s", domain, self._folder, error)
