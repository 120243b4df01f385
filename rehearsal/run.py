"""`splitctl rehearse`: build an estate, tell the story under load, judge it, write it down."""

import dataclasses
import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rehearsal import certificate, report
from rehearsal.certificate import LEAST_WRITES_PER_STAGE, Evidence
from rehearsal.children import ChildFailed, end_leftovers
from rehearsal.commands import CommandFailed, Commands
from rehearsal.estate import Estate
from rehearsal.monitor import Monitor
from rehearsal.plots import Mark
from rehearsal.recorder import FAILURES, REQUESTS, STAGE, STATUS, WRITES, read_lines
from rehearsal.scene import Scene
from rehearsal.seed import seed
from rehearsal.series import load_series
from rehearsal.story import EvidenceMissing, Story
from rehearsal.tally import Tally
from rehearsal.view import View, view_for
from rehearsal.witness import look_up

ENVIRONMENT = "rehearsal"
OURS = (WRITES, FAILURES, REQUESTS, STAGE, STATUS, "certificate.json", "report.html", "config.toml")
OUR_FOLDERS = ("databases", "invariants", "logs", "mappings", "secrets", "services", "state")


@dataclass(frozen=True)
class Options:
    """What the command line says; `soak_s` in seconds, `least_writes` at each stage and side."""

    carts: int
    returns: int
    shoppers: int
    soak_s: float
    seed: int
    out: Path
    keep: bool
    least_writes: int = LEAST_WRITES_PER_STAGE


@dataclass(frozen=True)
class Rehearsed:
    """How it ended, and where everything lies."""

    certificate: dict[str, Any]
    directory: Path

    @property
    def exit_code(self) -> int:
        """0 when the certificate passes, 3 when it does not."""
        return 0 if self.certificate["result"] == "pass" else 3

    @property
    def next_command(self) -> str:
        """Where to look."""
        return f"open {self.directory / 'report.html'}"

    def to_json(self) -> dict[str, Any]:
        """The certificate itself."""
        return self.certificate

    def to_text(self) -> str:
        """The figures that matter, and why it failed when it did."""
        found, diff = self.certificate, self.certificate["diff"]
        differing = diff["mismatched"] + diff["missing"] + diff["extra"]
        lines = [f"result: {found['result']}"]
        lines += [f"  because of {reason}" for reason in found["reasons"]]
        lines += [
            f"{found['acknowledged_writes']:,} acknowledged writes, {found['lost_writes']} lost, "
            f"{found['duplicate_orders']} duplicate orders",
            f"{found['requests']:,} requests, {found['failed_requests']} failed",
            f"{diff['rows_compared']:,} rows compared, {differing} differ",
            f"{found['seconds']:.0f} seconds, seed {found['seed']}",
            f"certificate {self.directory / 'certificate.json'}",
        ]
        return "\n".join(lines)


def run(options: Options) -> Rehearsed:
    """Run a whole rehearsal. Whatever happens, no process is left behind unless --keep asks."""
    directory = options.out.resolve()
    scene = Scene(ENVIRONMENT)
    with _signals(), view_for(scene) as view:
        for line in end_leftovers(directory):
            view.event(scene.tell("warning", f"ended a leftover of an earlier run: {line}"))
        clear(directory)
        estate = Estate(directory, soak_s=options.soak_s, environment=_environment(directory))
        try:
            running = Run(options, estate, scene, view)
            found = running.whole()
            if options.keep:
                running.reopen()
                _keep(estate, view, scene)
        finally:
            scene.step = "ending every process"
            estate.stop()
    return Rehearsed(found, directory)


def _environment(directory: Path) -> dict[str, str]:
    return {"SPLITCTL_STATE_DIR": str(directory / "state")}


class Run:
    """One rehearsal: the estate is there, nothing runs yet."""

    def __init__(self, options: Options, estate: Estate, scene: Scene, view: View) -> None:
        self.options, self.estate, self.scene, self.view = options, estate, scene, view
        self.directory = estate.directory
        self.evidence = Evidence(seed=options.seed)
        self.marks: list[Mark] = []
        self.commands = Commands(
            estate.config, _environment(self.directory), self._typed, self._progress
        )
        self.monitor = Monitor(
            scene, estate.sync_url, estate.gateways, estate.token, self.directory / STATUS
        )
        self.tally = Tally(self.directory / WRITES)

    def whole(self) -> dict[str, Any]:
        """Everything from empty directory to certificate."""
        self._step("start three PostgreSQL servers")
        self.estate.start_databases()
        self.estate.prepare_old()
        self._step(f"seed {self.options.carts:,} carts and {self.options.returns:,} returns")
        seed(
            self.estate.database("order"),
            self.directory,
            carts=self.options.carts,
            returns=self.options.returns,
            number=self.options.seed,
        )
        self.estate.start_old()
        self.estate.start_shoppers(self.options.shoppers, self.options.seed)
        self.monitor.start()
        wall = time.time() - self.scene.seconds
        try:
            self._story()
        finally:
            self._step("customers leave")
            self.estate.programs.stop("shoppers")
            self.monitor.stop()
        self._step("the witness looks up every acknowledged write")
        self._collect()
        made = certificate.build(self.evidence)
        self._write(made, wall)
        return made

    def reopen(self) -> None:
        """Take the archive back, so that rollback and every other command can be tried."""
        self._step("the way back is opened again")
        for domain in self.estate.domains:
            # Refused where the story stopped before the rollout was started.
            self.commands.run("decommission", "undo", domain, expect=(0, 5))

    def _story(self) -> None:
        story = Story(
            typist=self.commands,
            ground=_Ground(self.estate),
            scene=self.scene,
            evidence=self.evidence,
            tally=self.tally,
            stage_file=self.directory / STAGE,
            domains=self.estate.domains,
            soak_s=self.options.soak_s,
            on_step=self._step,
            least_writes=self.options.least_writes,
        )
        try:
            story.tell()
        except (CommandFailed, EvidenceMissing, ChildFailed) as error:
            self.evidence.problems.append(f"the story stopped at '{self.scene.step}': {error}")
            self._event("warning", str(error))
        self.stages = story.stages

    def _collect(self) -> None:
        evidence = self.evidence
        self.tally.read()
        evidence.writes = self.tally.rows()
        with self.scene.lock:
            status = json.loads((self.directory / STATUS).read_text(encoding="utf-8"))
        evidence.requests, evidence.failed_requests = status["requests"], status["failed"]
        evidence.failures = list(read_lines(self.directory / FAILURES))
        evidence.problems += [f"ended unasked: {line}" for line in self.estate.programs.fallen()]
        shares = {name: percentage for name, (_, percentage) in self.stages.items()}
        evidence.witness = look_up(
            self.directory,
            {name: self.estate.database(name) for name in self.estate.servers},
            shares,
        )
        streams: dict[str, dict[str, Any]] = self.monitor.sync_status.get("streams", {})
        evidence.strays = sum(int(stream.get("strays") or 0) for stream in streams.values())
        for direction in ("forward", "reverse"):
            ours = [found for name, found in streams.items() if name.endswith(f".{direction}")]
            p99 = [(found.get("lag_ms") or {}).get("p99") for found in ours]
            evidence.lag_ms_p99[direction] = max((p for p in p99 if p is not None), default=None)
        evidence.commands = [dataclasses.asdict(record) for record in self.commands.records]
        evidence.seconds = self.scene.seconds

    def _write(self, made: dict[str, Any], wall: float) -> None:
        path = self.directory / "certificate.json"
        path.write_text(json.dumps(made, indent=2, ensure_ascii=False), encoding="utf-8")
        plots = load_series(self.directory / REQUESTS, self.monitor.series, wall, self.stages)
        page = report.render(made, ENVIRONMENT, plots, self.marks, self.evidence.verdicts)
        (self.directory / "report.html").write_text(page, encoding="utf-8")

    def _step(self, text: str) -> None:
        with self.scene.lock:
            self.scene.step, self.scene.command, self.scene.progress = text, "", ""
        self.marks.append(Mark(self.scene.seconds, text))
        self._event("step", text)

    def _typed(self, command: str) -> None:
        with self.scene.lock:
            self.scene.command, self.scene.progress = command, ""
        self._event("command", f"$ {command}")

    def _progress(self, line: str) -> None:
        with self.scene.lock:
            self.scene.progress = line

    def _event(self, kind: str, text: str) -> None:
        self.view.event(self.scene.tell(kind, text))


@dataclass(frozen=True)
class _Ground:
    estate: Estate

    def start_new_services(self) -> None:
        self.estate.start_new()

    def start_sync(self) -> None:
        self.estate.start_sync()


def clear(directory: Path) -> None:
    """Remove what an earlier run left in this directory, and nothing else."""
    for name in OURS:
        (directory / name).unlink(missing_ok=True)
    for name in OUR_FOLDERS:
        shutil.rmtree(directory / name, ignore_errors=True)


@contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end a rehearsal as Ctrl-C does: by the way that stops every process."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _keep(estate: Estate, view: View, scene: Scene) -> None:
    view.event(scene.tell("step", "the estate keeps running; Ctrl-C ends it"))
    for line in (
        f"export SPLITCTL_CONFIG={estate.config}",
        f"export SPLITCTL_STATE_DIR={estate.directory / 'state'}",
        "splitctl status            # from any directory; every other command works as well",
        f"gateways: {' '.join(estate.gateways)}   sync: {estate.sync_url}",
        *(f"psql '{estate.database(name)}'" for name in estate.servers),
    ):
        view.event(scene.tell("keep", line))
    threading.Event().wait()
