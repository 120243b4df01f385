"""The rules for strays, by themselves: whatever is known, no key is written that must not be."""

from hypothesis import given
from hypothesis import strategies as st

from estate.config import StrayRule
from migrator.mapping import Key
from migrator.ownership import Ownership, bucket
from migrator.parts import Own
from migrator.plan import Routed, Standing, Work, decide, foreign
from migrator.rules import Facts, Verdict, verdict

RULES = [StrayRule(name) for name in ("owner", "carry", "stop")] + [StrayRule("newest", "x")]
KEYS: list[Key] = [(str(number),) for number in range(4)]
rules = st.sampled_from(RULES)
some_keys = st.frozensets(st.sampled_from(KEYS))
facts = st.builds(
    Facts,
    quiet=some_keys,
    unchanged=some_keys,
    late=some_keys,
    newer=some_keys,
    settled=some_keys,
)
NEW, OLD = sorted(("ann", "bob"), key=bucket)
HALVES = Ownership(bucket(OLD), 2)


@given(rules, st.sampled_from(KEYS), facts)
def test_a_stray_is_carried_only_on_proof_or_as_the_newest(
    rule: StrayRule, key: Key, known: Facts
) -> None:
    carried = verdict(rule, key, known) is Verdict.CARRIED
    proven = key in known.unchanged and (rule.name == "carry" or key in known.late)
    newest = rule.name == "newest" and key in known.newer
    assert carried == ((proven or newest) and key not in known.quiet)


@given(st.sampled_from(KEYS), facts)
def test_with_stop_nothing_is_decided_without_a_person_but_what_is_late_and_proven(
    key: Key, known: Facts
) -> None:
    found = verdict(StrayRule("stop"), key, known)
    if key in known.quiet:
        assert found is Verdict.KEPT
    elif not (key in known.unchanged and key in known.late):
        assert found is (Verdict.PASSED if key in known.settled else Verdict.STOPPED)


routes = st.sampled_from([NEW, OLD])
rows = st.dictionaries(st.sampled_from(KEYS), routes)


@st.composite
def works(draw: st.DrawFn) -> Work:
    """Keys of one row each, on either side; the rows' first column is the primary key."""
    here, there = draw(rows), draw(rows)
    return Work(
        mapping="m",
        primary_positions=(0,),
        keys=tuple(KEYS),
        rows={key: [Routed((key[0], "v"), route)] for key, route in here.items()},
        standing={
            key: [Standing((key[0],), route, draw(st.booleans()))] for key, route in there.items()
        },
        undecided=draw(some_keys),
        rule=draw(rules),
        facts=draw(facts),
    )


@given(works(), st.sampled_from(["old", "new"]))
def test_each_key_has_one_end_and_a_foreign_one_is_never_deleted(work: Work, side: str) -> None:
    source = "old" if side == "old" else "new"
    plan = decide([work], HALVES, source)  # type: ignore[arg-type]
    ends = [
        *plan.strays,
        *plan.across,
        *plan.stopped,
        *plan.passed,
        *plan.settled,
        *plan.contested,
        *plan.ambiguous,
        *plan.parentless,
    ]
    assert sorted(ends) == sorted(("m", key) for key in KEYS)
    strangers = set(foreign(work, HALVES, source))  # type: ignore[arg-type]
    assert {key for _, key in (*plan.strays, *plan.across, *plan.stopped, *plan.passed)} == (
        strangers
    )
    written = {(row[0],) for row in plan.upserts["m"]}
    assert written == {key for _, key in (*plan.across, *plan.settled)} & set(work.rows)
    assert not {(primary[0],) for primary in plan.deletes["m"]} & strangers


@given(
    writer=st.integers(3, 2**40),
    horizon=st.integers(3, 2**40),
    ahead=st.integers(1, 2**30),
    ours=st.booleans(),
)
def test_a_row_counts_as_older_only_if_it_is(
    writer: int, horizon: int, ahead: int, ours: bool
) -> None:
    """Ids are compared circularly; what cannot be told apart is not called older (way 2)."""
    following = max(writer, horizon) + ahead
    own = Own()
    own.begin(following - 1, following, 3)
    found = own.is_older(writer % 2**32, horizon, {writer} if ours else ())
    if found:
        assert writer < horizon or ours
    elif following - min(writer, horizon) < 2**31:
        assert writer >= horizon and not ours


def test_without_anybody_who_looks_from_the_other_side_nothing_is_proven() -> None:
    own = Own()
    own.begin(100, 101, None)
    assert not own.is_older(5, 50)
