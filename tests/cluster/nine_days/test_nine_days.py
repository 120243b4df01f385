"""10, 50 and 100 %, in minutes, and back with one command. Customers shop throughout."""

import time

import pytest

from tests.cluster.nine_days.ground import NineDays

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

WAY_UP = (10, 50, 100)


def test_up_to_100_percent_and_back(unharmed: NineDays) -> None:
    """No request fails; each step is proven to be live; every write is where it belongs."""
    ground = unharmed
    domains = ground.estate.domains
    for percentage in WAY_UP:
        for domain in domains:
            ground.advance(domain, percentage)
            assert (ground.served(domain), ground.owned(domain)) == ({percentage}, {percentage})
        ground.shop_goes_on(200)
    for domain in domains:
        assert ground.verify("--domain", domain)["verdict"] == "equal"
        ground.type("rollout", "watch", domain, "--timeout", "60s")
    began = time.monotonic()
    answer = ground.type("rollback")
    seconds = round(time.monotonic() - began, 2)
    for back in answer.data["rollbacks"]:
        assert (back["from"], back["to"], back["at_risk"]) == (100, 0, [])
        assert back["barrier_passed"]
        assert (ground.served(back["domain"]), ground.owned(back["domain"])) == ({0}, {0})
    served = [
        back["seconds_until_the_old_side_serves_everybody"] for back in answer.data["rollbacks"]
    ]
    ground.measured("rollback from 100 %", served_s=served, command_s=seconds)
    ground.shop_goes_on()
    ground.customers_leave()
    found = ground.whole()
    ground.customers_come()
    ground.measured("10, 50, 100 % and back", acknowledged=found["acknowledged_writes"], lost=0)
