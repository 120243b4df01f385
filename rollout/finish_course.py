"""What a finish is made of here: its parts, from the manifests that a person has read."""

from collections.abc import Sequence
from dataclasses import dataclass

from estate.cluster import Object
from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from rollout import finish_parts
from rollout.deploy import Site
from rollout.deploy_planning import overlay, settings, with_ends
from rollout.finish_parts import Part
from rollout.finished import FINISH, finished, prepared
from rollout.routes import backends_of

WAY_BACK = "splitctl rollback {}, as before: the flags are written again, the old code is beside"


class FlagsNotInCluster(SplitctlError):
    """The gateways of driver admin keep their flags in memory, so there is none to be taken out of
    the cluster. Nothing was changed."""

    hint = 'docs/rollout.md, "The end of a split", says what is to be done by hand'
    exit_code = ExitCode.PRECONDITION


class RouteLeadsToOld(SplitctlError):
    """The route sends whoever is called back to Service {old}, out of which a finish takes the code
    of domain '{domain}': a rollback would lead to code that is gone. Nothing was changed."""

    hint = "docs/finish.md says what is to be done by hand"
    exit_code = ExitCode.PRECONDITION


class DefaultUnnamed(SplitctlError):
    """The configuration does not say what the gateways call the default side of domain '{domain}'.
    Nothing was changed."""

    hint = 'in config.toml: [domains.{domain}] with default = "NAME", a variable of the gateways'
    exit_code = ExitCode.USAGE


class EndNotPrepared(SplitctlError):
    """There are no manifests for the end of domain '{domain}': {path} is not there. Nothing was
    changed."""

    hint = 'docs/rollout.md, "The end of a split", says what stands in them'
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Course:
    """One way through the parts: there, or back. `command` is what begins it, or goes on.

    stands: the objects that the end changes, as they are without it
    note: what a person has to change in the configuration when it is through; empty: nothing
    """

    domain: str
    act: str
    parts: Sequence[Part]
    command: str
    stands: Sequence[Object]
    note: str

    @property
    def way_back(self) -> str:
        """What brings customers back when it is through."""
        told = WAY_BACK if self.act == FINISH else "splitctl rollback {}"
        return told.format(self.domain)


def course_of(config: Config, domain: str, act: str, site: Site) -> Course:
    """The parts, from the manifests with this domain's end and without it."""
    named = config.domain(domain)
    if config.gateway.driver == "admin":
        raise FlagsNotInCluster
    if backends := backends_of(config).get(domain):
        raise RouteLeadsToOld(domain=domain, old=backends.old)
    if not named.default:
        raise DefaultUnnamed(domain=domain)
    path = prepared(settings(config), overlay(config), domain)
    if not path.is_file():
        raise EndNotPrepared(domain=domain, path=path)
    cluster = site.cluster
    others = [name for name in finished(config, cluster) if name != domain]
    without = with_ends(config, cluster.namespace, others)
    ended = with_ends(config, cluster.namespace, [*others, domain])
    stands = finish_parts.touched(without, ended)
    make = finish_parts.forward if act == FINISH else finish_parts.back
    command = f"splitctl rollout finish {domain}" + ("" if act == FINISH else " --undo")
    parts = make(config, domain, without, ended, path)
    return Course(domain, act, parts, command, stands, _note(config, domain, act))


def _note(config: Config, domain: str, act: str) -> str:
    # Whoever asks the old side past the gateways asks for code that has moved with this.
    if domain not in config.flows.urls:
        return ""
    where = "the way back" if act == FINISH else "the old service again"
    return f"in config.toml point flows.urls.{domain}.old at {where}"
