"""Who writes: customers through the gateway, jobs that ask for the owner, and people who do not.

A commit is in the log at once and visible a moment later; its rows are locked until then.
"""

from collections.abc import Collection, Iterator

from tests.model.cures import Without
from tests.model.states import (
    HELD,
    NAMES,
    NEW,
    OLD,
    Change,
    Entry,
    Hidden,
    Row,
    State,
    Version,
    logged,
    names,
    side_put,
    with_row,
)

Steps = Iterator[tuple[str, State]]


def steps(s: State, without: Collection[Without]) -> Steps:
    """What writers can do next."""
    yield from _customers(s, without)
    for side in (OLD, NEW):
        hidden = s.hidden[side]
        if hidden is not None:
            yield f"{NAMES[side]}: the commit is visible", _shown(s, side, hidden)
        else:
            yield from _others(s, side, without)


def _customers(s: State, without: Collection[Without]) -> Steps:
    side = s.gateway.serves
    if s.customers and side != HELD and s.under_way[side] is None:
        for change in s.customers[0]:
            if possible(s, side, change):
                asked = s._replace(
                    customers=s.customers[1:], under_way=side_put(s.under_way, side, change)
                )
                yield f"!a customer asks {NAMES[side]} to {_words(change)}", asked
    for side in (OLD, NEW):
        request = s.under_way[side]
        if request is not None and s.hidden[side] is None:
            done = s._replace(under_way=side_put(s.under_way, side, None))
            if possible(s, side, request):
                yield f"{NAMES[side]}: {_words(request)}", commit(done, side, request, without)
            else:
                yield f"{NAMES[side]}: there is nothing to {_words(request)}", done


def _others(s: State, side: int, without: Collection[Without]) -> Steps:
    if s.others and possible(s, side, s.others[0]):
        change, rest = s.others[0], s.others[1:]
        after = commit(s._replace(others=rest, excused=True), side, change, without)
        yield f"!{NAMES[side]}: somebody who did not ask does {_words(change)}", after
    if s.jobs and s.owner[side].side == side:
        change = Change("write", (0,))
        after = commit(s._replace(jobs=s.jobs - 1), side, change, without)
        yield f"!{NAMES[side]}: a job that holds the owner row does {_words(change)}", after


def possible(s: State, side: int, change: Change) -> bool:
    """Whether the rows are there for it: parents above all."""
    rows = s.rows[side]
    if change.kind == "write":
        parents = (s.parents[key] for key in change.keys)
        return not any(
            parent is not None and parent not in change.keys and rows[parent].gone
            for parent in parents
        )
    return not any(rows[key].gone for key in change.keys)


def commit(s: State, side: int, change: Change, without: Collection[Without] = ()) -> State:
    """One transaction on a side: in the log at once, visible later (where the story lags)."""
    rows, keys = s.rows[side], list(change.keys)
    if change.kind == "delete":
        # The tables' own cascade.
        keys += [k for k, parent in enumerate(s.parents) if parent in keys and not rows[k].gone]
    values = [s.versions[rows[key].version].value for key in keys]
    if change.kind == "swap":
        values.reverse()
    versions, written = s.versions, []
    for key, value in zip(keys, values, strict=True):
        number = len(versions)
        seen = versions[rows[key].version].seen | 1 << number
        versions = (*versions, Version(key, seen, value))
        written.append((key, (number, change.kind == "delete")))
    told = tuple(keys)
    if change.kind == "move" and Without.OLD_KEY in without:
        told = told[1:]
    kind = "huge" if change.kind == "huge" else "write"
    hidden = Hidden(s.writes[side] + 1, tuple(written))
    after = logged(s, side, Entry(kind, told))._replace(
        versions=versions, writes=side_put(s.writes, side, hidden.number)
    )
    if side == OLD and after.copy.stage != "done":
        # An update puts the row somewhere else in the table.
        elsewhere = 1 - after.copy.row_lies_in
        after = after._replace(copy=after.copy._replace(row_lies_in=elsewhere))
    if not s.lags:
        return _shown(after, side, hidden)
    return after._replace(hidden=side_put(after.hidden, side, hidden))


def _shown(s: State, side: int, hidden: Hidden) -> State:
    for key, (version, gone) in hidden.rows:
        s = with_row(s, side, key, Row(version, gone, hidden.number))
    return s._replace(hidden=side_put(s.hidden, side, None))


def _words(change: Change) -> str:
    return f"{change.kind} {names(change.keys)}"
