"""`splitctl observe` and `splitctl rollout replay` as typed, over the worked example."""

import json
from pathlib import Path

import pytest
import yaml

from tests.splitctl.test_commands import splitctl, started

__all__ = ["started"]


def test_the_worked_example_gives_its_four_alerts_and_all_dashboards(started: Path) -> None:
    found = splitctl("observe", "rules", "--out", "o", "-o", "json", directory=started)
    assert found.returncode == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["left_out"] == []
    named = {(item["name"], item["severity"]) for item in told["alerts"]}
    assert named >= {
        ("SplitctlErrorRate", "page"),
        ("SplitctlLatency", "chat"),
        ("ServiceDatabaseFailures", "page"),
        ("ServiceEventFailures", "chat"),
    }
    for group in yaml.safe_load((started / "o/splitctl-rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert set(rule["annotations"]) == {"summary", "description", "next"}
            assert rule["annotations"]["next"].startswith("splitctl ")
            assert rule["labels"]["environment"] == "example"
    for command in ("alertmanager", "dashboards"):
        assert splitctl("observe", command, "--out", "o", directory=started).returncode == 0
    boards = [json.loads(path.read_text()) for path in (started / "o/dashboards").glob("*.json")]
    assert len(boards) == 6, "two domains, three services, the sync"
    assert any(p["title"] == "Cart conversion" for board in boards for p in board["panels"])


def test_files_that_are_missing_are_wrong_and_the_command_says_so(started: Path) -> None:
    found = splitctl("observe", "check", "--out", "nowhere", directory=started)
    assert found.returncode == 3
    assert "nowhere/splitctl-rules.yml: it cannot be read: No such file" in found.stdout


def test_a_directory_that_cannot_be_written_is_told(started: Path) -> None:
    (started / "file").write_text("")
    found = splitctl("observe", "rules", "--out", "file", directory=started)
    assert found.returncode == 5
    assert "cannot be written" in found.stderr and "Next: " in found.stderr


def test_a_replay_without_a_prometheus_says_what_is_missing(started: Path) -> None:
    found = splitctl("rollout", "replay", directory=started)
    assert found.returncode == 2
    assert "names no Prometheus" in found.stderr and "add url and matcher" in found.stderr


def test_a_replay_whose_prometheus_is_away_is_inconclusive(started: Path) -> None:
    path = started / "config.toml"
    lines = 'driver = "scrape"\nurl = "http://127.0.0.1:1"\nmatcher = \'job="gateway"\''
    path.write_text(path.read_text().replace('driver = "scrape"', lines))
    found = splitctl("rollout", "replay", "--from", "1h", directory=started)
    assert found.returncode == 4, found.stderr
    assert "http://127.0.0.1:1 does not tell" in found.stderr


@pytest.mark.parametrize(
    "options",
    [("--from", "yesterday"), ("--from", "1h", "--to", "2h"), ("--step", "0s"), ("--step", "1ms")],
)
def test_a_past_that_is_none_is_refused(started: Path, options: tuple[str, ...]) -> None:
    found = splitctl("rollout", "replay", *options, directory=started)
    assert found.returncode == 2
    assert "Traceback" not in found.stderr
