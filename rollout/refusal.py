"""Do the services refuse whom they do not own? Asked as customers ask, with reads alone.

Without a fence everything rests on that (`gateway.owners_refuse`): a gateway whose flags come early
or late sends customers to a side that does not own them. So each side is sent the first reading
step of the domain's flows, for a test customer of the other side's: it has to answer 421, whether
or not there is anything to read. For one of its own it must not. A service that passes on is asked
as its peer asks it: whom it may not pass on any more, it has to refuse as well.
"""

import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

from estate.config import BUCKETS, Config, Problem
from estate.config.flows import SideUrls
from estate.errors import SplitctlError, in_one_line
from migrator.ownership import OwnerMissing
from rollout import parallel
from rollout.flows import Flow, Request, Step, Walk, read_all
from rollout.placing import Buckets, Customers
from rollout.world import SIDES

if TYPE_CHECKING:
    from rollout.tools import Tools

MISDIRECTED, GONE = 421, 410
# Whoever gets this answers himself, whomever he would pass on otherwise.
PASSED_ON = {"X-Passed-On": "1"}
ANSWER_S = 5.0
KEY = "gateway.owners_refuse"


class Invented(dict[str, Any]):
    """What earlier steps would have given: ids of things that are not there."""

    def __missing__(self, name: str) -> str:
        self[name] = str(uuid.uuid4())
        found: str = self[name]
        return found


def problems(config: Config, domain: str, tools: "Tools") -> list[Problem]:
    """What keeps `owners_refuse` from being believed; empty when both sides do as it says.

    A side that owns everybody has nobody to refuse: it is asked from the first step on. Raises
    OwnerMissing before sync is enabled, and after it was torn down: nobody is moving.
    """
    world = tools.world(domain)
    try:
        flows = [flow for flow in read_all(config) if flow.domain == domain]
        thresholds = [world.owner(side).new_below for side in SIDES]
    except OwnerMissing:
        raise
    except SplitctlError as error:
        return [Problem(KEY, f"it could not be asked: {error}", error.next_command)]
    finally:
        world.close()
    urls = config.flows.urls.get(domain)
    if urls is None:
        reason = f"nothing says where the sides of {domain} are asked directly"
        remedy = f"Give [flows.urls.{domain}] with old and new, the services' own addresses."
        return [Problem(KEY, reason, remedy)]
    owned = {"new": Buckets(0, min(thresholds)), "old": Buckets(max(thresholds), BUCKETS)}
    return unrefused(domain, flows, urls, owned, config.flows.customer)


def unrefused(
    domain: str,
    flows: Sequence[Flow],
    urls: SideUrls,
    owned: Mapping[str, Buckets],
    prefix: str,
) -> list[Problem]:
    """Each answer that is not the contract's. `owned` by side; `prefix` of test customers' ids."""
    asked = [(flow, step) for flow in flows if (step := _reading(flow)) is not None]
    if not asked:
        reason = f"no flow of {domain} has a step that reads, so nobody can be asked"
        return [Problem(KEY, reason, "Give one of its flow files a step with method GET.")]
    chance = random.Random()
    ids = Customers(prefix, chance)
    tasks = {}
    for flow, step in asked:
        for owner in SIDES:
            if owned[owner].empty:
                continue
            values = Invented(ids.values(owned[owner], 0))
            request = Walk(flow, values, chance).request(step)
            for side in SIDES:
                url = (urls.old if side == "old" else urls.new).rstrip("/")
                tasks[flow.name, side, owner] = partial(_status, url, request)
    told: list[Problem] = []
    for (flow_name, side, owner), outcome in parallel.gather(tasks, ANSWER_S).items():
        who = f"the {side} service of {domain}"
        if side == "old" and outcome.value == GONE:
            # For whomever: after a rollback it is asked for its own customers first.
            told.append(_without_code(who, domain))
        else:
            told += _lacks(who, flow_name, side == owner, outcome)
    return list(dict.fromkeys(told))


def _without_code(who: str, domain: str) -> Problem:
    reason = f"{who} answers 410: a finish has taken its code away, and customers who come back"
    remedy = f"Point flows.urls.{domain}.old at the way back (docs/finish.md)."
    return Problem(KEY, f"{reason} are served by the way back, which is not asked", remedy)


def _lacks(who: str, flow: str, own: bool, outcome: "parallel.Outcome[int]") -> Iterator[Problem]:
    if outcome.value is None:
        reason = f"{who} could not be asked (flow {flow}): {in_one_line(outcome.error)}"
        yield Problem(KEY, reason, "Start it, or correct [flows.urls].")
    elif own and outcome.value == MISDIRECTED:
        reason = f"{who} answers 421 to a customer whom its database owns (flow {flow})"
        yield Problem(KEY, reason, "See which side it believes to be (OWNER_SIDE).")
    elif not own and outcome.value != MISDIRECTED:
        reason = (
            f"{who} answers {outcome.value} instead of 421 to a customer whom the other side owns"
            f" (flow {flow})"
        )
        yield Problem(KEY, reason, "Have it ask the owner first (docs/drivers.md, OWNER_SIDE).")


def _reading(flow: Flow) -> Step | None:
    steps = (step for step in flow.steps if step.method == "GET" and not step.prepares)
    return next(steps, None)


def _status(url: str, request: Request) -> int:
    with httpx.Client(trust_env=False, timeout=ANSWER_S / 2) as client:
        answer = client.get(url + request.path, headers={**request.headers, **PASSED_ON})
    return answer.status_code
