"""Child processes that never outlive a rehearsal, and the file that tells the next run of them."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from estate import leash

PIDS = "pids.json"
POLL_S = 0.02
TAIL_LINES = 15


class ChildFailed(Exception):
    """A child process ended, or did not become ready in time; the message holds its last words."""


@dataclass(frozen=True)
class User:
    """Another user that a child runs as."""

    uid: int
    gid: int


@dataclass
class Child:
    """A running child. `stop_signals` are tried in order, each with its limit in seconds."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path
    stop_signals: tuple[tuple[signal.Signals, float], ...]

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def ended(self) -> int | None:
        """The exit code once it has ended, else None."""
        return self.process.poll()

    def last_words(self) -> str:
        """The end of its log."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return ""
        return "\n".join(lines[-TAIL_LINES:])

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def stop(self) -> int:
        """End it, politely first. Returns its exit code."""
        for number, limit_s in self.stop_signals:
            self.signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout=limit_s)
        self.signal(signal.SIGKILL)
        return self.process.wait()


def leashed(
    command: Sequence[str],
    *,
    user: User | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> list[str]:
    """The command line that ends when the thread that starts it, or this process, ends."""
    uid, gid = (user.uid, user.gid) if user else (-1, -1)
    return leash.leashed(command, death_signal=death_signal, uid=uid, gid=gid)


@cache
def _starter() -> ThreadPoolExecutor:
    # A death signal is tied to the *thread* that starts the child: this one lives to the end.
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")


GRACEFUL: tuple[tuple[signal.Signals, float], ...] = ((signal.SIGTERM, 10.0),)


class Children:
    """All children of one run, listed in DIR/pids.json. Safe to use from several threads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.logs = directory / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self._children: dict[str, Child] = {}
        self._directories: list[Path] = []
        self._lock = threading.RLock()

    def start(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
        user: User | None = None,
        death_signal: signal.Signals = signal.SIGKILL,
        stop_signals: tuple[tuple[signal.Signals, float], ...] = GRACEFUL,
    ) -> Child:
        """Start a child; its output goes to DIR/logs/NAME.log. It dies with this process."""
        with self._lock:
            present = self._children.get(name)
            if present is not None and present.ended() is None:
                raise ChildFailed(f"{name} is already running (pid {present.pid})")
            words = leashed(command, user=user, death_signal=death_signal)
            log = self.logs / f"{name}.log"
            with log.open("ab") as output:

                def launch() -> "subprocess.Popen[bytes]":
                    return subprocess.Popen(
                        words,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **(environment or {})},
                        cwd=directory,
                        # Ctrl-C at the terminal reaches the rehearsal alone, which ends the rest
                        # in order.
                        start_new_session=True,
                    )

                process = _starter().submit(launch).result()
            child = Child(name, process, log, stop_signals)
            self._children[name] = child
            self._write()
            return child

    def get(self, name: str) -> Child:
        """The child of this name. Raises KeyError."""
        return self._children[name]

    def names(self) -> list[str]:
        """The names of all that were started and not stopped, in order."""
        with self._lock:
            return list(self._children)

    def fallen(self) -> list[Child]:
        """Children that ended without being asked to."""
        with self._lock:
            return [child for child in self._children.values() if child.ended() is not None]

    def stop(self, *names: str) -> None:
        """End these children side by side; unknown names and ended ones are passed over."""
        with self._lock:
            chosen = [self._children[name] for name in names if name in self._children]
        if not chosen:
            return
        with ThreadPoolExecutor(max_workers=len(chosen)) as pool:
            list(pool.map(Child.stop, chosen))
        with self._lock:
            for child in chosen:
                if self._children.get(child.name) is child:
                    del self._children[child.name]
            self._write()

    def stop_all(self) -> None:
        """End every child that is left, last started first."""
        for name in reversed(list(self._children)):
            self.stop(name)
        self.remove_directories()

    def temporary_directory(self, prefix: str, parent: Path) -> Path:
        """A directory outside DIR that goes with the run, or at the next start."""
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        with self._lock:
            self._directories.append(path)
            self._write()
        return path

    def remove_directories(self) -> None:
        """Remove the temporary directories; their users must have ended."""
        with self._lock:
            for path in self._directories:
                shutil.rmtree(path, ignore_errors=True)
            self._directories.clear()
            self._write()

    def _write(self) -> None:
        listed = []
        for child in self._children.values():
            started = _started(child.pid)
            if started is not None and child.ended() is None:
                last = child.stop_signals[-1][0]
                entry = {"name": child.name, "pid": child.pid, "started": started}
                listed.append({**entry, "signal": int(last)})
        path = self.directory / PIDS
        directories = [str(directory) for directory in self._directories]
        if not listed and not directories:
            path.unlink(missing_ok=True)
            return
        listing = {"boot": _boot(), "children": listed, "directories": directories}
        write_whole(path, json.dumps(listing, indent=1))


def write_whole(path: Path, text: str) -> None:
    """Replace a file in one act: a reader sees the old text or the new one."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _started(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The program's name stands in brackets and may hold blanks and brackets itself.
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def end_leftovers(directory: Path, limit_s: float = 10.0) -> list[str]:
    """End what a killed run of the same DIR left behind; returns the names of what was ended.

    A process counts as ours only when its id *and* its start time are those that were written.
    """
    path = directory / PIDS
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        ours = [
            (str(item["name"]), int(item["pid"]), int(item["started"]), int(item["signal"]))
            for item in (data["children"] if data["boot"] == _boot() else [])
        ]
        directories = [Path(item) for item in data["directories"]]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    found = [item for item in ours if _started(item[1]) == item[2]]
    for _, pid, _, number in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def gone() -> bool:
        return all(_started(pid) != started for _, pid, started, _ in found)

    if not wait_until(gone, limit_s):
        for _, pid, started, _ in found:
            if _started(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        wait_until(gone, limit_s)
    for outside in directories:
        shutil.rmtree(outside, ignore_errors=True)
    path.unlink(missing_ok=True)
    return [name for name, *_ in found]


def wait_until(condition: Callable[[], bool], limit_s: float) -> bool:
    """Ask again and again, soon, until the condition holds; False when the limit has passed."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
