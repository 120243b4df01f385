"""Along a rollout whose ledger is real and whose estate is in memory."""

import time
from collections.abc import Callable
from dataclasses import replace

from estate.config import Config
from estate.ledger import Rollout, open_ledger
from rollout import controller
from rollout.evidence import VERIFY
from rollout.step_plan import StepResult
from rollout.tools import Tools
from tests.rollout.rig import DOMAIN, Rig


def verified(config: Config, verdict: str = "equal") -> None:
    with open_ledger(config) as ledger:
        ledger.add_verdict(DOMAIN, VERIFY, VERIFY, verdict, {})


def row(config: Config) -> Rollout:
    with open_ledger(config) as ledger:
        found = ledger.rollout(DOMAIN)
    assert found is not None
    return found


def soaked(config: Config, rig: Rig, requests: int = 1000, errors: int = 0) -> None:
    """As if a watch had seen the whole soak: traffic, evidence, and a verification."""
    rig.traffic(old=requests, new=requests, errors=errors)
    with open_ledger(config) as ledger:
        found = ledger.rollout(DOMAIN)
        assert found is not None
        ledger.save_rollout(replace(found, soak_evidence_s=60.0))
    verified(config)


def started(config: Config, tools: Tools) -> None:
    verified(config)
    controller.start(config, DOMAIN, tools=tools)


def advanced(config: Config, tools: Tools, rig: Rig, *percentages: int) -> None:
    for percentage in percentages:
        if rig.served != {0}:
            soaked(config, rig)
        else:
            verified(config)
        result = controller.advance(config, DOMAIN, tools=tools)
        assert isinstance(result, StepResult), result
        assert rig.is_at(percentage)
        rig.percentage = percentage


def busy(rig: Rig, new: float = 50, errors: float = 0) -> Callable[[float], None]:
    """A sleep during which customers come."""

    def sleep(seconds: float) -> None:
        time.sleep(0.02)
        rig.clock.sleep(seconds)
        rig.traffic(old=100, new=new, errors=errors)

    return sleep
