"""A verifier that skips a column: the self-test finds it, and says which."""

import json
from typing import Any

import pytest

from tests.rehearsal.faults.ground import Split

pytestmark = pytest.mark.rehearsal

MAPPING = "return.forward.return_requests"


def judged(split: Split, *command: str) -> dict[str, Any]:
    """What a command answers whose verifier skips a column; it must end inconclusive."""
    fault = f"skip-column:{MAPPING}.status"
    ended = split.run("tests.faulty", fault, *command, "-o", "json")
    assert ended.returncode == 4, (ended.stdout, ended.stderr)
    answer = dict(json.loads(ended.stdout))
    assert answer["verdict"] == "inconclusive"
    return answer


def test_a_verifier_that_skips_a_column_is_found_out(split: Split) -> None:
    check = judged(split, "verify", "run", "--domain", "return")["self_test"]
    assert check["result"] == "fail"
    assert {missed["mapping"] for missed in check["missed_cases"]} == {MAPPING}
    assert any("status" in case for missed in check["missed_cases"] for case in missed["not_found"])
    # Such a verdict lets nobody advance.
    judged(split, "rollout", "advance", "return")
