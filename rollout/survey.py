"""What is true of a domain right now: who serves, who owns, what the ledger thinks of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from estate.errors import ExitCode, SplitctlError
from migrator.mapping import Side
from migrator.ownership import Ownership
from rollout.flags import DomainFlags, Flags, GatewayFlags
from rollout.phases import PER_PERCENT
from rollout.world import SIDES, World


class Drift(SplitctlError):
    """Domain '{domain}' is not as the ledger has it: {reason}. Nothing was changed."""

    hint = "{next}"
    exit_code = ExitCode.PRECONDITION


@dataclass(frozen=True)
class Survey:
    """What gateways serve and owner rows say. A side or gateway without an answer has a problem."""

    domain: str
    gateways: tuple[GatewayFlags, ...] = ()
    owners: Mapping[Side, Ownership] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def served(self) -> dict[str, DomainFlags]:
        """The flags of each gateway that answered and knows the domain."""
        return {
            gateway.url: gateway.domains[self.domain]
            for gateway in self.gateways
            if self.domain in gateway.domains
        }

    @property
    def highest_epoch(self) -> int:
        """The newest epoch that anybody knows."""
        epochs = [flags.epoch for flags in self.served.values()]
        return max([*epochs, *(owner.epoch for owner in self.owners.values())], default=0)

    @property
    def owned(self) -> Ownership | None:
        """What both databases say, where they agree."""
        found = set(self.owners.values())
        return found.pop() if len(found) == 1 and len(self.owners) == len(SIDES) else None

    @property
    def owned_percentage(self) -> int | None:
        """The percentage both databases agree on."""
        owned = self.owned
        return None if owned is None else owned.new_below // PER_PERCENT

    def disagreements(self, asked: int) -> list[str]:
        """Whatever is not at the asked percentage, or does not answer, each as a sentence."""
        told = [f"{who}: {why}" for who, why in self.problems.items()]
        for side, owner in self.owners.items():
            percentage = owner.new_below / PER_PERCENT
            if percentage != asked:
                told.append(
                    f"the {side} side's database gives {percentage:g} % to new under epoch "
                    f"{owner.epoch}, {asked} % is asked"
                )
        epochs = {owner.epoch for owner in self.owners.values()}
        if len(epochs) > 1 and not told:
            told.append("the two databases are at different epochs")
        for url, flags in self.served.items():
            if flags.served != asked:
                told.append(
                    f"{url} serves {flags.served} % under epoch {flags.epoch}, {asked} % is asked"
                )
        return told


def survey(domain: str, flags: Flags, world: World) -> Survey:
    """Ask everybody. What does not answer is a problem, not an error."""
    gateways = tuple(flags.served())
    problems: dict[str, str] = {}
    for gateway in gateways:
        if not gateway.reachable:
            problems[gateway.url] = gateway.problem or "no answer"
        elif domain not in gateway.domains:
            problems[gateway.url] = f"it knows no domain '{domain}'"
    owners: dict[Side, Ownership] = {}
    for side in SIDES:
        try:
            owners[side] = world.owner(side)
        except SplitctlError as error:
            problems[f"the {side} side's database"] = str(error)
    return Survey(domain, gateways, owners, problems)
