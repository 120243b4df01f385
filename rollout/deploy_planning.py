"""What a deployment would change: manifests rendered, and each asked of the cluster itself."""

from collections.abc import Iterable, Sequence
from typing import Any

from estate.cluster import HTTP_ROUTE, MANAGER, Cluster, Kind, Object, extract, owned, united
from estate.cluster.protocol import over_our_own
from estate.config import Config, DeployConfig
from estate.errors import ExitCode, SplitctlError
from rollout import manifests
from rollout.deploy_report import ObjectChange, Planned
from rollout.differences import differences
from rollout.finished import component, finished
from rollout.kept_flags import FlagNames, flag_names, keep_flags


class DeployNotConfigured(SplitctlError):
    """The configuration has no section [deploy]: it is not known where the manifests are."""

    hint = 'add [deploy] with manifests = "deploy", then: splitctl doctor'
    exit_code = ExitCode.USAGE


def settings(config: Config) -> DeployConfig:
    """The section [deploy]. Raises DeployNotConfigured."""
    if config.deploy is None:
        raise DeployNotConfigured
    return config.deploy


def overlay(config: Config) -> str:
    """The overlay of this environment. Raises DeployNotConfigured."""
    return settings(config).overlay or config.environment


def rendered(config: Config, cluster: Cluster) -> list[Object]:
    """The manifests of this environment, with the ends of those domains that are finished.

    Raises DeployNotConfigured, ManifestsInvalid, and what a cluster raises.
    """
    settings(config)
    return with_ends(config, cluster.namespace, finished(config, cluster))


def with_ends(config: Config, namespace: str, domains: Sequence[str]) -> list[Object]:
    """The manifests of this environment with the ends of these domains."""
    folder = settings(config).manifests / "overlays" / overlay(config)
    return manifests.render(folder, namespace, [component(name) for name in domains])


def planned(
    config: Config,
    cluster: Cluster,
    wanted: Iterable[Object],
    *,
    force: bool = False,
    moving: str = "",
) -> list[Planned]:
    """Each object against what stands, by the server's own dry run. Raises ClusterConflict.

    force: take fields of other managers; moving: the domain whose default may be changed
    """
    names = flag_names(config, moving=moving)
    return [_plan_one(cluster, manifest, names, force) for manifest in wanted]


def _plan_one(cluster: Cluster, manifest: Object, flags: FlagNames, force: bool) -> Planned:
    kind, name = Kind.of(manifest), manifest["metadata"]["name"]
    live = cluster.get(kind, name)
    if live is not None:
        manifest = keep_flags(manifest, live, flags)
    after = as_ours(cluster, manifest, force=force, dry_run=True)
    if live is None:
        return Planned(manifest, None, ObjectChange(kind.name, name, "new"))
    mine, then = owned(live, MANAGER), owned(after, MANAGER)
    changed = differences(live, after)
    # A field that we would only hold less, as a flag that a step has taken over, is no change; the
    # rules of a route, which go to and fro as a whole, are none either.
    same = not changed and (kind == HTTP_ROUTE or united(mine, then) == mine)
    state: Any = "same" if same else "changed"
    # With what is taken from others, so that an undo gives that back too.
    before = extract(live, united(mine, then))
    return Planned(manifest, before, ObjectChange(kind.name, name, state, changed))


def as_ours(
    cluster: Cluster, manifest: Object, *, force: bool = False, dry_run: bool = False
) -> Object:
    """Apply an object as ours; returns it as it is then. Raises what a cluster raises.

    The rules of a route belong as a whole to who changed them last: to a step, say. With the
    weights as they are live a manifest may go over that.
    """
    if Kind.of(manifest) == HTTP_ROUTE:
        return over_our_own(cluster, manifest, manager=MANAGER, force=force, dry_run=dry_run)
    return cluster.apply(manifest, force=force, dry_run=dry_run)
