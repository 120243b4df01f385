"""Who changed a domain's flags behind our back, as far as the world remembers it."""

from typing import Protocol


class Provenance(Protocol):
    """Where it can be asked: a cluster, for instance, knows the manager of each field."""

    def who(self, domain: str) -> list[str]:
        """Sentences, such as "field manager X at T"; none when it is not known."""


class Unknown:
    """A gateway's admin endpoint does not tell who used it."""

    def who(self, domain: str) -> list[str]:
        """Nothing."""
        del domain
        return []
