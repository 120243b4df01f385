"""Services are asked whether they refuse whom they do not own: those that pass on, too, and only
where somebody owns anybody."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from estate.config import Config, Problem, SideUrls
from migrator.ownership import OwnerMissing, bucket
from rehearsal.postgres import free_port
from rollout import refusal
from rollout.tools import Tools
from rollout.world import SIDES, Ownership, Side
from services.passing import in_front
from splitctl import doctor
from tests.rollout.rig import DOMAIN, Rig
from tests.services.conftest import ROOT, Host

NAME = "checkout"
Ask = Callable[[int], list[Problem]]


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.stop()


def service(side: Side, below: int) -> ASGIApp:
    """Refuses whom its side does not own; of the others it knows nothing."""

    async def answer(request: Request) -> Response:
        of_new = bucket(request.headers["x-customer-id"]) < below
        return Response(status_code=404 if of_new == (side == "new") else 421)

    return Starlette(routes=[Route("/{path:path}", answer)])


async def _moved(_: Request) -> Response:
    return Response(status_code=410)


WITHOUT_CODE = Starlette(routes=[Route("/{path:path}", _moved)])


def configured(plain: Config, urls: dict[Side, str]) -> Config:
    files = [ROOT / "flows" / "cart.toml"]
    flows = {"files": files, "urls": {NAME: SideUrls(old=urls["old"], new=urls["new"])}}
    domains = {NAME: plain.domains[DOMAIN]}
    changes = {"domains": domains, "flows": plain.flows.model_copy(update=flows)}
    return plain.model_copy(update=changes)


def owning(below: int) -> Tools:
    rig = Rig()
    rig.world.owners.update(dict.fromkeys(SIDES, Ownership(below, 2)))
    return rig.tools(nullcontext)


@pytest.fixture
def addresses() -> dict[Side, str]:
    return {side: f"http://127.0.0.1:{free_port()}" for side in SIDES}


def serve(host: Host, url: str, app: ASGIApp) -> None:
    host.serve(app, int(url.rsplit(":", 1)[1]))


@pytest.mark.parametrize("below", [0, 1000, 10_000])
def test_services_that_pass_on_are_found_to_refuse(
    plain_config: Config, host: Host, addresses: dict[Side, str], below: int
) -> None:
    """Their customers see no 421; whoever asks as the other service does sees it."""
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        app = in_front(service(side, below), side, side, {NAME: addresses[other]})
        serve(host, addresses[side], app)
    assert refusal.problems(configured(plain_config, addresses), NAME, owning(below)) == []


def test_services_that_pass_on_and_refuse_nobody_are_named(
    plain_config: Config, host: Host, addresses: dict[Side, str]
) -> None:
    for side, other in zip(SIDES, reversed(SIDES), strict=True):
        takes_all = service(side, 10_000 if side == "new" else 0)
        serve(host, addresses[side], in_front(takes_all, side, side, {NAME: addresses[other]}))
    told = refusal.problems(configured(plain_config, addresses), NAME, owning(1000))
    assert {problem.reason.split(" to a")[0] for problem in told} == {
        f"the {side} service of {NAME} answers 404 instead of 421" for side in SIDES
    }


@pytest.mark.parametrize("below", [10_000, 0])
def test_after_a_finish_the_way_back_is_what_is_to_be_asked(
    plain_config: Config, host: Host, addresses: dict[Side, str], below: int
) -> None:
    """Also when everybody came back: the code that serves them was not asked."""
    serve(host, addresses["old"], WITHOUT_CODE)
    serve(host, addresses["new"], service("new", below))
    (told,) = refusal.problems(configured(plain_config, addresses), NAME, owning(below))
    assert "the old service of checkout answers 410: a finish has taken its code away" in (
        told.reason
    )
    assert "Point flows.urls.checkout.old at the way back" in told.remedy


def test_where_nobody_owns_anybody_the_doctor_finds_nothing_wrong_and_nothing_proven(
    plain_config: Config, addresses: dict[Side, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before sync is enabled, and after it was torn down."""
    config = configured(plain_config, addresses)
    rig = Rig()

    def missing(side: Side) -> Ownership:
        raise OwnerMissing(database=side, domain=NAME)

    monkeypatch.setattr(rig.world, "owner", missing)
    tools = rig.tools(nullcontext)
    asked = replace(
        tools, refusing=True, unrefused=lambda name: refusal.problems(config, name, tools)
    )
    monkeypatch.setattr("rollout.tools.Tools.of", lambda _: asked)
    found = doctor.Examination([], [], [])
    doctor._refusals(config, NAME, found)
    assert (found.problems, found.healthy) == ([], [])
