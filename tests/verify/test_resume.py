"""A run that was cut off goes on where it was, and says no more than it knows."""

from collections import Counter
from pathlib import Path

import psycopg
import pytest

from migrator.barrier import Marker, Passing
from tests.verify.conftest import Library, Passed
from verify import diff
from verify.passes import Limits, Progress
from verify.scope import WHOLE, Scope
from verify.sides import Connection, ConnectionLost
from verify.unfinished import Unfinished

LIMITS = Limits(lost_s=30)
CUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE application_name = 'splitctl verify' AND datname = current_database()
"""


class Watching:
    """Counts how often each mapping was read, and does something after the second one."""

    def __init__(self, library: Library, then: str = "nothing") -> None:
        self.read: Counter[str] = Counter()
        self._library, self._then = library, then

    def __call__(self, progress: Progress) -> None:
        """Told of progress."""
        if progress.suspects is None:
            return
        self.read[progress.mapping] += 1
        if self.read.total() != 2 or self._then == "nothing":
            return
        if self._then == "interrupt":
            raise KeyboardInterrupt
        for database in self._library.databases.values():
            with psycopg.connect(database.dsn, autocommit=True) as connection:
                connection.execute(CUT.encode())


def test_lost_connections_are_opened_again_and_what_was_read_stays_read(library: Library) -> None:
    library.new.execute("UPDATE loans SET title = 'x' WHERE nr = 9")
    library.new.execute("UPDATE shelves SET name = 'x' WHERE id = (SELECT min(id::text)::uuid"
                        " FROM shelves)")  # fmt: skip
    watching = Watching(library, "cut")
    verdict = diff.run(library.config, barriers=Passed(), limits=LIMITS, on_progress=watching)
    assert verdict.verdict == "different", verdict.to_text()
    assert {m.mapping: m.mismatched for m in verdict.mappings if m.mismatched} == {
        "lending.forward.loans": 1,
        "lending.forward.shelves": 1,
        "lending.reverse.loan_book": 1,
        "lending.reverse.shelf": 1,
    }
    assert set(watching.read.values()) == {1}
    assert len(watching.read) == 6
    assert {b["b0"] for b in verdict.barriers.values()} == {"0/1", "0/2"}


def test_a_server_that_stays_away_is_told(library: Library) -> None:
    class Cutting(Passed):
        def wait_for(self, target: Connection, marker: Marker, timeout_s: float) -> Passing:
            with library.databases["new"].connect() as connection:
                connection.execute(CUT.encode())
            return super().wait_for(target, marker, timeout_s)

    with pytest.raises(ConnectionLost) as caught:
        diff.run(library.config, barriers=Cutting(), limits=Limits(lost_s=1))
    assert caught.value.exit_code == 4


def begun(library: Library, folder: Path, scope: Scope = WHOLE) -> Unfinished:
    return diff.begun(library.config, None, None, scope, None, LIMITS, folder)


def test_a_run_that_was_interrupted_is_gone_on_with(library: Library, tmp_path: Path) -> None:
    library.new.execute("UPDATE loans SET title = 'x' WHERE nr = 9")
    library.new.execute("UPDATE loans SET title = 'y' WHERE nr = 10")
    folder = tmp_path / "state"
    first = begun(library, folder)
    assert first.earlier() is None
    watching = Watching(library, "interrupt")
    with pytest.raises(KeyboardInterrupt):
        diff.run(library.config, barriers=Passed(), on_progress=watching, unfinished=first)
    # What differed then and no longer does is no difference of the whole run.
    library.new.execute("UPDATE loans SET title = 'Title 10' WHERE nr = 10")
    assert begun(library, folder, Scope(sample=500)).earlier() is None
    earlier = begun(library, folder).earlier()
    assert earlier is not None
    assert (earlier.started_at, len(earlier.read)) == (first.started_at, 1)
    assert str(earlier).startswith("1 mapping(s) read since 20")
    watching = Watching(library)
    verdict = diff.run(library.config, barriers=Passed(), on_progress=watching, unfinished=earlier)
    assert "lending.forward.loans" not in watching.read
    assert watching.read.total() == 5
    assert verdict.started_at == first.started_at
    assert (verdict.barriers["lending.forward"]["b0"]) == first.b0["lending.forward"]
    assert verdict.totals()["mismatched"] == 2, verdict.to_text()
    assert {m.rows_compared for m in verdict.mappings} == {400, 600, 20}
    assert list(folder.iterdir()) == []


def test_what_was_kept_for_another_query_or_is_damaged_is_not_used(
    library: Library, tmp_path: Path
) -> None:
    kept = begun(library, tmp_path)
    kept.save()
    assert kept.earlier() is not None
    mapping = library.config.domains["lending"].forward[0]
    object.__setattr__(mapping, "_sql", mapping.sql + " WHERE true")
    assert begun(library, tmp_path).earlier() is None
    assert kept.path is not None
    for text in ("", "{", "[]", '{"form": 1}', '{"form": 1, "fingerprint": 7, "read": {}}'):
        kept.path.write_text(text, encoding="utf-8")
        assert kept.earlier() is None


def test_a_run_whose_progress_cannot_be_kept_is_a_run_all_the_same(
    library: Library, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder", encoding="utf-8")
    kept = begun(library, tmp_path / "file")
    verdict = diff.run(library.config, barriers=Passed(), unfinished=kept)
    assert verdict.verdict == "equal"
    assert "cannot be kept" in caplog.text
