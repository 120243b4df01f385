"""Programs as child processes: ready when they say so, ended in order, never left behind."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from rehearsal.children import ChildFailed, Children, end_leftovers, wait_until
from rehearsal.postgres import free_port
from rehearsal.processes import Program, Programs

SERVER = """
import http.server, os, signal, sys, time
class Handler(http.server.BaseHTTPRequestHandler):
    asked = 0
    def do_GET(self):
        Handler.asked += 1
        self.send_response(200 if Handler.asked > int(os.environ["READY_AFTER"]) else 503)
        self.end_headers()
    def log_message(self, *args):
        pass
def end(*args):
    print("ended in order", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("asks:", os.environ["READY_AFTER"], flush=True)
http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture
def children(tmp_path: Path) -> Iterator[Children]:
    started = Children(tmp_path)
    yield started
    started.stop_all()


def server(name: str, ready_after: int = 0) -> Program:
    port = free_port()
    environment = {"PORT": str(port), "READY_AFTER": str(ready_after)}
    url = f"http://127.0.0.1:{port}/health/ready"
    return Program(name, [sys.executable, "-c", SERVER], environment, url)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_start_waits_until_ready_and_stop_ends_in_order(children: Children, tmp_path: Path) -> None:
    programs = Programs(children)
    programs.start(server("early"), server("late", ready_after=3))
    assert programs.fallen() == []
    programs.stop("early", "late")
    for name in ("early", "late"):
        assert "ended in order" in (tmp_path / "logs" / f"{name}.log").read_text()
    assert not (tmp_path / "pids.json").exists()


def test_a_program_that_ends_at_once_is_told_with_its_last_words(children: Children) -> None:
    broken = Program("broken", [sys.executable, "-c", "raise SystemExit('no database')"], {}, "x:")
    with pytest.raises(ChildFailed, match="no database"):
        Programs(children).start(broken)


def test_a_program_that_is_never_ready_is_told(children: Children) -> None:
    with pytest.raises(ChildFailed, match=r"was not ready in 0\.3 s"):
        Programs(children).start(server("slow", ready_after=10**6), limit_s=0.3)


def test_a_program_that_falls_is_named(children: Children) -> None:
    programs = Programs(children)
    programs.start(server("one"))
    child = children.get("one")
    child.signal(signal.SIGKILL)
    assert wait_until(lambda: child.ended() is not None, 5)
    assert len(programs.fallen()) == 1
    assert programs.fallen()[0].startswith("one ended with -9")


def test_a_stubborn_program_is_killed(children: Children) -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); print('deaf', flush=True)\n"
    code += "while True: signal.pause()"
    child = children.start(
        "deaf", [sys.executable, "-c", code], stop_signals=((signal.SIGTERM, 0.2),)
    )
    assert wait_until(lambda: "deaf" in child.last_words(), 5)
    children.stop("deaf")
    assert child.ended() == -signal.SIGKILL


def test_a_name_is_used_once_at_a_time(children: Children) -> None:
    Programs(children).start(server("one"))
    with pytest.raises(ChildFailed, match="already running"):
        children.start("one", ["true"])


def test_children_started_in_a_thread_that_ends_live_on(children: Children) -> None:
    import threading

    programs = Programs(children)
    thread = threading.Thread(target=programs.start, args=(server("one"),))
    thread.start()
    thread.join()
    # The kernel ties the death signal to the starting thread: it must not be that one.
    child = children.get("one")
    assert not wait_until(lambda: child.ended() is not None, 0.5)


def test_kill_9_of_the_owner_ends_its_children(tmp_path: Path) -> None:
    code = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from rehearsal.children import Children
        child = Children(Path(sys.argv[1])).start(
            "sleeper", [sys.executable, "-c", "import signal; signal.pause()"])
        print(child.pid, flush=True)
        sys.stdin.read()
        """
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=-1, stdout=-1, text=True
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert alive(pid)
    owner.kill()
    owner.wait()
    assert wait_until(lambda: not alive(pid), 5)
    assert end_leftovers(tmp_path) == []


def test_a_child_whose_owner_is_already_gone_does_not_begin(tmp_path: Path) -> None:
    leash = Path(__file__).parents[2] / "estate" / "leash.py"
    mark = tmp_path / "begun"
    # Process 1 is not the parent of this child, as after the death of the real one.
    words = [sys.executable, "-I", "-S", str(leash), "1", "9", "-1", "-1", "touch", str(mark)]
    assert os.getpid() != 1
    assert subprocess.run(words, check=False).returncode == 71
    assert not mark.exists()
