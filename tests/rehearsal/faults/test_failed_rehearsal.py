"""A whole `splitctl rehearse` whose sync errs: exit 3, and a certificate that names the row."""

import json
from pathlib import Path

import pytest

from tests.rehearsal.faults.ground import end
from tests.rehearsal.faults.place import LIMIT_S, Place

pytestmark = pytest.mark.faults


# Without its fault it comes to its end only after minutes: it must fail by what it says.
@pytest.mark.timeout(900)
def test_a_rehearsal_with_a_stale_row_fails(open_directory: Path) -> None:
    place = Place(open_directory / "stale")
    running = place.rehearse(fault="reorder:1")
    try:
        assert running.wait(timeout=LIMIT_S) == 3, place.told()[-2000:]
    finally:
        end(running)
    made = json.loads((place.directory / "certificate.json").read_text(encoding="utf-8"))
    assert made["result"] == "fail"
    assert "a verification ended different" in made["reasons"]
    assert made["diff"]["mismatched"] + made["diff"]["missing"] + made["diff"]["extra"] > 0
    named = {(found["mapping"], str(found["key"])) for found in made["diff_samples"]}
    assert named
    # The page that a person opens names it too.
    page = (place.directory / "report.html").read_text(encoding="utf-8")
    for found in made["diff_samples"]:
        assert found["mapping"] in page
        assert any(str(value) in page for value in found["key"].values())
    place.nothing_left()
