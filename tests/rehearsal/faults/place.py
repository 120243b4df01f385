"""DIR of small rehearsals, run as processes one after the other."""

import json
import os
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rehearsal.children import PIDS, wait_until, write_whole
from rehearsal.processes import module
from tests.rehearsal.faults.ground import alive, none_left, processes_of

# Enough customers that the gates have seen enough of them soon.
SMALL = ("--carts", "500", "--returns", "100", "--shoppers", "32", "--soak", "1s")
LIMIT_S = 480.0


@dataclass
class Place:
    """DIR, and two bystanders that must survive them all."""

    directory: Path
    bystanders: "list[subprocess.Popen[Any]]" = field(default_factory=list)

    def rehearse(self, *more: str, fault: str = "") -> "subprocess.Popen[Any]":
        """Begin a small rehearsal, with a sync that errs or not; what it tells goes to `told`."""
        words = ["rehearse", *SMALL, "--least-writes", "10", "--out", str(self.directory), *more]
        program = ("tests.rehearsal.faults.faulty_sync", fault) if fault else ("splitctl",)
        with self.log.open("wb") as log:
            return subprocess.Popen(
                # Below a test run in the background, Ctrl-C would be ignored without this.
                ["env", "--default-signal=INT", *module(*program, *words)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Some programs of the estate name DIR in nothing else.
                env={**os.environ, "REHEARSED_IN": str(self.directory)},
            )

    @property
    def log(self) -> Path:
        return self.directory.with_name(f"{self.directory.name}.log")

    def told(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def await_point(self, running: "subprocess.Popen[Any]", point: str) -> None:
        """Wait until the rehearsal tells of it."""
        assert wait_until(lambda: point in self.told() or running.poll() is not None, LIMIT_S)
        assert point in self.told(), self.told()[-2000:]
        time.sleep(0.3)  # into the middle of it
        assert running.poll() is None, self.told()[-2000:]

    def lenient(self) -> None:
        """Gates that a busy machine does not fail, and that soon have seen enough."""
        config = self.directory / "config.toml"
        text = config.read_text(encoding="utf-8")
        text = text.replace("max_ms = 1500\n", "max_ms = 5000\n")
        text = text.replace("min_samples = 200", "min_samples = 50")
        write_whole(config, text)

    def nothing_left(self) -> None:
        """By the process table. The bystanders do not count, and live."""
        ours = {bystander.pid for bystander in self.bystanders}
        wait_until(lambda: not set(processes_of(self.directory)) - ours, 15)
        left = {p: words for p, words in none_left(self.directory, 0).items() if p not in ours}
        assert left == {}
        assert all(alive(pid) for pid in ours)

    def accuse(self) -> None:
        """List a bystander's id among the leftovers: the id was used again since."""
        path = self.directory / PIDS
        if not path.exists():
            return
        listing = json.loads(path.read_text(encoding="utf-8"))
        stranger = {"name": "stranger", "pid": self.bystanders[1].pid, "started": 1, "signal": 9}
        listing["children"].append(stranger)
        path.write_text(json.dumps(listing), encoding="utf-8")
