"""The rehearsal's configuration is the shipped one but for what was asked."""

import stat
import tomllib
from pathlib import Path

import pytest

from estate.config import load
from rehearsal import shipped
from rehearsal.configuration import ExampleDamaged, rewrite, toml, write_secret

TEXT = """\
# the estate
name = "a"   # stays
[one]
urls = [
  "http://x",  # first
  "http://y",
]
keep = '''
[not.a.table]
urls = 1
'''
[one.two]
urls = ["z"]
[[gates]]
urls = "g"
"""


def test_only_the_named_values_change() -> None:
    changed = rewrite(TEXT, {("one", "urls"): toml(["http://b"]), ("one.two", "urls"): "[]"})
    expected = tomllib.loads(TEXT)
    expected["one"]["urls"] = ["http://b"]
    expected["one"]["two"]["urls"] = []
    assert tomllib.loads(changed) == expected
    assert "# the estate" in changed
    assert 'name = "a"   # stays' in changed


def test_a_key_that_is_not_there_is_named() -> None:
    with pytest.raises(ExampleDamaged, match=r"\[one\] other"):
        rewrite(TEXT, {("one", "other"): "1"})


def test_strings_survive_as_toml() -> None:
    value = 'a "quoted" \\ path'
    assert tomllib.loads(f"x = {toml([value])}") == {"x": [value]}


def test_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    assert write_secret(tmp_path, "a.dsn", "host=x") == "file:secrets/a.dsn"
    mode = stat.S_IMODE((tmp_path / "secrets" / "a.dsn").stat().st_mode)
    assert mode == 0o600
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700


def test_the_example_has_what_it_names(tmp_path: Path) -> None:
    shipped.copy_named(tmp_path)
    (tmp_path / "config.toml").write_text(shipped.configuration())
    config = load(tmp_path / "config.toml")
    for database in ("checkout", "return"):
        folder = config.database(database).migrations
        assert folder is not None
        assert list((folder / "versions").glob("*.py"))
