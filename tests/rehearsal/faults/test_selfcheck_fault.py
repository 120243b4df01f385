"""A verifier told to skip a column: the self-check finds it, and says which."""

import pytest

from migrator.faults import VARIABLE
from tests.rehearsal.faults.ground import Split

MAPPING = "return.forward.return_requests"


def test_a_verifier_that_skips_a_column_is_found_out(
    split: Split, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, f"skip-column:{MAPPING}.status")
    answer = split.type("verify", "run", "--domain", "return", expect=(4,))
    assert answer.data["verdict"] == "inconclusive"
    check = answer.data["self_check"]
    assert check["result"] == "fail"
    assert {missed["mapping"] for missed in check["missed_cases"]} == {MAPPING}
    assert any("status" in case for missed in check["missed_cases"] for case in missed["not_found"])
    # Such a verdict lets nobody advance.
    held = split.type("rollout", "advance", "return", expect=(4,))
    assert held.data["verdict"] == "inconclusive"
