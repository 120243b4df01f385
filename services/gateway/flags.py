"""Flags: which share of a domain's buckets the new side serves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from services.gateway.buckets import PER_PERCENT

Side = Literal["old", "new"]

# domain -> (switch, percentage, epoch): the names in the gateway's environment
VARIABLES = {
    "checkout": ("USE_CHECKOUT_SERVICE", "CHECKOUT_TRAFFIC_PERCENTAGE", "CHECKOUT_TRAFFIC_EPOCH"),
    "return": ("USE_RETURN_SERVICE", "RETURN_TRAFFIC_PERCENTAGE", "RETURN_TRAFFIC_EPOCH"),
}
# domain -> the side that everybody is on where no flag stands, at the end of a split
DEFAULTS = {"checkout": "CHECKOUT_DEFAULT", "return": "RETURN_DEFAULT"}
LONGEST_NUMBER = 18
WORDS = {
    "true": True, "1": True, "yes": True, "on": True,
    "false": False, "0": False, "no": False, "off": False, "": False,
}  # fmt: skip


class FlagsInvalid(Exception):
    """A flag in the environment cannot be read."""


@dataclass(frozen=True, slots=True)
class DomainFlags:
    """What the gateway serves for one domain.

    enabled: False sends everyone to the old side, whatever the percentage says
    percentage: 0..100
    epoch: grows with each change; an older one is refused
    """

    enabled: bool
    percentage: int
    epoch: int

    @property
    def served(self) -> int:
        """The percentage that takes effect: 0 while the switch is off."""
        return self.percentage if self.enabled else 0

    @property
    def new_below(self) -> int:
        """Buckets below this one (0..10000) belong to the new side."""
        return self.served * PER_PERCENT

    def side(self, bucket: int) -> Side:
        """The side that serves a bucket."""
        return "new" if bucket < self.new_below else "old"


def truth(environment: Mapping[str, str], name: str) -> bool:
    """A switch in the environment, off where it is not set. Raises FlagsInvalid."""
    word = environment.get(name, "").strip().lower()
    if word not in WORDS:
        raise FlagsInvalid(f"{name}={word!r}: say true or false")
    return WORDS[word]


def from_environment(environment: Mapping[str, str]) -> dict[str, DomainFlags]:
    """The flags of each domain; the epoch is 0 where nobody says it.

    Where neither switch nor percentage stands, everybody is on the domain's default side: old,
    unless it says new. A flag that stands has the last word: so a rollback needs to write it only.
    Raises FlagsInvalid with all that is wrong.
    """
    flags: dict[str, DomainFlags] = {}
    wrong: list[str] = []
    for domain, (switch, share, since) in VARIABLES.items():
        word = environment.get(switch, "").strip().lower()
        if word not in WORDS:
            wrong.append(f"{switch}={word!r}: say true or false")
        number = environment.get(share, "0").strip() or "0"
        if not (number.isascii() and number.isdigit() and int(number) <= 100):
            wrong.append(f"{share}={number!r}: say a whole number from 0 to 100")
        epoch = environment.get(since, "0").strip() or "0"
        if not (epoch.isascii() and epoch.isdigit() and len(epoch) <= LONGEST_NUMBER):
            wrong.append(f"{since}={epoch!r}: say a whole number")
        default = environment.get(DEFAULTS[domain], "").strip().lower() or "old"
        if default not in ("old", "new"):
            wrong.append(f"{DEFAULTS[domain]}={default!r}: say old or new")
        if wrong:
            continue
        if default == "new" and not stands(environment, domain):
            flags[domain] = DomainFlags(True, 100, int(epoch))
        else:
            flags[domain] = DomainFlags(WORDS[word], int(number), int(epoch))
    if wrong:
        raise FlagsInvalid("; ".join(wrong))
    return flags


def stands(environment: Mapping[str, str], domain: str) -> bool:
    """Whether a flag of the domain is set at all."""
    switch, share, _ = VARIABLES[domain]
    return bool(environment.get(switch, "").strip() or environment.get(share, "").strip())
