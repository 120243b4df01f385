"""`python -m tests.rehearsal.faults.killed ACT COMMAND...`: the real program, which dies at ACT.

The process ends as by kill -9 at the moment when the named act of a step has just been done. What
an act is made of is left as it is: only its end is waited for.
"""

import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

from rollout import controller, owner_step
from rollout.flags import GatewayAdmin
from rollout.pods import ConfigMapFlags, EnvironmentFlags
from rollout.step import Step
from rollout.world import DatabaseWorld
from splitctl.main import main


def die() -> None:
    """As kill -9 from outside."""
    os.kill(os.getpid(), signal.SIGKILL)


def after(owner: object, name: str, call: int = 1) -> None:
    """Die when the Nth call of a method, or of a module's function, has come back."""
    whole: Callable[..., Any] = getattr(owner, name)
    calls = 0

    @wraps(whole)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        result = whole(*arguments, **named)
        calls += 1
        if calls == call:
            die()
        return result

    setattr(owner, name, wrapped)


def switch_one() -> None:
    """Die when one gateway serves the new percentage and the other does not."""
    whole = GatewayAdmin.switch

    def wrapped(self: GatewayAdmin, domain: str, flags: Any, only: Any = None) -> Any:
        del only
        whole(self, domain, flags, [self.urls[0]])
        die()

    GatewayAdmin.switch = wrapped  # type: ignore[method-assign,assignment]


def written() -> None:
    """Die when the flags stand, and no gateway has followed yet."""
    for place in (ConfigMapFlags, EnvironmentFlags):
        after(place, "write")


ACTS: dict[str, Callable[[], None]] = {
    "intent": lambda: after(controller, "_intend"),
    "first-barrier": lambda: after(DatabaseWorld, "cross"),
    "fence": lambda: after(GatewayAdmin, "fence"),
    "under-way": lambda: after(Step, "_until_nobody_is_under_way"),
    "quiesce": lambda: after(DatabaseWorld, "quiesce"),
    "barrier": lambda: after(DatabaseWorld, "cross", 2),
    "confirm": lambda: after(GatewayAdmin, "confirm"),
    "own-losing": lambda: after(DatabaseWorld, "switch_owner"),
    "own-winning": lambda: after(DatabaseWorld, "switch_owner", 2),
    "switch-one": switch_one,
    "switch": lambda: after(GatewayAdmin, "switch"),
    "read-back": lambda: after(Step, "_read_back"),
}

# Of a step without a fence.
UNFENCED: dict[str, Callable[[], None]] = {
    "intent": ACTS["intent"],
    "first-barrier": ACTS["first-barrier"],
    "written": written,
    "every-gateway": lambda: after(owner_step, "settle"),
    "own-losing": ACTS["own-losing"],
    "late-crossing": lambda: after(DatabaseWorld, "cross", 2),
    "own-winning": ACTS["own-winning"],
    "read-back": lambda: after(owner_step, "settle", 2),
}

if __name__ == "__main__":
    {**ACTS, **UNFENCED}[sys.argv[1]]()
    sys.argv = ["splitctl", *sys.argv[2:]]
    main()
