"""The worker as a whole: what one side does arrives on the other."""

from tests.migrator.parcels import Post


def test_carries_inserts_updates_and_deletes(carried: Post) -> None:
    old = carried.old
    old.execute(
        "INSERT INTO depots (region, code, name, holder, tags) VALUES ('n', 1, 'A', 'ann', '[\"x\", \"y\"]'), ('n', 2, 'B', 'bob', '[]')"
    )
    old.execute("INSERT INTO parcels (region, code, weight, note) VALUES ('n', 1, 1.005, 'a\tb')")
    carried.settle(carried.forward)
    assert carried.differences(carried.forward) == {}
    old.execute("UPDATE depots SET name = 'C', tags = '[\"z\"]' WHERE code = 1")
    old.execute("DELETE FROM depots WHERE code = 2")
    old.execute("UPDATE parcels SET code = 1, note = NULL")
    carried.settle()
    assert carried.differences(carried.forward) == {}
    assert carried.new.execute("SELECT tag FROM station_tags").fetchall() == [("z",)]
    assert carried.strays(carried.forward) == carried.strays(carried.reverse) == []
