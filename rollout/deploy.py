"""Manifests to the cluster and back: apply, status, undo.

Deploying moves no customers: a flag that lives in the cluster keeps its value, whatever a manifest
says; a manifest gives its first value alone.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import httpx

from estate.cluster import DEPLOYMENT, Cluster, Kind, Object
from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from rollout import rollouts
from rollout.deploy_planning import as_ours, overlay, planned, rendered, settings
from rollout.deploy_report import (
    Deployed,
    DeployPlan,
    DeployStatus,
    Health,
    Planned,
)
from rollout.finished import (
    FINISH,
    UNFINISH,
    FinishedSince,
    FinishUnderWay,
    finished,
    need_followed,
)
from rollout.rollouts import RolloutState

if TYPE_CHECKING:
    from estate.ledger import ActRecord, Ledger

DEPLOY, UNDEPLOY = "deploy", "deploy undo"
LOOKED_THROUGH = 1000  # acts among which the last deployment is looked for
HEALTH_S, HEALTH_PAUSE_S, ANSWER_S = 30.0, 0.5, 3.0
APPLY, UNDO, STATUS = (f"splitctl deploy {word}" for word in ("apply", "undo", "status"))


class NothingToUndo(SplitctlError):
    """The ledger knows no deployment of overlay {overlay} that could be undone."""

    hint = "splitctl history"
    exit_code = ExitCode.PRECONDITION


@dataclass
class Site:
    """What a deployment works with, so that tests can give their own. `clock` in seconds."""

    cluster: Cluster
    ledger: "Callable[[], Ledger]"
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    @classmethod
    def of(cls, config: Config) -> "Site":
        """The real one. Nothing is opened yet."""
        from estate.cluster import connect
        from estate.ledger import open_ledger

        return cls(connect(config), lambda: open_ledger(config))


def silent(_: str) -> None:
    """No progress is told."""


# Apply


def plan(config: Config, *, force: bool = False, site: Site | None = None) -> DeployPlan:
    """What the next `apply` would do, as the cluster itself answers. Changes nothing."""
    site = site or Site.of(config)
    found = planned(config, site.cluster, rendered(config, site.cluster), force=force)
    changes = [planned.change for planned in found]
    following = APPLY if any(change.state != "same" for change in changes) else STATUS
    return DeployPlan(overlay(config), site.cluster.namespace, changes, [], following)


def apply(
    config: Config,
    *,
    force: bool = False,
    site: Site | None = None,
    on_progress: Callable[[str], None] = silent,
) -> Deployed:
    """Apply the manifests, wait for the rollouts, ask for health. Again, it goes on from there.

    force: take fields that other managers hold. Raises ClusterConflict, LockHeld, GatewaysBehind.
    """
    site = site or Site.of(config)
    wanted = rendered(config, site.cluster)
    with site.ledger() as ledger, ledger.lock():
        _nobody_finishes(ledger)
        # A rollback gives up a finish that is under way.
        need_followed(config, site.cluster)
        found = planned(config, site.cluster, wanted, force=force)
        return _perform(config, DEPLOY, found, [], ledger, site, force, on_progress)


def _perform(
    config: Config,
    act_kind: str,
    found: Sequence[Planned],
    doomed: Sequence[Object],
    ledger: "Ledger",
    site: Site,
    force: bool,
    on_progress: Callable[[str], None],
    *,
    notes: Mapping[str, Any] | None = None,
    left: Sequence[str] = (),
) -> Deployed:
    """Intent, acts, outcome. `doomed` objects are deleted; `notes` go into the intent."""
    began = site.clock()
    todo = [planned for planned in found if planned.change.state != "same"]
    open_acts = [act for act in ledger.unfinished() if act.kind in (DEPLOY, UNDEPLOY)]
    if not todo and not doomed and not open_acts:
        return _watched(config, found, [], list(left), began, site, on_progress, changed=False)
    intent = _intent(config, act_kind, found, open_acts, notes or {})
    act = ledger.begin(None, act_kind, intent)
    for unfinished in open_acts:
        ledger.finish(unfinished, {"how": f"taken over by act {act.id}"}, state="abandoned")
    applied: list[str] = []
    try:
        for planned in todo:
            on_progress(f"{planned.change.state}: {planned.kind.name} {planned.name}")
            as_ours(site.cluster, planned.manifest, force=force)
            applied.append(f"{planned.kind.name} {planned.name}")
        deleted = [_delete(site.cluster, manifest, on_progress) for manifest in doomed]
    except SplitctlError as error:
        ledger.finish(act, {"error": str(error), "applied": applied}, state="abandoned")
        raise
    done = _watched(config, found, deleted, list(left), began, site, on_progress, changed=True)
    if act_kind == UNDEPLOY and done.complete:
        done = replace(done, next_command=STATUS)
    ledger.finish(act, done.outcome())
    return done


def _intent(
    config: Config,
    act_kind: str,
    found: Sequence[Planned],
    open_acts: Sequence["ActRecord"],
    notes: Mapping[str, Any],
) -> dict[str, Any]:
    """What is going to be done, and what stood before the first act that was not finished."""
    before = [planned.before for planned in found if planned.before is not None]
    new = [_head(planned.manifest) for planned in found if planned.before is None]
    for act in open_acts:
        if act.kind != act_kind or act.intent.get("overlay") != overlay(config):
            continue
        known = {_key(head) for head in act.intent["new"]}
        stood = {_key(manifest): manifest for manifest in act.intent["before"]}
        before = [stood.get(_key(m), m) for m in before if _key(m) not in known]
        new = [*new, *(head for head in act.intent["new"] if head not in new)]
        break  # the oldest knows how it all was
    told = [f"{p.change.state} {p.kind.name} {p.name}" for p in found]
    intent = {"overlay": overlay(config), "objects": told, "before": before, "new": new}
    return {**intent, **notes}


def _head(manifest: Object) -> Object:
    """Enough of an object to find it again."""
    name = {"name": manifest["metadata"]["name"]}
    return {"apiVersion": manifest["apiVersion"], "kind": manifest["kind"], "metadata": name}


def _key(manifest: Object) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _delete(cluster: Cluster, manifest: Object, on_progress: Callable[[str], None]) -> str:
    kind, name = Kind.of(manifest), manifest["metadata"]["name"]
    on_progress(f"delete: {kind.name} {name}")
    cluster.delete(kind, name)
    return f"{kind.name} {name}"


def _watched(
    config: Config,
    found: Sequence[Planned],
    deleted: list[str],
    left: list[str],
    began: float,
    site: Site,
    on_progress: Callable[[str], None],
    *,
    changed: bool,
) -> Deployed:
    """Wait for the rollouts, then ask for health."""
    limit_s = settings(config).limit.total_seconds()
    names = [planned.name for planned in found if planned.kind == DEPLOYMENT]
    states = rollouts.wait(
        site.cluster,
        names,
        limit_s,
        moved={p.name for p in found if p.change.differences} if changed else (),
        clock=site.clock,
        sleep=site.sleep,
        on_progress=on_progress,
    )
    arrived = all(state.complete for state in states)
    health = [asked(url, site) for url in settings(config).health] if arrived else []
    well = arrived and not any(one.problem for one in health)
    return Deployed(
        overlay=overlay(config),
        namespace=site.cluster.namespace,
        changed=changed,
        objects=[planned.change for planned in found],
        rollouts=states,
        health=health,
        seconds=round(site.clock() - began, 1),
        next_command="splitctl status" if well else _following(states),
        deleted=deleted,
        left=left,
    )


def _following(states: Sequence[RolloutState]) -> str:
    waiting = any(not state.complete and not state.given_up for state in states)
    return f"{STATUS}  (or back: {UNDO})" if waiting else UNDO


def asked(url: str, site: Site) -> Health:
    """Ask an address until it answers with success, or the limit has passed."""
    deadline = site.clock() + HEALTH_S
    while True:
        try:
            answer = httpx.get(url, timeout=ANSWER_S)
            problem = None if answer.is_success else f"answers {answer.status_code}"
        except httpx.HTTPError as error:
            problem = str(error) or type(error).__name__
        if problem is None or site.clock() >= deadline:
            return Health(url, problem)
        site.sleep(HEALTH_PAUSE_S)


# Status


def status(config: Config, *, site: Site | None = None) -> DeployStatus:
    """What stands in the cluster, against the manifests. Changes nothing."""
    site = site or Site.of(config)
    # With force: a field that somebody else holds is a difference to be shown, not a refusal.
    found = planned(config, site.cluster, rendered(config, site.cluster), force=True)
    deployments = [p.name for p in found if p.kind == DEPLOYMENT and p.before is not None]
    changes = [planned.change for planned in found]
    last, unfinished = _told_last(config, site)
    pending = unfinished or any(change.state != "same" for change in changes)
    return DeployStatus(
        overlay=overlay(config),
        namespace=site.cluster.namespace,
        objects=changes,
        rollouts=[rollouts.look(site.cluster, name) for name in deployments],
        last=last,
        next_command=f"{APPLY} --dry-run" if pending else "splitctl status",
    )


def _told_last(config: Config, site: Site) -> tuple[str | None, bool]:
    """The last act in words, and whether it was not finished. The ledger may be away."""
    from estate.ledger import LedgerUnreachable

    try:
        with site.ledger() as ledger:
            acts = [a for a in _acts(ledger) if a.intent.get("overlay") == overlay(config)]
    except LedgerUnreachable as error:
        return f"not known: {error}", False
    if not acts:
        return None, False
    last = acts[-1]
    unfinished = last.state == "intended"
    told = f"{last.kind} of {last.at:%Y-%m-%d %H:%M:%S} UTC by {last.operator}"
    return told + (", not finished" if unfinished else ""), unfinished


def _acts(ledger: "Ledger") -> list["ActRecord"]:
    return ledger.history(None, LOOKED_THROUGH, kinds=(DEPLOY, UNDEPLOY))


# Undo


def plan_undo(config: Config, *, site: Site | None = None) -> DeployPlan:
    """What the next `undo` would do. Changes nothing. Raises NothingToUndo."""
    site = site or Site.of(config)
    with site.ledger() as ledger:
        act = _last(config, ledger, site.cluster)
    found = planned(config, site.cluster, act.intent["before"], force=True)
    changes = [planned.change for planned in found]
    deletes = [f"{head['kind']} {head['metadata']['name']}" for head in act.intent["new"]]
    confirm = f" --confirm {overlay(config)}" if deletes else ""
    return DeployPlan(overlay(config), site.cluster.namespace, changes, deletes, f"{UNDO}{confirm}")


def undo(
    config: Config,
    *,
    delete_new: bool = False,
    force: bool = False,
    site: Site | None = None,
    on_progress: Callable[[str], None] = silent,
) -> Deployed:
    """Bring back what stood before the last `apply`; again, what stood before the one before it.

    delete_new: delete the objects that it made; else they are left. Raises NothingToUndo.
    """
    site = site or Site.of(config)
    with site.ledger() as ledger, ledger.lock():
        _nobody_finishes(ledger)
        act = _last(config, ledger, site.cluster)
        found = planned(config, site.cluster, act.intent["before"], force=force)
        new = act.intent["new"]
        return _perform(
            config,
            UNDEPLOY,
            found,
            new if delete_new else [],
            ledger,
            site,
            force,
            on_progress,
            notes={"undoes": act.id},
            left=[] if delete_new else [f"{h['kind']} {h['metadata']['name']}" for h in new],
        )


def _nobody_finishes(ledger: "Ledger") -> None:
    """No finish is half done. Raises FinishUnderWay."""
    for act in ledger.unfinished():
        if act.kind in (FINISH, UNFINISH):
            raise FinishUnderWay(domain=act.domain)


def _last(config: Config, ledger: "Ledger", cluster: Cluster) -> "ActRecord":
    """The last deployment that was not undone. One that was interrupted counts.

    Raises NothingToUndo, FinishedSince.
    """
    acts = [act for act in _acts(ledger) if act.intent.get("overlay") == overlay(config)]
    undone = {act.intent["undoes"] for act in acts if act.kind == UNDEPLOY and act.state == "done"}
    for act in reversed(acts):
        nothing = act.state == "abandoned" and not (act.outcome or {}).get("applied")
        if act.kind == DEPLOY and not nothing and act.id not in undone:
            for name in finished(config, cluster):
                ends = ledger.history(name, 1, kinds=(FINISH,))
                if ends and ends[0].id > act.id:
                    raise FinishedSince(domain=name)
            return act
    raise NothingToUndo(overlay=overlay(config))
