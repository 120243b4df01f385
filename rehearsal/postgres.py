"""Embedded PostgreSQL servers, each a process of its own that dies with the rehearsal.

Where their programs are found, `rehearsal.binaries` knows; initialising, starting and ending them
is done here.
"""

import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rehearsal.binaries import binaries
from rehearsal.children import Child, ChildFailed, Children, User, wait_until

SERVICE_USER = "nobody"
START_LIMIT_S = 60.0
ATTEMPTS = 5
# Below the range from which the kernel takes the ports of outgoing connections.
PORTS = range(20_000, 32_000)
SETTINGS: dict[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "wal_level": "logical",
    "max_wal_senders": "24",
    "max_replication_slots": "24",
    "max_connections": "120",
    "max_prepared_transactions": "10",
    "shared_buffers": "128MB",
    "max_wal_size": "2GB",
    "checkpoint_timeout": "15min",
    "fsync": "on",
    "jit": "off",
    "huge_pages": "off",
    # Files in the data directory: a killed server leaves nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %d %a ",
}
VERSION_SETTINGS: dict[int, dict[str, str]] = {18: {"io_method": "sync"}}
FASTEST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
# SIGINT ends sessions and writes a checkpoint; SIGQUIT ends at once and recovers at the next start.
STOP_SIGNALS = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 5.0))


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on now."""
    chance = random.SystemRandom()
    while True:
        port = chance.choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def _user() -> User | None:
    """PostgreSQL refuses to run as root; everybody else runs it as themselves."""
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam(SERVICE_USER)
    return User(entry.pw_uid, entry.pw_gid)


def _open_to_all(path: Path) -> bool:
    """Whether another user can reach this path: every directory above lets others through."""
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


class Server:
    """One PostgreSQL server on 127.0.0.1 with the superuser `postgres` and no password.

    `directory` gets the data. Where the server's user cannot reach it (below root's home, say),
    the data goes to a new directory below the system's temporary one: see `data`.
    """

    def __init__(
        self,
        name: str,
        directory: Path,
        port: int | None = None,
        *,
        children: Children,
        version: int = 18,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.name, self.port, self.version = name, port or free_port(), version
        self._fixed_port = port is not None
        self._children = children
        self._user = _user()
        self._settings = {**SETTINGS, **VERSION_SETTINGS.get(version, {}), **(settings or {})}
        self._bin = binaries(version)
        self.data = directory

    def dsn(self, database: str = "postgres", user: str = "postgres") -> str:
        """A connection string to one of its databases."""
        return f"host=127.0.0.1 port={self.port} dbname={database} user={user}"

    @property
    def process_name(self) -> str:
        """Its name among the children and in the logs."""
        return f"postgres-{self.name}"

    def initialise(self) -> Child | None:
        """Begin `initdb` unless the data is there already; `await_initialised` ends it."""
        if (self.data / "PG_VERSION").exists():
            return None
        self._make_reachable()
        # A cluster in the C locale sorts text the same way on every machine.
        words = ["initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "-E", "UTF8"]
        words += ["--locale=C", "--no-sync", "--no-instructions"]
        return self._run(f"{self.process_name}-init", words)

    def await_initialised(self, child: Child | None) -> None:
        """Wait for `initdb` and write the settings. Raises ChildFailed."""
        if child is not None:
            try:
                code = child.process.wait(timeout=START_LIMIT_S)
            except subprocess.TimeoutExpired:
                code = None
            self._children.stop(child.name)
            if code != 0:
                raise ChildFailed(f"initdb of {self.name} failed:\n{child.last_words()}")
        lines = [f"{name} = '{value}'" for name, value in self._settings.items()]
        conf = self.data / "postgresql.auto.conf"
        conf.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def launch(self) -> Child:
        """Begin to start the server; `await_ready` tells when it answers."""
        words = ["postgres", "-D", str(self.data), "-p", str(self.port)]
        return self._run(self.process_name, words)

    def await_ready(self) -> None:
        """Wait until it answers. Raises ChildFailed with the end of its log."""
        for _ in range(ATTEMPTS):
            child = self._children.get(self.process_name)
            settled = partial(self._settled, child)
            if wait_until(settled, START_LIMIT_S):
                if child.ended() is None:
                    return
                if not self._fixed_port and "could not bind" in child.last_words():
                    # Somebody took the port since it was chosen.
                    self.port = free_port()
                    child.log.rename(child.log.with_suffix(".port-taken.log"))
                    self.launch()
                    continue
            raise ChildFailed(f"PostgreSQL {self.name} did not start:\n{child.last_words()}")

    def stop(self) -> None:
        """End it; the data stays."""
        self._children.stop(self.process_name, f"{self.process_name}-init")

    def quit_at_once(self) -> None:
        """End it without a checkpoint, as a power cut would; the next start recovers."""
        self._children.get(self.process_name).signal(signal.SIGQUIT)
        self._children.stop(self.process_name)

    def _settled(self, child: Child) -> bool:
        return child.ended() is not None or self._answers(child)

    def _answers(self, child: Child) -> bool:
        # Asked of its own pid file: at the port another server may answer.
        try:
            lines = (self.data / "postmaster.pid").read_text(encoding="ascii").splitlines()
        except OSError:
            return False
        return len(lines) > 7 and int(lines[0]) == child.pid and lines[7].strip() == "ready"

    def _run(self, name: str, words: Sequence[str]) -> Child:
        command = [str(self._bin / words[0]), *words[1:]]
        # Messages are searched by their English words.
        environment = {"LC_ALL": "C", "HOME": "/", "PGDATA": str(self.data)}
        return self._children.start(
            name,
            command,
            environment=environment,
            directory=Path("/"),
            user=self._user,
            death_signal=signal.SIGQUIT,
            stop_signals=STOP_SIGNALS,
        )

    def _make_reachable(self) -> None:
        if self._user is None:
            self.data.mkdir(parents=True, exist_ok=True, mode=0o700)
            return
        if not _open_to_all(self._bin / "postgres"):
            self._bin = self._copy_of_binaries() / "bin"
        self.data.parent.mkdir(parents=True, exist_ok=True)
        if _open_to_all(self.data):
            self.data.mkdir(exist_ok=True)
        else:
            self.data = self._below_temporary("data")
        os.chown(self.data, self._user.uid, self._user.gid)
        self.data.chmod(0o700)

    def _copy_of_binaries(self) -> Path:
        home = self._below_temporary("postgres")
        shutil.copytree(self._bin.parent, home, dirs_exist_ok=True)
        home.chmod(0o755)
        return home

    def _below_temporary(self, what: str) -> Path:
        return self._children.temporary_directory(f"splitctl-{what}-", _temporary())


def _temporary() -> Path:
    for path in (Path(tempfile.gettempdir()), Path("/tmp")):
        if _open_to_all(path / "x"):
            return path
    raise PermissionError(f"the user {SERVICE_USER} can reach no directory to keep data in")


def start_all(servers: Sequence[Server]) -> None:
    """Initialise and start servers side by side. On failure none is left running."""
    try:
        beginnings = [server.initialise() for server in servers]
        for server, child in zip(servers, beginnings, strict=True):
            server.await_initialised(child)
        for server in servers:
            server.launch()
        for server in servers:
            server.await_ready()
    except BaseException:
        for server in servers:
            server.stop()
        raise
