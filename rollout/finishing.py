"""The end of a split for the programs: gateways without flags, the old service without old code.

Everybody is on the new side, and stays there: no part of this moves a customer. All the while and
afterwards `splitctl rollback` brings them back as from any other place: a flag that it writes has
the last word over a default, and the code that it leads to is kept beside (the way back) until the
split is complete. The parts and their order are in `finish_parts`.
"""

from collections.abc import Callable, Sequence

from estate.cluster import DEPLOYMENT, Kind, Object
from estate.config import Config
from estate.errors import ExitCode, SplitctlError
from estate.ledger import ActRecord, Ledger, Rollout
from rollout import evidence, phases, rollouts
from rollout.deploy import Site, asked, silent
from rollout.deploy_planning import as_ours, overlay, planned, settings
from rollout.deploy_report import Planned
from rollout.finish_course import Course, course_of
from rollout.finish_parts import Name, Part
from rollout.finish_report import Finished, FinishPlan, PartDone, PartPlan
from rollout.finished import FINISH, UNFINISH, FinishUnderWay, finished
from rollout.flags import DomainFlags
from rollout.following import ending
from rollout.phases import Move
from rollout.preconditions import Held, Refused, ask, held, in_line
from rollout.survey import survey
from rollout.tools import Tools
from rollout.written import BY_DEFAULT, FlagsOvertaken, Written, settle

# What a gateway serves that was started with neither flags nor default.
NO_FLAGS = DomainFlags(False, 0, 0)


class CalledBack(SplitctlError):
    """Customers of domain '{domain}' were called back meanwhile: gateways are told {percentage} %.
    The finish stopped where it was; what it has done serves them as well."""

    hint = "splitctl status"
    exit_code = ExitCode.PRECONDITION


def plan(
    config: Config,
    domain: str,
    *,
    undo: bool = False,
    tools: Tools | None = None,
    site: Site | None = None,
) -> FinishPlan:
    """What a finish, or its undo, would do, as the cluster itself answers. Changes nothing."""
    tools, site = tools or Tools.of(config), site or Site.of(config)
    course = course_of(config, domain, UNFINISH if undo else FINISH, site)
    with tools.ledger() as ledger:
        reason = _in_the_way(config, course, ledger.rollout(domain))
        blockers = [reason] if reason else []
        blockers += [f"{a.kind} of {a.domain} was not finished" for a in _others(ledger, course)]
        anew = _begun_anew(config, course, ledger)
    if not undo and (waiting := _not_applied(config, course, site)):
        blockers.append(waiting)
    parts = [_part_plan(config, course, part, tools, site) for part in course.parts]
    todo = any(part.lines() for part in parts)
    following = course.command if todo else f"splitctl decommission archive {domain}"
    return FinishPlan(
        domain,
        overlay(config),
        parts,
        blockers,
        course.way_back,
        course.note,
        following,
        anew if todo else [],
    )


def finish(
    config: Config,
    domain: str,
    *,
    tools: Tools | None = None,
    site: Site | None = None,
    on_progress: Callable[[str], None] = silent,
) -> Finished | Held:
    """Take the flags out of the gateways, and the code that has moved out of the old service.

    Needs rampdown and gates that pass, unless it was begun before: then it goes on. Raises Refused,
    Drift, ClusterConflict, FlagsOvertaken where customers are called back meanwhile.
    """
    tools, site = tools or Tools.of(config), site or Site.of(config)
    course = course_of(config, domain, FINISH, site)
    with tools.ledger() as ledger, ledger.lock():
        row = _needed(config, course, ledger)
        if not _open(ledger, course):
            if waiting := _not_applied(config, course, site):
                following = "splitctl deploy apply --dry-run"
                raise Refused(domain=domain, reason=waiting, next=following)
            if kept := _held(config, domain, row, ledger, tools):
                return kept
        return _perform(config, course, ledger, tools, site, on_progress)


def undo(
    config: Config,
    domain: str,
    *,
    tools: Tools | None = None,
    site: Site | None = None,
    on_progress: Callable[[str], None] = silent,
) -> Finished:
    """Bring the flags back, and the old code to where it was; what was kept beside is deleted.

    It moves nobody either. Raises Refused when the domain is complete.
    """
    tools, site = tools or Tools.of(config), site or Site.of(config)
    course = course_of(config, domain, UNFINISH, site)
    with tools.ledger() as ledger, ledger.lock():
        _needed(config, course, ledger)
        return _perform(config, course, ledger, tools, site, on_progress)


# What is to be done, and whether it may be


def _in_the_way(config: Config, course: Course, row: Rollout | None) -> str:
    """Why it may not be done at this stage; empty when it may."""
    if row is None:
        return "its rollout was not started"
    position = evidence.position(config, row)
    if course.act == UNFINISH:
        decision = phases.on_unfinish(position)
    else:
        decision = phases.on_finish(position, ())
    return decision.reason if decision.move is Move.REFUSE else ""


def _needed(config: Config, course: Course, ledger: Ledger) -> Rollout:
    """Where the domain stands. Raises Refused, FinishUnderWay."""
    domain, row = course.domain, ledger.rollout(course.domain)
    reason = _in_the_way(config, course, row)
    if reason or row is None:
        going = course.act == FINISH
        following = f"splitctl decommission {'rampdown' if going else 'undo'} {domain}"
        raise Refused(domain=domain, reason=reason, next=following)
    for act in _others(ledger, course):
        if act.domain != domain:
            raise FinishUnderWay(domain=act.domain)
        following = ending(act.kind, domain)
        raise Refused(domain=domain, reason=f"{act.kind} was not finished", next=following)
    return row


def _not_applied(config: Config, course: Course, site: Site) -> str:
    """What is not as its manifests say, and would be changed with the rest; empty when all is."""
    if course.domain in finished(config, site.cluster):
        return ""  # it was begun before
    found = planned(config, site.cluster, course.stands, force=True)
    waiting = [f"{p.kind.name} {p.name}" for p in found if p.change.state != "same"]
    told = "the manifests say something else, and were not applied"
    return f"{', '.join(waiting)}: {told}" if waiting else ""


def _open(ledger: Ledger, course: Course) -> list[ActRecord]:
    """Acts of this kind that were begun for this domain."""
    return [act for act in ledger.unfinished(course.domain) if act.kind == course.act]


def _others(ledger: Ledger, course: Course) -> list[ActRecord]:
    """Unfinished acts in the way: others than this one's of its domain, finishes of others."""
    return [
        act
        for act in ledger.unfinished()
        if act.domain and (act.domain == course.domain) != (act.kind in (FINISH, UNFINISH))
    ]


def _begun_anew(config: Config, course: Course, ledger: Ledger) -> list[str]:
    """Other domains whose gateways and services become other versions in the middle of a phase."""
    rows = [ledger.rollout(name) for name in config.domains if name != course.domain]
    live = [row for row in rows if row is not None and row.stage == phases.Stage.LIVE]
    return [row.domain for row in live if row.percentage]


def _held(config: Config, domain: str, row: Rollout, ledger: Ledger, tools: Tools) -> Held | None:
    """What keeps it: a gate, a pause. Raises Drift."""
    if row.stage == phases.Stage.COMPLETE:
        return None  # nobody can come back, and sync may be torn down
    world = tools.world(domain)
    try:
        in_line(domain, row, survey(domain, tools.flags, world))
    finally:
        world.close()
    found = ask(config, row, ledger, evidence.look(tools, config, ledger, [domain]))
    decision = phases.on_finish(found.position, found.results)
    return None if decision.move is Move.ENTER else held(row, decision, found.results)


# Doing it


def _perform(
    config: Config,
    course: Course,
    ledger: Ledger,
    tools: Tools,
    site: Site,
    on_progress: Callable[[str], None],
) -> Finished:
    """Intent, part after part, outcome. A part that does not come stops it, unfinished."""
    began = site.clock()
    plans = [_part_plan(config, course, part, tools, site) for part in course.parts]
    acts = [a for a in ledger.unfinished(course.domain) if a.kind in (FINISH, UNFINISH)]
    already = not acts and not any(part.lines() for part in plans)
    act = None if already else _begin(ledger, course, plans, acts)
    done: list[PartDone] = []
    for part in course.parts:
        on_progress(f"{course.act}: {part.name}")
        try:
            done.append(_do(config, course, part, tools, site, on_progress))
        except (CalledBack, FlagsOvertaken) as error:
            if act is not None:
                ledger.finish(act, {"error": str(error)}, state="abandoned")
            raise
        if not done[-1].complete:
            break
    whole = len(done) == len(course.parts) and done[-1].complete
    urls = settings(config).health if whole else []
    health = [asked(url, site) for url in urls]
    result = Finished(
        course.domain, course.act, already, done, len(course.parts), health,
        round(site.clock() - began, 1), course.way_back, course.note if whole else "",
        _following(course, whole),
    )  # fmt: skip
    if act is not None and whole:
        ledger.finish(act, result.outcome())
    return result


def _begin(
    ledger: Ledger, course: Course, plans: Sequence[PartPlan], acts: Sequence[ActRecord]
) -> ActRecord:
    """The intent; what was begun the other way is given up, what was begun this way goes on."""
    same = [act for act in acts if act.kind == course.act]
    intent = {"parts": {part.name: part.lines() for part in plans}}
    act = same[0] if same else ledger.begin(course.domain, course.act, intent)
    for other in acts:
        if other.id != act.id:
            ledger.finish(other, {"how": f"taken over by act {act.id}"}, state="abandoned")
    return act


def _following(course: Course, whole: bool) -> str:
    if not whole:
        other = f"splitctl rollout finish {course.domain}"
        other += " --undo" if course.act == FINISH else ""
        return f"{course.command}  (goes on; or back: {other})"
    return f"splitctl rollout watch {course.domain}" if course.act == FINISH else "splitctl status"


def _part_plan(config: Config, course: Course, part: Part, tools: Tools, site: Site) -> PartPlan:
    if part.name is Name.FLAGS:
        return PartPlan(part.name, flags=_flags_to_do(config, course, site, _written(tools)))
    found = _objects(config, course, part, site)
    deletes = [f"{m['kind']} {_name(m)}" for m in _there(part.deletes, site)]
    return PartPlan(part.name, [one.change for one in found], deletes)


def _flags_to_do(config: Config, course: Course, site: Site, written: Written) -> str:
    stands = _effective(config, course, site, written)
    if stands is None or (stands is BY_DEFAULT) == (course.act == FINISH):
        return ""
    word = "remove   " if course.act == FINISH else "write    "
    return f"{word}the flags ({stands.served} %)"


def _objects(config: Config, course: Course, part: Part, site: Site) -> list[Planned]:
    return planned(config, site.cluster, part.applies, moving=course.domain)


def _do(
    config: Config,
    course: Course,
    part: Part,
    tools: Tools,
    site: Site,
    on_progress: Callable[[str], None],
) -> PartDone:
    """One part, to its end or to the limit."""
    written = _written(tools)
    _nobody_called_back(config, course, site, written)
    if part.name is Name.FLAGS:
        return _flags(config, course, written, tools, site)
    if (
        part.name is Name.GATEWAY
        and course.act == UNFINISH
        and _effective(config, course, site, written) is BY_DEFAULT
    ):
        # Without flag and default a gateway would send everybody to the old side.
        return PartDone(part.name, [], missing=["the flags are gone again"])
    found = _objects(config, course, part, site)
    todo = [one for one in found if one.change.state != "same"]
    for one in todo:
        as_ours(site.cluster, one.manifest)
    changed = [f"{one.change.state} {one.kind.name} {one.name}" for one in todo]
    doomed = _there(part.deletes, site)
    if doomed and (missing := _still_led_there(config, course, site, written)):
        return PartDone(part.name, changed, missing=missing)
    for manifest in doomed:
        site.cluster.delete(Kind.of(manifest), _name(manifest))
        changed.append(f"deleted {manifest['kind']} {_name(manifest)}")
    states = rollouts.wait(
        site.cluster,
        [one.name for one in found if one.kind == DEPLOYMENT],
        settings(config).limit.total_seconds(),
        moved={one.name for one in todo},
        clock=site.clock,
        sleep=site.sleep,
        on_progress=on_progress,
    )
    return PartDone(part.name, changed, states)


def _there(manifests: Sequence[Object], site: Site) -> list[Object]:
    return [m for m in manifests if site.cluster.get(Kind.of(m), _name(m)) is not None]


def _still_led_there(config: Config, course: Course, site: Site, written: Written) -> list[str]:
    """Gateways of an older template, ending ones too, after a wait: they send customers to what is
    going to be deleted. A Deployment is complete before its last old pod has ended."""
    limit_s = config.gateway.settle.total_seconds()
    stands = written.stands(course.domain) or NO_FLAGS
    return settle(written, course.domain, stands, limit_s, site.clock, site.sleep)


def _nobody_called_back(config: Config, course: Course, site: Site, written: Written) -> None:
    """A rollback waits for no lock: from its flags on, what is left of a finish is not wanted.

    A way back may be gone on with: it moves nobody. Raises CalledBack.
    """
    if course.act == UNFINISH:
        return
    stands = _effective(config, course, site, written)
    if stands is None or stands.served != BY_DEFAULT.served:
        raise CalledBack(domain=course.domain, percentage=stands.served if stands else 0)


def _effective(config: Config, course: Course, site: Site, written: Written) -> DomainFlags | None:
    """The flags that stand, or the default in their place; None where there is neither."""
    stands = written.stands(course.domain)
    if stands is None and course.domain in finished(config, site.cluster):
        return BY_DEFAULT
    return stands


def _flags(config: Config, course: Course, written: Written, tools: Tools, site: Site) -> PartDone:
    """Take them away, or write what is served; until every gateway has followed."""
    domain, stands = course.domain, written.stands(course.domain)
    by_default = _effective(config, course, site, written) is BY_DEFAULT
    changed = [told] if (told := _flags_to_do(config, course, site, written)) else []
    limit_s = config.gateway.settle.total_seconds()
    if course.act == UNFINISH:
        if by_default:
            stands = DomainFlags(True, BY_DEFAULT.percentage, _epoch(domain, tools))
            written.restore(domain, stands)
        if stands is None:
            return PartDone(Name.FLAGS, [])  # there never was a default that stood for them
        missing = settle(written, domain, stands, limit_s, site.clock, site.sleep)
        return PartDone(Name.FLAGS, changed, missing=missing)
    if stands is not None:
        written.remove(domain, stands)
    deadline = site.clock() + limit_s
    while (missing := written.unflagged(domain)) and site.clock() < deadline:
        _nobody_called_back(config, course, site, written)
        site.sleep(rollouts.PAUSE_S)
    return PartDone(Name.FLAGS, changed, missing=missing)


def _epoch(domain: str, tools: Tools) -> int:
    """The newest that anybody knows: flags that were away come back as they are owned."""
    world = tools.world(domain)
    try:
        return survey(domain, tools.flags, world).highest_epoch
    finally:
        world.close()


def _written(tools: Tools) -> Written:
    assert tools.written is not None  # the course has seen to it: gateways of a cluster
    return tools.written


def _name(manifest: Object) -> str:
    return str(manifest["metadata"]["name"])
