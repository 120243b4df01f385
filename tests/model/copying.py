"""The backfill (migrator/backfill.py, copying.py, chunk.py): in chunks, or the fastest way.

In chunks: parents first; a chunk is read in a snapshot of its own and committed with its place, and
never overwrites. The fast copy into an empty table: ranges of the source's pages, into a table
without keys; a row that moves between ranges is copied twice, or not at all.
"""

from collections.abc import Collection, Iterator

from tests.model.cures import Without
from tests.model.settling import spooled
from tests.model.states import (
    KEYS,
    NEW,
    OLD,
    Copy,
    Entry,
    Read,
    Row,
    State,
    logged,
    put,
    with_row,
    with_stream,
)

Steps = Iterator[tuple[str, State]]
RANGES = 2


def steps(s: State, without: Collection[Without]) -> Steps:
    """What the copy can do next."""
    copy = s.copy
    if copy.stage in {"slot", "fast slot"}:
        if s.hidden[OLD] is None or Without.OLDER_TRANSACTIONS in without:
            following = "chunks" if copy.stage == "slot" else "ranges"
            yield "copy: nothing older than the slot is under way", _at(s, stage=following)
    elif copy.stage == "chunks":
        yield from _chunks(s, without)
    elif copy.stage == "ranges":
        yield from _ranges(s)
    elif copy.stage != "done":
        yield from _keys(s, without)
    if copy.chunk and s.crashes:
        yield "!copy: killed", _at(s, chunk=None)._replace(crashes=s.crashes - 1)


def _at(s: State, **changes: object) -> State:
    return s._replace(copy=s.copy._replace(**changes))  # type: ignore[arg-type]


def _chunks(s: State, without: Collection[Without]) -> Steps:
    """For each mapping two places: its chunk, and then letting it go."""
    place, chunk = s.copy.place, s.copy.chunk
    if chunk is not None:
        key = (place - 1 if Without.CHUNK_WITH_PLACE in without else place) // 2
        yield f"copy: {KEYS[key]} is written", _chunk(s, key, chunk)
    elif place == 2 * len(s.parents):
        yield "copy: done", s._replace(copy=Copy())
    elif place % 2:
        stream = s.streams[OLD]
        drained = stream._replace(states=put(stream.states, place // 2, "drain"))
        after = with_stream(s, OLD, drained)
        yield f"copy: {KEYS[place // 2]} is let go", _at(after, place=place + 1)
    else:
        early = Without.CHUNK_WITH_PLACE in without
        read = s.rows[OLD][place // 2][:2]
        after = _at(s, chunk=read, place=place + 1 if early else place)
        yield f"copy: reads {KEYS[place // 2]}", after


def _chunk(s: State, key: int, chunk: Read) -> State:
    """Rows that stand are left alone; a row without its parent goes to the spool."""
    after = _at(s, chunk=None, place=2 * key + 1)
    parent, (version, gone) = s.parents[key], chunk
    if gone or not s.rows[NEW][key].gone:
        return after
    if parent is not None and s.rows[NEW][parent].gone:
        # Nobody knows when it changed: it is older than any marker.
        stream = after.streams[OLD]
        unknown = stream._replace(newer=put(stream.newer, key, False))
        return spooled(with_stream(after, OLD, unknown), OLD, key)
    return with_row(after, NEW, key, Row(version, gone))


def _ranges(s: State) -> Steps:
    """One key, whose row lies in one of the ranges, now here and now there."""
    copy = s.copy
    if copy.chunk is not None:
        (version, gone) = copy.chunk
        pile = copy.pile if gone else (*copy.pile, version)
        yield "copy: the range is written", _at(s, chunk=None, pile=pile, place=copy.place + 1)
    elif copy.place < RANGES:
        # A commit that is not visible yet has put the row into the other one.
        lies_in = copy.row_lies_in if s.hidden[OLD] is None else 1 - copy.row_lies_in
        here = lies_in == copy.place
        found = s.rows[OLD][0][:2] if here else (0, True)
        told = "has a" if here and not found[1] else "has no row"
        yield f"copy: range {copy.place + 1} {told}", _at(s, chunk=found)
    else:
        yield (
            "copy: marker behind the last range",
            _at(logged(s, OLD, Entry("marker")), stage="decoding"),
        )


def _keys(s: State, without: Collection[Without]) -> Steps:
    """Decoding has passed, rows of spooled keys go, the key is built, the spool is drained."""
    copy, stream = s.copy, s.streams[OLD]
    if copy.stage == "decoding":
        passed = Entry("marker") not in stream.log
        if passed or Without.DECODING in without:
            yield "copy: decoding has passed the last range", _at(s, stage="passed")
    elif copy.stage == "passed":
        spared = Without.DELETING_SPOOLED in without or not stream.spool[0]
        pile = copy.pile if spared else ()
        yield "copy: rows of spooled keys are deleted", _at(s, stage="deleted", pile=pile)
    elif copy.stage == "deleted":
        yield "copy: the key is built", _at(s, stage="keyed")
    else:
        after = with_row(s, NEW, 0, Row(copy.pile[0], gone=False)) if copy.pile else s
        drained = stream._replace(states=put(stream.states, 0, "drain"))
        yield "copy: let go", with_stream(after, OLD, drained)._replace(copy=Copy())
