"""What hangs on rows that are to be deleted, and would go with them. Pure: no database, no clock.

A foreign key takes a row along with the one that it refers to, whoever wrote it, and however it is
to go on. So a parent is deleted only when everything below it is known to go as well: deleted in
the same plan, or gone on the source and ours to delete. What the plan moves elsewhere is moved
first. What stays, for whatever reason, keeps its parent.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from migrator.changes import MappingKey
from migrator.mapping import Key, Side
from migrator.ownership import Ownership
from migrator.plan import Plan, Standing, Values, Work, decide, owns, pick

Node = tuple[str, Values]


@dataclass(frozen=True)
class Hanging:
    """A row that stands and refers to another, `under`, each named by mapping and primary key.

    Of one that the plan says nothing of: `undecided`, it waits in the opposite stream; `given`, the
    source has it still.
    """

    mapping: str
    key: Key
    row: Standing
    under: Node
    undecided: bool = False
    given: bool = False

    @property
    def node(self) -> Node:
        """Its own name."""
        return self.mapping, self.row.primary


def deleted(plan: Plan) -> set[Node]:
    """The rows that the plan deletes."""
    return {(name, primary) for name, rows in plan.deletes.items() for primary in rows}


def written(plan: Plan, works: Sequence[Work]) -> set[Node]:
    """The rows that the plan writes."""
    return {
        (work.mapping, pick(row, work.primary_positions))
        for work in works
        for row in plan.upserts.get(work.mapping, [])
    }


def carried(works: Sequence[Work]) -> set[MappingKey]:
    """The keys that the plan decides."""
    return {(work.mapping, key) for work in works for key in work.keys}


def outlived(
    plan: Plan,
    works: Sequence[Work],
    hanging: Sequence[Hanging],
    ownership: Ownership | None,
    side: Side,
) -> Plan:
    """The plan in which nothing goes along that has to stay; `side` is the stream's source."""
    while hanging:
        kept = _kept(plan, works, hanging, ownership, side)
        if not kept:
            break
        works = [
            replace(work, kept={**work.kept, **kept[work.mapping]})
            if work.mapping in kept
            else work
            for work in works
        ]
        # Another parent stands now, and its own parent has a child that stays.
        plan = decide(works, ownership, side)
    return _moves_first(plan, works, hanging)


def _kept(
    plan: Plan,
    works: Sequence[Work],
    hanging: Sequence[Hanging],
    ownership: Ownership | None,
    side: Side,
) -> dict[str, dict[Key, tuple[MappingKey, ...]]]:
    """The keys of rows that would take something along, by mapping, and what that is."""
    going, coming, known = deleted(plan), written(plan, works), carried(works)

    def stays(item: Hanging) -> bool:
        row = item.row
        theirs = row.route is not None and not owns(ownership, side, row.route)
        decided = (item.mapping, item.key) in known
        return decided or theirs or row.fresh or item.undecided or item.given

    others = [item for item in hanging if item.node not in going and item.node not in coming]
    staying = {item.node: item for item in others if stays(item)}
    size = -1
    while size != len(staying):
        size = len(staying)
        between = {item.under: item for item in hanging if item.node in staying}
        staying = {item.node: item for item in others if item.node in between} | staying
    keys = {
        (work.mapping, item.primary): key
        for work in works
        for key, found in work.standing.items()
        for item in found
        if not item.elsewhere
    }
    kept: dict[str, dict[Key, tuple[MappingKey, ...]]] = {}
    for item in hanging:
        if item.node in staying and item.under in going:
            found, key = kept.setdefault(item.under[0], {}), keys[item.under]
            found[key] = (*found.get(key, ()), (item.mapping, item.key))
    return kept


def _moves_first(plan: Plan, works: Sequence[Work], hanging: Sequence[Hanging]) -> Plan:
    """Rows from which something moves away are deleted after it has, and what they hang on too."""
    late = written(plan, works)
    size = -1
    while size != len(late):
        size = len(late)
        late |= {item.under for item in hanging if item.node in late}
    return replace(
        plan,
        deletes={n: [p for p in rows if (n, p) not in late] for n, rows in plan.deletes.items()},
        late={n: [p for p in rows if (n, p) in late] for n, rows in plan.deletes.items()},
    )
