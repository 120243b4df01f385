"""What a step will mean for customers, told before it is made. Pure: figures in, sentences out."""

from dataclasses import dataclass

from rollout.step_plan import StepPlan


@dataclass(frozen=True)
class Way:
    """How this estate's gateways are moved.

    takes_s: for how long gateways differ, None where a fence keeps them from it
    refusing: services refuse whom they do not own; budget_ms: the longest that anybody waits
    by_chance: a request's first side is chosen without a look at its customer
    """

    driver: str
    takes_s: float | None
    refusing: bool
    budget_ms: int
    by_chance: bool = False


def movers_per_s(plan: StepPlan, requests: float, seconds: float) -> float | None:
    """Requests a second of those who move, by what all sent in a window; None where it is short."""
    if seconds <= 0 or requests <= 0:
        return None
    return requests / seconds * (plan.high - plan.low) / 10_000


def strays_at_most(way: Way, per_s: float | None) -> int | None:
    """How many changes may end on the side that does not own them; None where it is not known."""
    if way.takes_s is None or way.refusing:
        return 0
    return None if per_s is None else round(way.takes_s * per_s)


def extra_hops(percentage: int) -> float:
    """The share of requests (0..1) that are passed on when weights choose the first side.

    To the new side go p of all requests, and p of all customers belong there, whoever they are.
    """
    p = percentage / 100
    return 2 * p * (1 - p)


def sentences(plan: StepPlan, way: Way, per_s: float | None) -> list[str]:
    """For a person: who moves, who waits, who may alternate, and what another driver would do."""
    share = (plan.high - plan.low) / 100
    rate = "" if per_s is None else f"; they send some {per_s:,.1f} requests a second"
    told = [f"{share:g} % of the customers change side, to the {plan.winning} one{rate}"]
    waits = f"each waits once, for at most {way.budget_ms:,} ms"
    if way.takes_s is None:
        return [*told, f"{waits}, at a fence; nobody alternates, no strays are expected"]
    told.append(f"gateways differ for some {way.takes_s:,.0f} s (driver {way.driver})")
    if way.refusing:
        told.append(
            f"nobody alternates: services refuse whom they do not own; {waits}, while the owner "
            "moves; no strays are expected"
        )
        if way.by_chance:
            hops = 100 * extra_hops(plan.to_percentage)
            told.append(
                f"weights know no customer: at {plan.to_percentage} % some {hops:.0f} % of the "
                "requests take a hop more, from one service to the other"
            )
        return told
    most = strays_at_most(way, per_s)
    number = "as many strays as they write" if most is None else f"up to {most:,} strays"
    told.append(
        f"who moves may alternate for as long: {number}, each kept with both versions; with "
        "gateway.owners_refuse, or the driver admin, none"
    )
    return told
