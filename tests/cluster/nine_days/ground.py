"""The split that these tests do harm to."""

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from estate.cluster import Object
from rehearsal.children import leashed, wait_until, write_whole
from rehearsal.configuration import rewrite, toml
from rehearsal.processes import module
from rehearsal.recorder import STAGE
from tests.cluster.estate import GATEWAYS, ClusterEstate, UnfencedEstate
from tests.cluster.manifests import PORT
from tests.cluster.server import Server
from tests.observe import programs
from tests.receiver import Receiver
from tests.rehearsal.faults.ground import Split

SOAK_S = 6.0
SCRAPED = ("gateway", "order", "checkout", "return")
# Of the new side as seen at the gateway. The machine is busy with everything at once: it has to
# notice a service that hangs.
LATENCY_MS = 1500
LIMIT_S = 180.0
SHOPPERS, THINK_MS = 16, 90.0
# So often a step that lacks evidence is tried again, each time after a watch.
PATIENCE = 4
CONVERSION = """
[[gates]]
name = "conversion"
kind = "conversion"
domains = ["checkout"]
query = "gates/checkout/conversion.sql"
side = "old"
after = "8s"
drop = 0.2
min_samples = 100
"""


class NineDays(Split):
    """A split on the cluster whose evidence comes from Prometheus."""

    estate: ClusterEstate
    monitoring: programs.Monitoring
    discovery: "Discovery | None"

    def __init__(
        self,
        estate: ClusterEstate,
        server: Server | None,
        receiver: Receiver,
        results: Path | None,
    ) -> None:
        """`server`: the API server, where it is ours; `results`: where figures are written to.

        `failed_before`: how many requests had failed when none might any more; None: they may.
        """
        super().__init__(estate)
        self.receiver, self.results = receiver, results
        self.server, self.discovery = server, None
        self.failed_before: int | None = None

    # Its life

    def _configure(self) -> None:
        """Everything is told of, evidence comes from Prometheus, and that runs."""
        super()._configure()
        estate = self.estate
        estate.ports.of("prometheus")
        text = estate.config.read_text(encoding="utf-8")
        text = rewrite(
            text, {("observe", "interval"): toml("1s"), ("observe", "min_requests"): toml(20)}
        )
        text = text.replace("max_ms = 5000\n", f"max_ms = {LATENCY_MS}\n", 1)
        evidence = [
            'driver = "prometheus"',
            f'url = "{estate.ports.url("prometheus")}"',
            "matcher = 'job=\"gateway\"'",
            f"gateways = {GATEWAYS}",
            'staleness = "5s"',
        ]
        text = text.replace('driver = "scrape"', "\n".join(evidence), 1)
        for kind in ("page", "chat"):
            here = f'kind = "webhook"\nurl = "{self.receiver.url}/{kind}"\n'
            head, section, tail = text.partition(f"[observe.{kind}]\n")
            _, _, after = tail.partition("\n\n")
            text = f"{head}{section}{here}\n{after}"
        text += f'\n[[notify]]\nname = "team"\nurl = "{self.receiver.url}/team"\n'
        estate.config.write_text(text, encoding="utf-8")
        self.monitor()

    def monitor(self) -> None:
        """Prometheus over all pods there are at any moment, with the rules of this estate."""
        estate = self.estate
        folder = estate.directory / "observe"
        self.discovery = Discovery(estate, estate.directory / "pods.json")
        self.type("observe", "rules", "--out", str(folder))
        self.type("observe", "alertmanager", "--out", str(folder))
        self.monitoring = programs.start(
            estate.directory,
            estate.children,
            {"splitctl": [estate.sync_url.removeprefix("http://")]},
            rules=next(folder.glob("*rules*")),
            alertmanager=next(folder.glob("*alertmanager*")),
            port=estate.ports.of("prometheus"),
            discovered=[self.discovery.scrape],
        )

    # What tests do

    def customers_come(self, think_ms: float = THINK_MS, shoppers: int = SHOPPERS) -> None:
        """More of them, and quicker: gates wait for as many as they need."""
        super().customers_come(think_ms, shoppers)

    def advance(self, domain: str, to: int, *arguments: str) -> None:
        """Up to a percentage, phase by phase, each verified and soaked."""
        for _ in range(4):
            stands = self.domain(domain)
            if stands["asked"] >= to:
                return
            if stands["asked"]:
                self.type("rollout", "watch", domain, "--timeout", "60s", *arguments)
            self.step(domain, *arguments)
            assert self.verify("--domain", domain)["verdict"] == "equal"
        assert self.domain(domain)["asked"] == to

    def step(self, domain: str, *arguments: str) -> dict[str, Any]:
        """One step. On a busy machine few customers come, and its proof takes a watch besides.

        What chance may still explain, such as a share of few customers, is asked again later.
        """
        watch = ("rollout", "watch", domain, "--timeout", "60s", *arguments)
        for _ in range(PATIENCE):
            made = self.type("rollout", "advance", domain, *arguments, expect=(0, 4, 7))
            if made.record.exit_code != 4:
                break
            self.type(*watch, expect=(0, 4, 7))
        assert made.record.exit_code != 4, made.stderr
        if made.record.exit_code != 0:
            self.type("rollout", "watch", domain, "--timeout", "90s", *arguments, expect=(0, 4, 7))
        return dict(made.data)

    @contextmanager
    def command(self, *arguments: str) -> Iterator["Running"]:
        """A command that goes on while the test does something; it is ended with the block."""
        running = Running(self, arguments)
        try:
            yield running
        finally:
            running.end()

    def unattended(self, domain: str, *arguments: str) -> AbstractContextManager["Running"]:
        """`rollout run`, which goes no further than the present phase."""
        asked = self.domain(domain)["asked"]
        command = ("rollout", "run", domain, "--until", str(asked), "--hold", "20m")
        return self.command(*command, *arguments)

    def other_config(self, name: str, change: Callable[[str], str]) -> str:
        """A configuration beside the estate's own."""
        text = self.estate.config.read_text(encoding="utf-8")
        changed = change(text)
        assert changed != text
        path = self.estate.config.with_name(f"{name}.toml")
        path.write_text(changed, encoding="utf-8")
        return str(path)

    def patient(self) -> str:
        """A configuration whose phases last longer than any test."""
        soak = f'soak = "{SOAK_S:g}s"'
        return self.other_config("patient", lambda text: text.replace(soak, 'soak = "20m"'))

    def hurried(self, settle: str) -> str:
        """A configuration that waits no longer than this for the last gateway."""
        return self.other_config(
            "hurried", lambda text: re.sub('settle = ".*"', f'settle = "{settle}"', text)
        )

    def asking_for_conversion(self) -> str:
        """A configuration whose only phase is 50 %, with a gate that compares those who moved."""

        def change(text: str) -> str:
            single = 'phases = [{ percentage = 50, soak = "20m" }]'
            return re.sub(r"phases = \[.*\]", single, text) + CONVERSION

        return self.other_config("conversion", change)

    def put_back_by(self, manager: str, domain: str) -> None:
        """Somebody else takes the percentage over, and sets it to 0."""
        self.written.apply_flags(manager, {self._percentage_of(domain): "0"})

    def given_up_by(self, manager: str) -> None:
        """What somebody else had taken over is nobody's then, and goes."""
        self.written.apply_flags(manager, {})

    @property
    def written(self) -> UnfencedEstate:
        """The estate, where flags stand in the cluster."""
        assert isinstance(self.estate, UnfencedEstate)
        return self.estate

    def _percentage_of(self, domain: str) -> str:
        settings = tomllib.loads(self.estate.config.read_text(encoding="utf-8"))
        name: str = settings["domains"][domain]["percentage"]
        return name

    def strike(self, name: str, rate: float = 0.0, delay_ms: int = 0) -> None:
        """Every pod of a service: writes fail at this rate, answers are late by so much."""
        for page in self.estate.pages(name, "/admin/fault"):
            httpx.post(page, json={"rate": rate, "delay_ms": delay_ms}).raise_for_status()

    def put_off(self, share: float) -> None:
        """So many of those who would have bought on the new side do not."""
        domains = {name: {"stage": "live", "percentage": 0} for name in self.estate.domains}
        told = {"domains": domains, "pace": 1, "reluctance": {"new": share}}
        write_whole(self.estate.directory / STAGE, json.dumps(told))

    def served(self, domain: str) -> set[int]:
        """The percentages that gateways serve."""
        return {gateway["percentage"] for gateway in self.domain(domain)["served"]}

    def owned(self, domain: str) -> set[int]:
        """The percentages by the owners' rows of both sides."""
        return {owner["percentage"] for owner in self.domain(domain)["owned"]}

    def notices(self, event: str) -> list[dict[str, Any]]:
        """What the team was told of one kind of event."""
        told = [json.loads(letter.body) for letter in self.receiver.to("/team")]
        return [notice for notice in told if notice["event"] == event]

    def shop_goes_on(self, writes: int = 60) -> None:
        """Until customers have written so much more."""
        before = self.writes()
        assert wait_until(lambda: self.writes() > before + writes, LIMIT_S)

    def whole(self) -> dict[str, Any]:
        """At 0 %, without customers: every acknowledged write is there, both sides are equal."""
        found = self.witness()
        assert (found["lost_writes"], found["duplicate_orders"]) == (0, 0), found["samples"]
        assert self.verify()["verdict"] == "equal"
        strays = sum(int(stream["strays"] or 0) for stream in self.streams())
        assert strays == 0, self.streams()
        return found

    def streams(self) -> list[dict[str, Any]]:
        """The sync worker's own report."""
        answer = httpx.get(f"{self.estate.sync_url}/status", timeout=10.0).json()
        return list(answer["streams"].values())

    def measured(self, what: str, **figures: Any) -> None:
        """Write down what was measured, for docs/nine-days.md."""
        line = json.dumps({"what": what, "driver": type(self.estate).__name__, **figures})
        print(line)
        if self.results is not None:
            with self.results.open("a", encoding="utf-8") as file:
                file.write(line + "\n")


class Running:
    """A command that goes on while the test does something; its lines with the time of each."""

    def __init__(self, split: NineDays, arguments: Sequence[str]) -> None:
        environment = {
            "SPLITCTL_CONFIG": str(split.estate.config),
            "SPLITCTL_STATE_DIR": str(split.state),
        }
        self.lines: list[tuple[float, str]] = []
        self._process = subprocess.Popen(
            leashed(module("splitctl", *arguments)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append((time.monotonic(), line.rstrip("\n")))
            print(f"    run: {line}", end="")

    def says(self, text: str, limit_s: float = LIMIT_S) -> float:
        """Wait until a line holds this; returns when it came (monotonic seconds)."""
        found: list[float] = []

        def said() -> bool:
            found[:] = [at for at, line in self.lines if text in line]
            return bool(found) or self._process.poll() is not None

        wait_until(said, limit_s)
        assert found, (text, [line for _, line in self.lines])
        return found[0]

    def ended(self, limit_s: float = LIMIT_S) -> int:
        """Wait for its end; its exit code."""
        code = self._process.wait(timeout=limit_s)
        self._reader.join(timeout=5.0)
        return code

    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """As by kill -9."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(timeout=10.0)

    def end(self) -> None:
        """Ask it to end; by force where it does not."""
        if self.alive():
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=30.0)
        if self.alive():
            self.kill()


class Discovery:
    """Keeps a file of targets up to date with the pods that run.

    In place of Prometheus' own discovery in Kubernetes, which Debian's is built without.
    """

    def __init__(self, estate: ClusterEstate, path: Path) -> None:
        self._estate, self._path = estate, path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._write()
        self._thread.start()

    @property
    def scrape(self) -> Object:
        """The entry of `scrape_configs`."""
        return {
            "job_name": "pods",
            "file_sd_configs": [{"files": [str(self._path)], "refresh_interval": "1s"}],
        }

    def stop(self) -> None:
        """Leave the file as it is."""
        self._stop.set()
        self._thread.join(timeout=10.0)

    def _follow(self) -> None:
        while not self._stop.wait(0.2):
            self._write()

    def _write(self) -> None:
        found = []
        for pod in self._estate.kubelet.running():
            job = re.sub(r"-[0-9]+$", "", pod.labels["app"])
            if job in SCRAPED:
                target = [f"{pod.ip}:{PORT}"]
                found.append({"targets": target, "labels": {"job": job, "instance": pod.name}})
        write_whole(self._path, json.dumps(found))
