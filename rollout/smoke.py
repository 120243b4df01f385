"""Smoke: each flow walked once by a test customer, at each place, and what each step came to.

It never makes a stray: a side is asked directly only on behalf of customers it owns. Where it owns
nobody, only its health is asked.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import httpx

from estate.config import Config
from estate.errors import in_one_line
from migrator.mapping import Side
from rollout import flows, placing
from rollout.flows import Flow, Request, Step, Walk
from rollout.placing import SERVED_BY, Customers, Place, Served, Standing, Through
from rollout.smoke_report import Run, SmokePlan, SmokeReport, StepResult
from rollout.tools import Tools

WHOLE_S = 120.0


class Unreached(Exception):
    """No answer came; the message says why."""


@dataclass(frozen=True)
class Errand:
    """A flow to be walked at a place."""

    flow: Flow
    place: Place


@dataclass
class Errands:
    """All that is to be asked: health first, then flows. `held_back` says what is left out."""

    places: list[Place] = field(default_factory=list)
    walks: list[Errand] = field(default_factory=list)
    held_back: list[str] = field(default_factory=list)
    away: dict[str, str] = field(default_factory=dict)


def errands(
    config: Config,
    tools: Tools,
    domains: Sequence[str],
    through: Through,
    confirm: str | None = None,
) -> Errands:
    """What there is to ask. Raises NoFlow, FlowInvalid, UnknownName, OwnersUnknown, SideUnknown."""
    wanted = flows.read_all(config)
    for domain in domains:
        config.domain(domain)
        if all(flow.domain != domain for flow in wanted):
            raise flows.NoFlow(what=f"Domain '{domain}'", path=config.path)
    found = Errands()
    for domain in domains or dict.fromkeys(flow.domain for flow in wanted):
        standing = placing.standing(domain, tools)
        found.away |= standing.away
        places = list(placing.places(config, domain, through, {domain: standing}))
        if through != "gateway" and not places:
            places = _unowned(config, standing, through, confirm, found)
        found.places += places
        usable = [place for place in places if not place.buckets.empty]
        mine = [flow for flow in wanted if flow.domain == domain]
        found.walks += [Errand(flow, place) for place in usable for flow in mine]
    return found


def doors(config: Config, domains: Sequence[str], through: Through) -> Errands:
    """What can be asked for its health without knowing who owns whom."""
    if through == "gateway":
        return Errands([Place(url, url, url, None) for url in placing.gateways(config)])
    nobody = placing.Buckets(0, 0)
    for domain in domains:
        config.domain(domain)
    wanted = domains or config.domains
    return Errands([placing.direct(config, domain, through, nobody) for domain in wanted])


def _unowned(
    config: Config, standing: Standing, side: Side, confirm: str | None, found: Errands
) -> list[Place]:
    """A side that owns nobody: its health is asked, and flows only where nothing is carried yet."""
    place = placing.direct(config, standing.domain, side, standing.of(side))
    nobody = f"the {side} side owns no customer of {standing.domain}"
    if standing.carried:
        found.held_back.append(f"{nobody}, so every write there would be a stray")
    elif confirm == standing.domain:
        return [replace(place, buckets=placing.EVERYBODY)]
    else:
        found.held_back.append(
            f"{nobody}; sync is not enabled, so --confirm {standing.domain} has the flows write "
            "there, rows that must be gone before the backfill"
        )
    return [place]


class Smoke:
    """Walks errands one after the other. Times in seconds; the whole ends after `whole_s`."""

    def __init__(self, config: Config, whole_s: float, on_progress: Callable[[str], None]) -> None:
        self._config, self._tell = config, on_progress
        self._request_s = config.flows.request_timeout.total_seconds()
        self._end = time.monotonic() + whole_s
        self._chance = random.Random()
        self._customers = Customers(config.flows.customer, self._chance)

    async def run(self, asked: Errands) -> list[Run]:
        """Everything, in order. A step that does not come ends its flow, not the run."""
        runs = []
        async with httpx.AsyncClient(trust_env=False, timeout=self._request_s) as client:
            ready: dict[str, Place] = {place.url: place for place in asked.places}
            for place in ready.values():
                runs.append(await self._health(client, place))
            for number, errand in enumerate(asked.walks):
                runs.append(await self._walk(client, errand, number))
        return runs

    async def _health(self, client: httpx.AsyncClient, place: Place) -> Run:
        request = Request("GET", self._config.flows.health, {})

        def judge(answer: httpx.Response) -> str | None:
            return None if answer.is_success else f"status {answer.status_code}"

        result = await self._step(client, "ready", request, place.url, judge)
        # A gateway is as ready for one side as for the other.
        name = place.name if place.name == place.url else f"{place.name} ({place.url})"
        return Run("health", "every domain", name, None, None, [result])

    async def _walk(self, client: httpx.AsyncClient, errand: Errand, number: int) -> Run:
        flow, place = errand.flow, errand.place
        values = self._customers.values(place.buckets, number)
        walk = Walk(flow, dict(values), self._chance)
        results: list[StepResult] = []
        for step in flow.steps:
            if results and results[-1].outcome != "ok":
                results.append(StepResult(step.name, "not run"))
                continue
            base, judge = place.url_of(step.prepares), partial(_wrong, walk, step, place)
            results.append(await self._step(client, step.name, walk.request(step), base, judge))
        run = Run(flow.name, flow.domain, place.name, place.side, str(values["customer"]), results)
        self._tell(f"{run.title}: {run.outcome}")
        return run

    async def _step(
        self,
        client: httpx.AsyncClient,
        name: str,
        request: Request,
        base: str,
        judge: Callable[[httpx.Response], str | None],
    ) -> StepResult:
        began = time.monotonic()
        try:
            answer = await self._send(client, request, base)
        except Unreached as error:
            ms = 1000 * (time.monotonic() - began)
            return StepResult(name, "unreached", ms=round(ms, 1), reason=str(error))
        ms = round(1000 * (time.monotonic() - began), 1)
        by, wrong = answer.headers.get(SERVED_BY), judge(answer)
        if wrong is None:
            return StepResult(name, "ok", answer.status_code, ms, by)
        told = flows.excerpt(answer.content)
        return StepResult(name, "failed", answer.status_code, ms, by, wrong, told)

    async def _send(self, client: httpx.AsyncClient, request: Request, base: str) -> httpx.Response:
        """The answer. Raises Unreached."""
        left = min(self._request_s, self._end - time.monotonic())
        if left <= 0:
            raise Unreached("the time for the whole run is over")
        try:
            async with asyncio.timeout(left):
                return await client.request(
                    request.method, base + request.path, json=request.body, headers=request.headers
                )
        except TimeoutError:
            raise Unreached(f"no answer within {left:.1f} s") from None
        except httpx.HTTPError as error:
            raise Unreached(in_one_line(error)) from error


def _wrong(walk: Walk, step: Step, place: Place, answer: httpx.Response) -> str | None:
    """Why an answer is not the expected one, or is not the expected side's."""
    wrong = walk.judge(step, answer.status_code, answer.content)
    if wrong or step.prepares or place.url != place.gateway:
        return wrong  # what is asked directly answers itself
    served = Served.parse(answer.headers.get(SERVED_BY))
    if served is None:
        return f"the gateway does not tell in {SERVED_BY} which side served"
    if place.side not in (None, served.side):
        return f"served by the {served.side} side instead of the {place.side} side"
    return None


def smoke(
    config: Config,
    domains: Sequence[str] = (),
    through: Through = "gateway",
    *,
    health_only: bool = False,
    confirm: str | None = None,
    whole_s: float = WHOLE_S,
    on_progress: Callable[[str], None] = lambda _: None,
    tools: Tools | None = None,
) -> SmokeReport:
    """Walk every flow of these domains (all: none named). See `errands` for what it raises."""
    asked = _asked(config, domains, through, health_only, confirm, tools)
    runs = asyncio.run(Smoke(config, whole_s, on_progress).run(asked))
    return SmokeReport(through, runs, asked.held_back, asked.away)


def plan(
    config: Config,
    domains: Sequence[str] = (),
    through: Through = "gateway",
    *,
    health_only: bool = False,
    confirm: str | None = None,
    tools: Tools | None = None,
) -> SmokePlan:
    """What `smoke` would send; nothing is sent but the question who owns whom."""
    asked = _asked(config, domains, through, health_only, confirm, tools)
    health = config.flows.health
    requests = [f"GET {url}{health}" for url in dict.fromkeys(p.url for p in asked.places)]
    requests += [
        f"{step.method} {errand.place.url_of(step.prepares)}{step.path}"
        for errand in asked.walks
        for step in errand.flow.steps
    ]
    return SmokePlan(requests, asked.held_back)


def _asked(
    config: Config,
    domains: Sequence[str],
    through: Through,
    health_only: bool,
    confirm: str | None,
    tools: Tools | None,
) -> Errands:
    if health_only:
        return doors(config, domains, through)
    return errands(config, tools or Tools.of(config), domains, through, confirm)
