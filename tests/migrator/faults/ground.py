"""Two servers behind proxies, a sync worker as a process, and all that can be done to them."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from migrator.mapping import Side
from rehearsal.children import Child, ChildFailed, Children, write_whole
from rehearsal.postgres import FASTEST, Server, free_port, start_all
from rehearsal.processes import module
from tests.conftest import FreshDatabase
from tests.migrator.faults.proxy import Proxy

# What is acknowledged survives a killed server; a power cut is not tried here, so no fsync.
SETTINGS = {
    **FASTEST,
    "synchronous_commit": "on",
    "shared_buffers": "32MB",
    "min_wal_size": "32MB",
    "max_wal_size": "64MB",
    "wal_sender_timeout": "5s",
}
NAMES: dict[Side, str] = {"old": "order", "new": "checkout"}
DISK = "400m"
FILLER = "filler"
FAKETIME = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
END_LIMIT_S = 15.0
HEAL_LIMIT_S = 45.0


class Proxied(FreshDatabase):
    """A database that the tool reaches through a proxy, and the test directly."""

    @property
    def dsn(self) -> str:
        """The tool's way."""
        return f"host=127.0.0.1 port={PORTS[self.server.name]} dbname={self.name} user=postgres"

    def connect(self) -> psycopg.Connection[tuple[object, ...]]:
        """The test's own connection."""
        return psycopg.connect(self.server.dsn(self.name), autocommit=True)


# The proxies' ports by server: a FreshDatabase knows no more than its server.
PORTS: dict[str, int] = {}


@dataclass
class Ground:
    """What the campaign stands on; it lasts for many runs. `program` is what a worker is."""

    directory: Path
    children: Children
    servers: dict[Side, Server]
    proxies: dict[Side, Proxy]
    disk: Path | None
    program: tuple[str, ...] = ("splitctl",)
    died: list[str] = field(default_factory=list)

    @property
    def clock(self) -> Path:
        """The file that tells the worker what time it is."""
        return self.directory / "clock"

    @property
    def environment(self) -> dict[str, str]:
        """Of every command: its log lies here too."""
        return {"SPLITCTL_STATE_DIR": str(self.directory / "state")}

    # The commands

    def start_worker(self, name: str, config: Path) -> None:
        """`splitctl sync run`, under a clock that can be set, where the machine has one."""
        environment = self.environment
        if FAKETIME is not None:
            environment |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_NO_CACHE": "1",
                # Waits go by the monotonic clock, which nobody can set.
                "DONT_FAKE_MONOTONIC": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        command = module(*self.program, "sync", "run", "--config", str(config))
        self.children.start(name, command, environment=environment)

    def start_command(self, name: str, *words: str) -> Child:
        """Any other command, as a child that can be killed."""
        return self.children.start(name, module("splitctl", *words), environment=self.environment)

    def kill(self, name: str) -> None:
        """`kill -9`. What had ended by itself, though nobody asked it to, is noted in `died`."""
        with contextlib.suppress(KeyError):
            child = self.children.get(name)
            if child.ended() is not None:
                self.died.append(f"{name} ended with {child.ended()}: {child.last_words()}")
            child.signal(signal.SIGKILL)
            self.children.stop(name)

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """It stands still, with everything that it holds."""
        self.children.get(name).signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.children.get(name).signal(signal.SIGCONT)

    def set_clock(self, seconds: int) -> None:
        """So many seconds before or after the true time."""
        write_whole(self.clock, f"{seconds:+d}s\n")

    # The servers

    def kill_server(self, side: Side) -> None:
        """`kill -9` of the server; its sessions see that it is gone and end. It stays down."""
        child = self._child(side)
        # It cannot begin a session while we list them.
        child.signal(signal.SIGSTOP)
        family: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            family = psutil.Process(child.pid).children(recursive=True)
        child.signal(signal.SIGKILL)
        self.children.stop(child.name)
        for process in psutil.wait_procs(family, timeout=END_LIMIT_S)[1]:
            process.kill()

    def start_server(self, side: Side) -> None:
        """It recovers what it acknowledged."""
        self.servers[side].launch()
        self.servers[side].await_ready()

    def heal_server(self, side: Side) -> None:
        """Until it answers; begun again as often as it ends by itself."""
        limit = time.monotonic() + HEAL_LIMIT_S
        while True:
            try:
                if not self._runs(side):
                    self.start_server(side)
                with psycopg.connect(self.servers[side].dsn(), connect_timeout=5) as connection:
                    connection.execute("SELECT 1")
                return
            except (psycopg.OperationalError, ChildFailed):
                if time.monotonic() > limit:
                    raise
                time.sleep(0.1)

    def _runs(self, side: Side) -> bool:
        try:
            child = self._child(side)
        except KeyError:
            return False
        if child.ended() is None:
            return True
        self.children.stop(child.name)
        return False

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """The new side's disk has no room left."""
        assert self.disk is not None
        filler = self.disk / FILLER
        with contextlib.suppress(OSError), filler.open("wb") as file:
            while True:
                file.write(b"\0" * 65_536)
                file.flush()
        try:
            yield
        finally:
            filler.unlink(missing_ok=True)

    def end_sessions(self, side: Side) -> None:
        """As a DBA would, or a failing network card: the tool's sessions are terminated."""
        with (
            contextlib.suppress(psycopg.OperationalError),
            psycopg.connect(self.servers[side].dsn(), autocommit=True) as connection,
        ):
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name LIKE 'splitctl %'"
            )

    def _child(self, side: Side) -> Child:
        return self.children.get(self.servers[side].process_name)


def _remove_clocks() -> None:
    """What the clock's library leaves of a program that was killed: it has a name of its own."""
    for left in Path("/dev/shm").glob("*faketime_*"):
        if not Path("/proc", left.name.rpartition("_")[2]).exists():
            left.unlink(missing_ok=True)


@contextmanager
def ground() -> Iterator[Ground]:
    """Build it; nothing is left afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="splitctl-data-faults-"))
    directory.chmod(0o755)
    children = Children(directory)
    proxies: dict[Side, Proxy] = {}
    disk = None
    try:
        disk = _small_disk(directory)
        places = {"old": directory / "old", "new": (disk or directory) / "new"}
        servers: dict[Side, Server] = {
            side: Server(
                NAMES[side],
                places[side],
                # Always the same one: the proxies know no other.
                free_port(),
                children=children,
                settings=SETTINGS,
            )
            for side in NAMES
        }
        start_all(list(servers.values()))
        for side, server in servers.items():
            proxies[side] = Proxy(server.port)
            PORTS[server.name] = proxies[side].port
        yield Ground(directory, children, servers, proxies, disk)
    finally:
        for proxy in proxies.values():
            proxy.close()
        try:
            children.stop_all()
            _remove_clocks()
        finally:
            if disk is not None:
                subprocess.run(["umount", "-l", str(disk)], check=False)
            shutil.rmtree(directory, ignore_errors=True)


def _small_disk(directory: Path) -> Path | None:
    """A file system of its own for the new side; None where nobody may mount one."""
    disk = directory / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or sys.platform != "linux":
        return None
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=755", "tmpfs", str(disk)],
        check=False,
        capture_output=True,
    )
    return disk if mounted.returncode == 0 else None
