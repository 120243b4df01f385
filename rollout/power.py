"""How much a phase can tell, said before it begins: from what the data say of the days before."""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta

from estate.config import Config
from estate.errors import SplitctlError, in_one_line
from rollout.statistics import Sample, to_pass, to_see
from rollout.subjects import Span, Subjects
from rollout.trials import Question, questions

HOUR_S, DAY_S = 3600.0, 86400.0


def sentences(
    config: Config, domain: str, percentage: int, subjects: Subjects, now: datetime
) -> list[str]:
    """For each gate that compares: when a drop will be seen at a percentage, and when it passes; or
    why it is not asked there."""
    phases = config.domain(domain).phases
    soak_s = next(p.soak.total_seconds() for p in phases if p.percentage == percentage)
    told = []
    found = questions(config, domain, percentage)
    for question in found:
        if question.gate.kind == "duration":
            continue
        try:
            sentence = _sentence(question, subjects, now, soak_s)
        except SplitctlError as error:
            sentence = in_one_line(error)
        told.append(f"{question.gate.name}: {sentence}")
    told += _not_asked(config, domain, percentage, {question.gate.name for question in found})
    return told


def _not_asked(
    config: Config, domain: str, percentage: int, asked: Collection[str]
) -> Iterator[str]:
    """Gates that compare customers, where nobody is left to compare with."""
    before = config.domain(domain).before(percentage)
    for gate in config.gates:
        if not gate.compares or domain not in (gate.domains or [domain]) or gate.name in asked:
            continue
        why = "nobody has stayed to compare with"
        if gate.kind == "conversion":
            why = f"the {100 - before} % who stayed until now have been the control at {before} %"
        yield f"{gate.name}: not asked at {percentage} %, {why}"


def _sentence(question: Question, subjects: Subjects, now: datetime, soak_s: float) -> str:
    gate = question.gate
    upto = now - gate.behind
    start = upto - gate.baseline
    slices = subjects.slices(
        gate, question.domain, Span(start, start, upto, HOUR_S), question.cohort
    )
    inside = sum((item.sample for item in slices if item.inside), Sample())
    whole = sum((item.sample for item in slices), Sample())
    # The rate; the judged cohort's part of the samples; those who have to begin for each sample.
    if question.control == "stayed":
        began, rate, part, each = whole, whole.share, inside.number / max(whole.number, 1), 1.0
    elif question.control == "before":
        began, rate, part, each = inside, inside.share, 0.5, 0.5
    else:
        began, rate, part, each = whole, inside.number / max(whole.number, 1), 0.5, 0.5
    if rate is None or not 0 < rate < 1 or not 0 < part < 1:
        return "too few customers of late to tell its power"
    # Data may begin later than what is looked at.
    first = start + timedelta(hours=min(item.number for item in slices))
    per_s = began.number / max((upto - first).total_seconds(), HOUR_S)
    seen = each * to_see(rate, question.drop, part, gate.alpha)
    passed = each * to_pass(rate, question.drop, part, gate.beta)
    behind_s = gate.behind.total_seconds()
    late = passed / per_s + behind_s > soak_s
    return (
        f"a {100 * (gate.drop or 0):g} % drop will be seen after about {_figure(seen)} customers,"
        f" at your traffic {_time(seen / per_s + behind_s)}; without one it passes after about"
        f" {_figure(passed)}, {_time(passed / per_s + behind_s)} (each four times in five)"
        + (f"; that is more than the soak of {_time(soak_s)}" if late else "")
    )


def _figure(number: float) -> str:
    """Two digits that count."""
    rounded = float(f"{number:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


def _time(seconds: float) -> str:
    if seconds < HOUR_S:
        return f"{_figure(seconds / 60)} min"
    if seconds < 3 * DAY_S:
        return f"{_figure(seconds / HOUR_S)} h"
    return f"{_figure(seconds / DAY_S)} days"
