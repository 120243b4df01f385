"""The story of a rehearsal: the steps of a split, typed as a release engineer would type them."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rehearsal.certificate import LEAST_WRITES_PER_STAGE, STAGES_WORTH, Evidence
from rehearsal.children import write_whole
from rehearsal.commands import CommandAnswer
from rehearsal.scene import DomainScene, Scene
from rehearsal.tally import Tally, sides_in_use

EVIDENCE_LIMIT_S = 240.0
FIRST_ASCENT, SECOND_ASCENT = (10, 50), (10, 50, 100)
INCONCLUSIVE, IN_PROGRESS = 4, 7
# So often a step that lacks evidence is tried again, each time after a watch.
PATIENCE = 4
# Nobody may meet a fence that is up for twenty milliseconds, and then it was not tried.
RUSH = 5


class Typist(Protocol):
    """Whoever types the commands."""

    def run(
        self, *arguments: str, expect: tuple[int, ...] = (0,), timeout_s: float = 600
    ) -> CommandAnswer:
        """Type one command and wait for its end."""


class Ground(Protocol):
    """The part of the estate that the story has to start by hand, as operations would."""

    def start_new_services(self) -> None:
        """Start the services of the new side; their tables exist."""

    def start_sync(self) -> None:
        """Start `splitctl sync run` as a service."""


class EvidenceMissing(Exception):
    """A stage did not see enough writes in time, so nothing can be said of it."""


class Story:
    """Tells the story once. Everything that was measured goes to `evidence`."""

    def __init__(
        self,
        *,
        typist: Typist,
        ground: Ground,
        scene: Scene,
        evidence: Evidence,
        tally: Tally,
        stage_file: Path,
        domains: list[str],
        soak_s: float,
        on_step: Callable[[str], None],
        least_writes: int = LEAST_WRITES_PER_STAGE,
    ) -> None:
        self.typist, self.ground, self.scene, self.evidence = typist, ground, scene, evidence
        self.tally, self.stage_file, self.soak_s = tally, stage_file, soak_s
        self.stages: dict[str, tuple[str, int]] = dict.fromkeys(domains, ("off", 0))
        self.on_step, self.least_writes = on_step, least_writes
        self._pace = 1
        self._write_stages()

    @property
    def domains(self) -> list[str]:
        """The domains, in the order of the configuration."""
        return list(self.stages)

    def tell(self) -> None:
        """The whole story. Raises CommandFailed or EvidenceMissing."""
        self.prepare()
        self.ascend(FIRST_ASCENT)
        self.fall_back()
        self.ascend(SECOND_ASCENT)
        self.finish()

    def prepare(self) -> None:
        """Schema, dual-write, backfill, and the first verification."""
        self.on_step("the old estate serves everyone")
        self._gather("off", 0)
        self.on_step("create the new tables")
        self.typist.run("schema", "apply")
        self.ground.start_new_services()
        self.on_step("dual-write")
        for domain in self.domains:
            self.typist.run("sync", "enable", domain)
        self.ground.start_sync()
        self._enter("dual-write", 0)
        self.on_step("backfill")
        for domain in self.domains:
            answer = self.typist.run("backfill", "run", domain)
            self.evidence.backfills.append(answer.data)
        self.verify("verify before the first customer moves")
        self._gather("dual-write", 0)
        for domain in self.domains:
            self.typist.run("rollout", "start", domain)

    def ascend(self, percentages: tuple[int, ...]) -> None:
        """Raise each domain to each percentage, and soak."""
        for percentage in percentages:
            self.on_step(f"{percentage} %")
            for domain in self.domains:
                with self._rush():
                    self.evidence.steps.append(self._advance(domain))
                self._enter("live", percentage, domain)
            self.verify(f"{percentage} %: verify", f"{percentage} %: soak")
            self._watch()
            self._proofs()
            self._gather("live", percentage)

    def _advance(self, domain: str) -> dict[str, Any]:
        """One step. Gateways that started anew for another domain have to see customers first."""
        for _ in range(PATIENCE):
            expect = (0, INCONCLUSIVE, IN_PROGRESS)
            answer = self.typist.run("rollout", "advance", domain, expect=expect)
            # A step that only lacks customers to prove it is made: the watch after it waits.
            if answer.record.exit_code == 0 or "proof" in answer.data:
                break
            self._watch()
        else:
            raise EvidenceMissing(f"{domain}: the gates stay inconclusive")
        data: dict[str, Any] = answer.data
        return data

    def _proofs(self) -> None:
        """What the watch has found of steps that were not proven at once."""
        for step in self.evidence.steps:
            if (step.get("proof") or {}).get("word") == "proven":
                continue
            events = self.typist.run("rollout", "history", step["domain"]).data
            proven = [event["data"] for event in events if event["kind"] == "proven"]
            found = [data for data in proven if data["epoch"] == step["epoch"]]
            step["proof"] = found[-1] if found else step.get("proof")

    def fall_back(self) -> None:
        """Everyone back to the old side, as on-call would."""
        self.on_step("rollback")
        with self._rush():
            answer = self.typist.run("rollback")
        self.evidence.rollbacks += answer.data["rollbacks"]
        self._enter("live", 0)
        self.verify("verify after the rollback")
        self._gather("live", 0)

    def finish(self) -> None:
        """Rampdown, the last verification, archive."""
        self.on_step("rampdown")
        for domain in self.domains:
            self.typist.run("decommission", "rampdown", domain)
        self._enter("rampdown", 100)
        self.verify("verify at the end")
        self._gather("rampdown", 100)
        self._gather_in_all()
        self.on_step("archive")
        for domain in self.domains:
            self.typist.run("decommission", "archive", domain, "--confirm", domain)
            self._enter("complete", 100, domain)
        self._gather("complete", 100)

    def verify(self, step: str, then: str | None = None) -> None:
        """Compare both sides; what differs goes to the certificate, not to an exception."""
        self.on_step(step)
        answer = self.typist.run("verify", "run", expect=(0, 3, 4))
        self.evidence.verdicts.append(answer.data)
        if answer.record.exit_code != 0:
            self.scene.tell("warning", f"verify: {answer.data.get('verdict')}")
        if then:
            self.on_step(then)

    def _watch(self) -> None:
        answer = self.typist.run("rollout", "watch", "--soak", f"{self.soak_s:g}s")
        gates = answer.data.get("gates", []) if isinstance(answer.data, dict) else []
        with self.scene.lock:
            for gate in gates:
                name = f"{gate.get('domain', '')} {gate.get('name', '')}".strip()
                self.scene.gates[name] = str(gate.get("verdict"))

    def _enter(self, stage: str, percentage: int, domain: str | None = None) -> None:
        for name in [domain] if domain else self.domains:
            self.stages[name] = (stage, percentage)
        self._write_stages()

    @contextmanager
    def _rush(self) -> Iterator[None]:
        """Customers are moved while everybody clicks as fast as on the busiest day."""
        self._pace = RUSH
        self._write_stages()
        try:
            yield
        finally:
            self._pace = 1
            self._write_stages()

    def _write_stages(self) -> None:
        data = {
            name: {"stage": stage, "percentage": percentage}
            for name, (stage, percentage) in self.stages.items()
        }
        write_whole(self.stage_file, json.dumps({"domains": data, "pace": self._pace}))
        with self.scene.lock:
            for name, (stage, percentage) in self.stages.items():
                scene = self.scene.domains.setdefault(name, DomainScene())
                scene.stage, scene.asked = stage, percentage

    def _gather(self, stage: str, percentage: int) -> None:
        """Wait until every side in use has acknowledged enough writes at this stage."""

        def counts() -> dict[str, int]:
            sides = sides_in_use(percentage)
            return {f"on {side}": self.tally.at(stage, percentage, side) for side in sides}

        self._await_writes(f"{stage} {percentage} %", counts, self.least_writes)

    def _gather_in_all(self) -> None:
        """A quick machine is through the story sooner, and has seen less by then."""
        least = self.least_writes * STAGES_WORTH
        self._await_writes("the whole story", lambda: {"in all": self.tally.total}, least)

    def _await_writes(self, where: str, counts: Callable[[], dict[str, int]], least: int) -> None:
        limit = time.monotonic() + EVIDENCE_LIMIT_S
        while True:
            self.tally.read()
            found = counts()
            if all(count >= least for count in found.values()):
                return
            if time.monotonic() > limit:
                raise EvidenceMissing(f"{where}: only {found} writes were seen")
            told = ", ".join(f"{count} {place}" for place, count in found.items())
            with self.scene.lock:
                self.scene.progress = f"gathering writes: {told}, of {least}"
            time.sleep(0.5)
