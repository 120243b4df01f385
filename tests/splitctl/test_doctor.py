"""`splitctl doctor` as a DBA reads it: what is wrong, and under it what to copy."""

import json
import re
from pathlib import Path

from tests.conftest import ConfigWriter, FreshDatabase
from tests.migrator import library as lending
from tests.splitctl.test_commands import splitctl

FIX = "ALTER TABLE notes REPLICA IDENTITY FULL;"


def test_each_problem_has_a_fix_that_can_be_copied(
    fresh_databases: dict[str, FreshDatabase], write_config: ConfigWriter, tmp_path: Path
) -> None:
    library = lending.build(fresh_databases, write_config)
    library.old.execute("ALTER TABLE notes REPLICA IDENTITY DEFAULT")
    arguments = ("doctor", "--config", str(library.path))
    told = json.loads(splitctl(*arguments, "-o", "json", directory=tmp_path).stdout)
    fixes = {problem["key"]: problem["fix"] for problem in told["problems"]}
    assert fixes["domains.lending.forward.remarks"] == FIX
    assert {server["database"]: server["version"] for server in told["servers"]} == {
        "main": 18,
        "branch": 18,
    }
    text = splitctl(*arguments, directory=tmp_path).stdout
    # Alone on its line: nothing of the sentence above comes along when it is copied.
    assert FIX in [line.strip() for line in text.splitlines()]
    library.old.execute(FIX)
    text = splitctl(*arguments, directory=tmp_path).stdout
    assert FIX not in text
    assert "ids      old.books.id: not shared out yet by 1 from 1" in text
    assert "ok       domain lending: its mappings fit both databases" in text
    assert "server   main: PostgreSQL 18, database" in text
    assert re.search(r"ok       comparison of lending: all \d+ known differences were found", text)
    library.old.close()
    library.new.close()
