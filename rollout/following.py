"""The next sensible command, where more than one room has to know it."""

from estate.config import Config

# What ends an act that was found unfinished.
ENDING = {
    "step": "splitctl rollout advance {}",
    "start": "splitctl rollout start {}",
    "adopt": "splitctl rollout start {}",
    "rollback": "splitctl rollback {}",
    "repair": "splitctl verify repair {}",
    "finish": "splitctl rollout finish {}",
    "finish undo": "splitctl rollout finish {} --undo",
}


def ending(kind: str, domain: str) -> str:
    """The command that ends an act which was found unfinished."""
    return ENDING.get(kind, f"splitctl decommission {kind} {{}}").format(domain)


def after_rampdown(config: Config, domain: str) -> str:
    """What comes after rampdown: the finish, where this estate can have one."""
    here = config.gateway.ends and config.deploy is not None
    if here and config.domains[domain].default:
        return f"splitctl rollout finish {domain} --dry-run"
    return f"splitctl decommission archive {domain}"
