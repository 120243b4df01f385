"""After each list comes the next sensible command, chosen by what the list says."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from estate.config import Config, load
from migrator import following
from migrator.backfill import MappingBackfill
from migrator.parked import REASONS, StrayRow, WaitingKey
from migrator.schema import SchemaApplied, SchemaStatus
from migrator.status import NEVER_BEGUN, StreamStatus

ROOT = Path(__file__).parents[2]
WELL = StreamStatus("checkout.forward", True, True, 20.0, 0, 0, 0, 0, {"m": "live"}, 300.0, 0)
COPIED = MappingBackfill("checkout.forward.carts", "copied", "live", 5, 1, None, None, 0)


@pytest.fixture(scope="module")
def config() -> Config:
    return load(ROOT / "config.example.toml")


@pytest.mark.parametrize(
    ("stream", "command"),
    [
        (WELL, "splitctl status"),
        (StreamStatus("checkout.forward", problem="away"), "splitctl doctor"),
        (StreamStatus("checkout.forward", **NEVER_BEGUN), "splitctl sync enable checkout"),
        (replace(WELL, enabled=False, problem="no slot"), "splitctl sync enable checkout"),
        (replace(WELL, worker_alive=False), "splitctl sync run"),
        (replace(WELL, states={"m": "spool"}, spooled=3), "splitctl backfill status"),
        (replace(WELL, states={"m": "drain"}, spooled=3), "splitctl backfill status"),
        (replace(WELL, strays=1), "splitctl sync strays checkout"),
        (replace(WELL, waiting=1), "splitctl sync waiting checkout"),
    ],
)
def test_after_sync_status(stream: StreamStatus, command: str) -> None:
    assert following.after_sync_status([stream]) == command


def test_after_what_was_put_aside() -> None:
    seen = datetime(2026, 1, 1, tzinfo=UTC)
    stray = StrayRow("checkout.reverse/7", "carts 1", seen, [], [], None, None)
    settled = replace(stray, stray="checkout.reverse/6", settled_at=seen, settled="by hand: seen")
    assert following.after_strays([settled]) == "splitctl status"
    assert following.after_strays([settled, stray]).startswith(
        "splitctl sync settle checkout.reverse/7 --keep"
    )
    late = WaitingKey("checkout.reverse.carts", "1", REASONS["parent"], "", seen, 2)
    refused = replace(late, reason=REASONS["unwritable"])
    assert following.after_waiting([]) == "splitctl status"
    assert "by itself" in following.after_waiting([late])
    assert "refuses" in following.after_waiting([late, refused])


def test_what_is_unknown_comes_before_what_is_wrong() -> None:
    away = StreamStatus("return.forward", problem="away")
    assert following.after_sync_status([replace(WELL, strays=1), away]) == "splitctl doctor"


def test_a_domain_that_is_off_does_not_hide_the_others() -> None:
    off = StreamStatus("return.forward", **NEVER_BEGUN)
    assert following.after_sync_status([off, WELL]) == "splitctl status"
    stopped = replace(WELL, worker_alive=False)
    assert following.after_sync_status([off, stopped]) == "splitctl sync run"


@pytest.mark.parametrize(
    ("mapping", "command"),
    [
        (COPIED, "splitctl verify run"),
        (replace(COPIED, copy="pending", sync="spool"), "splitctl backfill run checkout"),
        (replace(COPIED, copy="copying", sync="spool"), "splitctl backfill run checkout"),
        (replace(COPIED, sync="spool"), "splitctl sync enable checkout"),
        (replace(COPIED, sync="drain", pending=9), "splitctl sync status"),
    ],
)
def test_after_backfill_status(config: Config, mapping: MappingBackfill, command: str) -> None:
    assert following.after_backfill_status(config, [mapping]) == command


def test_without_any_backfill_sync_comes_first(config: Config) -> None:
    assert following.after_backfill_status(config, []) == "splitctl sync enable checkout"


def test_after_schema_status() -> None:
    new = SchemaStatus("checkout", "0007", "0007", ())
    behind = SchemaStatus("return", None, "0001", ("0001",))
    assert following.after_schema_status([]) == "splitctl doctor"
    assert following.after_schema_status([new]) == "splitctl status"
    assert following.after_schema_status([behind]) == "splitctl schema apply return"
    assert following.after_schema_status([new, behind]) == "splitctl schema apply"


def test_after_schema_apply(config: Config) -> None:
    made = SchemaApplied("return", None, "0001", ("0001",))
    changed = SchemaApplied("checkout", "0006", "0007", ("0007",))
    nothing = SchemaApplied("checkout", "0007", "0007", ())
    assert following.after_schema_apply(config, [nothing, made]) == "splitctl sync enable return"
    assert following.after_schema_apply(config, [changed]) == "splitctl doctor"
    assert following.after_schema_apply(config, [nothing]) == "splitctl status"
