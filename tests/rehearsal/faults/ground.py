"""A small split in dual-write with customers at work, on which the tests of this folder do harm."""

import json
import os
import subprocess
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from rehearsal.children import wait_until
from rehearsal.commands import CommandAnswer, Commands
from rehearsal.configuration import rewrite, toml
from rehearsal.estate import Estate
from rehearsal.postgres import FASTEST
from rehearsal.processes import Program, module
from rehearsal.recorder import FAILURES, WRITES
from rehearsal.seed import seed
from rehearsal.stock import STOCK
from rehearsal.witness import look_up
from tests.rehearsal.faults.faulty_sync import faulty_sync

CARTS, RETURNS, SHOPPERS, THINK_MS = 500, 100, 8, 120
MOST_ARRIVALS = 40
# Shorter than the shipped ones, so that a test need not wait long: a lease, and few samples.
LEASE_MS, LEAST_SAMPLES = 3000, 100


@dataclass
class Split:
    """An estate with sync live in both directions and both rollouts started, at 0 %."""

    estate: Estate
    typist: Commands = field(init=False)
    stock: dict[str, list[Any]] = field(default_factory=dict)
    arrivals: int = 0

    def __post_init__(self) -> None:
        self.typist = Commands(
            self.estate.config,
            {"SPLITCTL_STATE_DIR": str(self.state)},
            on_start=lambda line: print(f"$ {line}"),
            on_line=lambda line: print(f"    {line}"),
        )

    @classmethod
    def build(cls, directory: Path) -> "Split":
        """The estate, from nothing. Stop it with `estate.stop()` also when this raises."""
        settings = {**FASTEST, "shared_buffers": "32MB"}
        services = {"FAULT_ADMIN": "1"}
        return cls(Estate(directory, soak_s=2, settings=settings, environment=services))

    @property
    def state(self) -> Path:
        """Where the commands keep their log."""
        return self.estate.directory / "state"

    def begin(self) -> None:
        """Everything up to `rollout start`."""
        estate = self.estate
        estate.start_databases()
        self._configure()
        estate.prepare_old()
        number = {"carts": CARTS, "returns": RETURNS, "number": 1}
        seed(estate.database("order"), estate.directory, **number)
        self.stock = json.loads((estate.directory / STOCK).read_text(encoding="utf-8"))
        estate.start_old()
        self.type("schema", "apply")
        estate.start_new()
        for domain in estate.domains:
            self.type("sync", "enable", domain)
        estate.start_sync()
        self.customers_come()
        for domain in estate.domains:
            self.type("backfill", "run", domain)
        assert self.verify()["verdict"] == "equal"
        for domain in estate.domains:
            self.type("rollout", "start", domain)

    def _configure(self) -> None:
        text = self.estate.config.read_text(encoding="utf-8")
        text = rewrite(text, {("fence", "lease_ms"): toml(LEASE_MS)})
        # A busy machine is slow: latency must not answer before the gate that is tried.
        text = text.replace("max_ms = 1500\n", "max_ms = 5000\n")
        text = text.replace("min_samples = 200", f"min_samples = {LEAST_SAMPLES}")
        self.estate.config.write_text(text, encoding="utf-8")

    def type(
        self, *arguments: str, expect: tuple[int, ...] = (0,), timeout_s: float = 120
    ) -> CommandAnswer:
        """Type a command; its exit code must be one of these."""
        return self.typist.run(*arguments, expect=expect, timeout_s=timeout_s)

    def run(self, program: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Type a command at a module that stands for `splitctl`, and wait for its end."""
        environment = {
            "SPLITCTL_CONFIG": str(self.estate.config),
            "SPLITCTL_STATE_DIR": str(self.state),
        }
        return subprocess.run(
            module(program, *arguments), capture_output=True, text=True, timeout=120,
            env={**os.environ, **environment}, check=False,
        )  # fmt: skip

    def verify(self, *arguments: str) -> dict[str, Any]:
        """`verify run`, whatever its verdict."""
        return dict(self.type("verify", "run", *arguments, expect=(0, 3, 4)).data)

    def domain(self, name: str) -> dict[str, Any]:
        """What `status` says of a domain."""
        (found,) = (item for item in self.type("status").data["domains"] if item["domain"] == name)
        return dict(found)

    def customers_come(self, think_ms: float = THINK_MS, shoppers: int = SHOPPERS) -> None:
        """Other shoppers each time, at both gateways, with old carts and orders of their own."""
        mine = {name: items[self.arrivals :: MOST_ARRIVALS] for name, items in self.stock.items()}
        self.arrivals += 1
        assert self.arrivals <= MOST_ARRIVALS
        (self.estate.directory / STOCK).write_text(json.dumps(mine), encoding="utf-8")
        command = module("rehearsal.shoppers", "--dir", str(self.estate.directory))
        command += ["--shoppers", str(shoppers), "--seed", str(self.arrivals)]
        command += ["--think-ms", str(think_ms)]
        for url in self.estate.gateways:
            command += ["--gateway", url]
        self.estate.programs.start(Program("shoppers", command, {}))

    def customers_leave(self) -> None:
        """Every request under way is ended and written down."""
        self.estate.programs.stop("shoppers")
        # Each crowd counts its writes from one: number them through.
        path = self.estate.directory / WRITES
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        numbered = [json.dumps({**line, "n": n}) + "\n" for n, line in enumerate(lines, 1)]
        path.write_text("".join(numbered), encoding="utf-8")

    def sync_anew(self, fault: str = "") -> None:
        """The sync worker again, alone with a fault or without one."""
        self.estate.programs.stop("sync")
        with faulty_sync(fault) if fault else nullcontext():
            self.estate.start_sync()

    def failures(self) -> list[dict[str, Any]]:
        """What failed at customers so far; shoppers must have left."""
        text = (self.estate.directory / FAILURES).read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def writes(self) -> int:
        """Lines in the shoppers' record of acknowledged writes."""
        with (self.estate.directory / WRITES).open("rb") as file:
            return sum(1 for _ in file)

    def witness(self, percentages: Mapping[str, int] | None = None) -> dict[str, Any]:
        """Look up every acknowledged write; everyone on the old side unless told otherwise."""
        shares = dict.fromkeys(self.estate.domains, 0) | dict(percentages or {})
        databases = {name: self.estate.database(name) for name in self.estate.servers}
        return look_up(self.estate.directory, databases, shares)

    def fences(self, domain: str) -> list[dict[str, Any]]:
        """The fences that gateways hold now."""
        headers = {"Authorization": f"Bearer {self.estate.token}"}
        answers = [
            httpx.get(f"{url}/admin/fences/{domain}", headers=headers)
            for url in self.estate.gateways
        ]
        found = [dict(answer.json()) for answer in answers if answer.status_code == 200]
        return [fence for fence in found if fence["state"] == "holding"]

    def longest_hold_s(self) -> float:
        """The longest wait of any request at a fence, over both gateways, in seconds."""
        longest = 0.0
        for url in self.estate.gateways:
            for line in httpx.get(f"{url}/metrics").text.splitlines():
                if line.startswith("gateway_longest_hold_seconds{"):
                    longest = max(longest, float(line.rsplit(" ", 1)[1]))
        return longest


def rows_named(verdict: Mapping[str, Any]) -> set[tuple[str, str]]:
    """(mapping, value) of every key that a verdict names as different."""
    return {
        (mapping["mapping"], str(value))
        for mapping in verdict["mappings"]
        for sample in mapping["samples"]
        for value in sample["key"].values()
    }


def alive(pid: int) -> bool:
    """Whether a process is there and not dead."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return text[text.rindex(")") + 2] not in "ZX"


def processes_of(directory: Path) -> dict[int, str]:
    """Processes whose command line or environment names this directory, by the process table."""
    mark = str(directory).encode()
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        try:
            command = (path / "cmdline").read_bytes()
            environment = (path / "environ").read_bytes()
        except OSError:
            continue
        if pid != os.getpid() and (mark in command or mark in environment) and alive(pid):
            found[pid] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def none_left(directory: Path, limit_s: float = 10.0) -> dict[int, str]:
    """The processes of a directory that are still there after waiting for their end."""
    wait_until(lambda: not processes_of(directory), limit_s)
    return processes_of(directory)


def end(process: "subprocess.Popen[Any]") -> None:
    """Kill a process that a test started, if it is still there."""
    if process.poll() is None:
        process.kill()
    process.wait(timeout=10)
