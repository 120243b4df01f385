"""Writes are counted where they were acknowledged."""

import json
from pathlib import Path

from rehearsal.tally import Tally, sides_in_use


def line(stage: str, percentage: int, side: str, domain: str = "things") -> str:
    write = {"stage": stage, "percentage": percentage, "side": side, "domain": domain}
    return json.dumps(write) + "\n"


def test_a_growing_file_is_counted_once_and_only_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "writes.jsonl"
    tally = Tally(path)
    tally.read()
    whole = line("live", 10, "new")
    path.write_text(whole + whole[:9])
    tally.read()
    assert tally.at("live", 10, "new") == 1
    path.write_text(whole + whole + line("live", 10, "old", "others"))
    tally.read()
    tally.read()
    assert tally.at("live", 10, "new") == 2
    assert tally.total == 3
    assert tally.rows()[1] == {
        "stage": "live",
        "percentage": 10,
        "side": "old",
        "writes": 1,
        "by_domain": {"others": 1},
    }


def test_a_percentage_above_zero_is_live_already(tmp_path: Path) -> None:
    path = tmp_path / "writes.jsonl"
    path.write_text(line("dual-write", 10, "new") + line("dual-write", 0, "old"))
    tally = Tally(path)
    tally.read()
    assert tally.at("live", 10, "new") == 1
    assert tally.at("dual-write", 0, "old") == 1


def test_the_sides_in_use() -> None:
    assert [sides_in_use(p) for p in (0, 1, 99, 100)] == [
        ("old",),
        ("old", "new"),
        ("old", "new"),
        ("new",),
    ]
