"""The configuration tells every mistake at once, and never a secret."""

import re
import shutil
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from estate.config import ConfigInvalid, ConfigNotFound, lines, load, parse_duration
from estate.config.gates import GATE_LIMITS
from estate.config.values import Name, StrayRule
from estate.secrets import SecretMissing, SecretRef

ROOT = Path(__file__).parents[2]

MINIMAL = """
environment = "test"
[ledger]
dsn = "env:LEDGER"
[databases.left]
dsn = "env:LEFT"
[databases.right]
dsn = "env:RIGHT"
migrations = "schema"
[gateway]
urls = ["http://127.0.0.1:1"]
token = "env:TOKEN"
[domains.things]
old = "left"
new = "right"
flag = "USE_THINGS"
percentage = "THINGS_PERCENTAGE"
phases = [{ percentage = 10, soak = "24h" }, { percentage = 100, soak = "7d" }]
[[domains.things.forward]]
target = "thing"
query = "thing.sql"
key = ["id"]
route = "t.owner"
sources = { old_thing = { id = "id" } }
[[domains.things.reverse]]
target = "old_thing"
query = "thing.sql"
key = ["id"]
route = "t.owner"
sources = { thing = { id = "id" } }
"""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    (tmp_path / "thing.sql").write_text("SELECT id, owner AS splitctl_route FROM old_thing;\n")
    path = tmp_path / "config.toml"
    path.write_text(MINIMAL)
    return path


def problems(path: Path, old: str, new: str) -> dict[str, str]:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigInvalid) as caught:
        load(path)
    return {problem.key: f"{problem.reason}. {problem.remedy}" for problem in caught.value.problems}


def test_a_minimal_configuration_is_read_whole(written: Path) -> None:
    config = load(written)
    domain = config.domains["things"]
    assert domain.name == "things"
    assert config.databases["left"].name == "left"
    assert config.databases["right"].migrations == written.parent / "schema"
    assert domain.phases[0].soak == timedelta(hours=24)
    assert domain.forward[0].sql == "SELECT id, owner AS splitctl_route FROM old_thing"
    assert config.rollback.hold_ms == 1000


def test_the_example_is_a_right_configuration(tmp_path: Path) -> None:
    shutil.copy(ROOT / "config.example.toml", tmp_path / "config.toml")
    for folder in ("mappings", "invariants", "gates"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    config = load(tmp_path / "config.toml")
    mappings = [len(domain.forward) + len(domain.reverse) for domain in config.domains.values()]
    assert sum(mappings) == 15
    assert sum(len(domain.invariants) for domain in config.domains.values()) == 12


def test_every_gate_of_the_page_about_gates_is_a_right_one(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "gates.md").read_text(encoding="utf-8")
    examples = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    text = (ROOT / "config.example.toml").read_text(encoding="utf-8")
    shown = len(tomllib.loads(text)["gates"])
    (tmp_path / "config.toml").write_text("\n".join([text, *examples]), encoding="utf-8")
    for folder in ("mappings", "invariants", "gates"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    gates = load(tmp_path / "config.toml").gates[shown:]
    assert {gate.kind for gate in gates} == set(GATE_LIMITS)
    assert all(f"\n## {kind}\n" in page for kind in GATE_LIMITS)


def test_every_mistake_is_told_at_once(written: Path) -> None:
    text = written.read_text()
    text = text.replace('environment = "test"', 'environment = "test"\ncolour = "red"')
    text = text.replace('soak = "24h"', 'soak = "a day"').replace('flag = "USE_THINGS"\n', "")
    written.write_text(text)
    with pytest.raises(ConfigInvalid) as caught:
        load(written)
    keys = {problem.key for problem in caught.value.problems}
    assert keys == {"colour", "domains.things.phases.0.soak", "domains.things.flag"}
    assert all(problem.reason and problem.remedy for problem in caught.value.problems)
    told = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in told[1:]] == [
        "line 3, colour",
        "line 14, domains.things.flag",
        "line 18, domains.things.phases.0.soak",
    ]
    assert "24h" in told[3]


def test_a_key_spelled_wrong_is_told_the_right_one(written: Path) -> None:
    found = problems(written, "percentage = 10,", "precentage = 10,")
    assert "Did you mean percentage?" in found["domains.things.phases.0.precentage"]


def test_values_are_not_repeated_and_what_would_be_right_is_told(written: Path) -> None:
    old = '[gateway]\nurls = ["http://127.0.0.1:1"]'
    new = '[rollback]\nhold_ms = 5000\n[sync]\nlisten = "hunter2"\n[gateway]\nurls = "hunter2"'
    found = problems(written, old, new)
    assert found["rollback.hold_ms"] == "is too much. Use at most 1000."
    assert "127.0.0.1:9187" in found["sync.listen"]
    assert "list in square brackets" in found["gateway.urls"]
    assert "hunter2" not in str(found)


def test_each_key_is_found_on_its_line() -> None:
    text = (ROOT / "config.example.toml").read_text()
    rows = text.splitlines()
    found = lines.of_keys(text)
    for key, row in {
        "domains.return.reverse.0.sources.return_refunds": 'return_refunds = { id = "return_id" }',
        "domains.checkout.forward.3.route": 'route = """',
        "domains.checkout.forward.4": "[[domains.checkout.forward]]",
        "writers.1.name": 'name = "outbox-relay"',
        "domains.checkout.phases": "phases = [",
    }.items():
        assert rows[found[key] - 1] == row
    assert lines.of_key("domains.checkout.phases.1.soak", found) == found["domains.checkout.phases"]
    assert lines.of_key("domains.checkout.flags", found) == found["domains.checkout"]
    assert lines.of_key("nowhere", found) == 0


def test_a_secret_written_in_plain_is_refused_and_not_repeated(written: Path) -> None:
    found = problems(written, '"env:LEFT"', '"postgresql://me:hunter2@db/x"')
    assert "databases.left.dsn" in found
    assert "hunter2" not in str(found)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('new = "right"', 'new = "nowhere"', "domains.things.new"),
        ('old = "left"', 'old = "right"', "domains.things.new"),
        ("percentage = 100", "percentage = 90", "domains.things.phases"),
        ("percentage = 10,", "percentage = 100,", "domains.things.phases"),
        ('query = "thing.sql"', 'query = "missing.sql"', "domains.things.forward.0"),
        ('{ id = "id" }', '{ other = "id" }', "domains.things.forward.0"),
        ('"http://127.0.0.1:1"', '"127.0.0.1"', "gateway.urls.0"),
        ("domains.things", "domains.Big-Things", "domains.Big-Things"),
    ],
)
def test_each_kind_of_mistake_names_its_key(written: Path, old: str, new: str, key: str) -> None:
    assert key in problems(written, old, new)


STRAY = 'sources = { old_thing = { id = "id" } }\nstray = '


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ('"owner"', StrayRule("owner")),
        ('"carry"', StrayRule("carry")),
        ('"stop"', StrayRule("stop")),
        ('{ newest = "changed_at" }', StrayRule("newest", "changed_at")),
    ],
)
def test_a_mapping_says_what_becomes_of_a_stray(written: Path, text: str, rule: StrayRule) -> None:
    found = 'sources = { old_thing = { id = "id" } }'
    written.write_text(written.read_text().replace(found, STRAY + text))
    domain = load(written).domains["things"]
    assert domain.forward[0].stray == rule
    # Where nothing is said, the owner wins.
    assert domain.reverse[0].stray == StrayRule("owner")


@pytest.mark.parametrize(
    "text",
    [
        '"newest"',
        '"Owner"',
        "3",
        '{ newest = "x", or = "y" }',
        "{ newest = 3 }",
        '{ newest = "A" }',
    ],
)
def test_a_rule_that_is_none_is_told_the_right_ones(written: Path, text: str) -> None:
    found = problems(written, 'sources = { old_thing = { id = "id" } }', STRAY + text)
    assert '{ newest = "a column" }' in found["domains.things.forward.0.stray"]


def test_the_way_a_configuration_is_found(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPLITCTL_CONFIG", raising=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ConfigNotFound, match=r"config\.toml"):
        load()
    monkeypatch.setenv("SPLITCTL_CONFIG", str(written))
    assert load().environment == "test"
    monkeypatch.delenv("SPLITCTL_CONFIG")
    monkeypatch.chdir(tmp_path)
    assert load().path == written


def test_broken_toml_names_the_line(written: Path) -> None:
    written.write_text(MINIMAL + "\n[domains\n")
    with pytest.raises(ConfigInvalid, match="line"):
        load(written)


@given(st.text(max_size=30))
def test_no_reference_ever_raises_anything_but_a_clear_refusal(text: str) -> None:
    try:
        reference = SecretRef(text)
    except ValueError as error:
        assert "env:NAME" in str(error)
        assert len(text) < 4 or text not in str(error)
    else:
        assert str(reference) == text


def test_a_missing_secret_names_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET", raising=False)
    with pytest.raises(SecretMissing, match="env:NOT_SET"):
        SecretRef("env:NOT_SET").reveal()
    with pytest.raises(SecretMissing, match="nothing-here"):
        SecretRef("file:nothing-here", tmp_path).reveal()


@given(st.floats(min_value=0, max_value=1e6), st.sampled_from(["ms", "s", "m", "h"]))
def test_durations_read_as_written(number: float, unit: str) -> None:
    scale = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]
    text = f"{number:.3f}{unit}"
    assert parse_duration(text).total_seconds() == pytest.approx(
        float(f"{number:.3f}") * scale, abs=1e-5
    )


def test_sizes_count_as_postgresql_does(written: Path) -> None:
    text = written.read_text()
    assert load(written).database("left").wal_disk is None
    for size, count in (("200GB", 200 * 2**30), ("1.5 TB", 3 * 2**39), ("64kB", 2**16)):
        written.write_text(
            text.replace('dsn = "env:LEFT"', f'dsn = "env:LEFT"\nwal_disk = "{size}"')
        )
        assert load(written).database("left").wal_disk == count
    written.write_text(text)
    found = problems(written, 'dsn = "env:LEFT"', 'dsn = "env:LEFT"\nwal_disk = "200 gigs"')
    assert "a size is a number with kB, MB, GB or TB" in found["databases.left.wal_disk"]


def test_a_token_that_no_header_can_carry_is_refused_and_not_repeated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TOKEN", "hunter2\n")
    assert SecretRef("env:TOKEN").token() == "hunter2"
    monkeypatch.setenv("TOKEN", "hunter2\nmore")
    with pytest.raises(SecretMissing, match="no token") as caught:
        SecretRef("env:TOKEN").token()
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("name", ["Order", 'a "b" c', "100%", "ä" * 31])
def test_tables_and_columns_may_have_any_name(name: str) -> None:
    assert TypeAdapter(Name).validate_python(name) == name


@pytest.mark.parametrize("name", ["", "ä" * 32, "a\0"])
def test_what_the_server_would_cut_or_refuse_is_no_name(name: str) -> None:
    with pytest.raises(ValidationError, match="63 bytes"):
        TypeAdapter(Name).validate_python(name)


CONVERSION = """
[[gates]]
name = "g"
kind = "conversion"
query = "thing.sql"
side = "old"
after = "30m"
drop = 0.1
"""


def test_a_gate_that_is_asked_of_the_data_is_read_with_its_query(written: Path) -> None:
    written.write_text(written.read_text() + CONVERSION)
    (gate,) = load(written).gates
    assert gate.sql.startswith("SELECT id")
    assert gate.from_data
    assert gate.behind == timedelta(minutes=31)
    assert (gate.alpha, gate.beta, gate.baseline) == (0.05, 0.2, timedelta(days=7))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("drop = 0.1", "drop = 1.0", "less than 1.0"),
        ("drop = 0.1", "drop = 0", "more than 0.0"),
        ("drop = 0.1", "drop = 0.1\nalpha = 0.5", "less than 0.5"),
        ("drop = 0.1", "drop = 0.1\nbeta = 0", "more than 0.0"),
        ("drop = 0.1", 'drop = 0.1\nbaseline = "0s"', "some time is needed"),
        ("drop = 0.1", "max = 0.1", "exactly one limit: drop"),
        ('side = "old"\n', "", "needs side"),
        ('after = "30m"\n', "", "needs after"),
        ('side = "old"', 'side = "left"', "'old' or 'new'"),
        ("drop = 0.1", 'drop = 0.1\nwithin = "1h"', "knows no within"),
        ('query = "thing.sql"', 'query = "none.sql"', "cannot be read"),
        ('kind = "conversion"', 'kind = "error_rate"', "exactly one limit: max"),
        (
            'kind = "conversion"\nquery = "thing.sql"\nside = "old"\nafter = "30m"\ndrop = 0.1',
            'kind = "error_rate"\nmax = 0.01\nside = "old"',
            "knows no side",
        ),
        (
            'kind = "conversion"\nquery = "thing.sql"\nside = "old"\nafter = "30m"\ndrop = 0.1',
            'kind = "duration"\nquery = "thing.sql"\nside = "old"\nshare = 0.9',
            "needs within",
        ),
    ],
)
def test_a_gate_that_could_never_tell_is_refused(
    written: Path, old: str, new: str, told: str
) -> None:
    written.write_text(written.read_text() + CONVERSION)
    assert told in " ".join(problems(written, old, new).values())


ROUTED = """
driver = "http-route"
route = "shop"
owners_refuse = true
services_pass_on = true
"""
BACKENDS = 'percentage = "THINGS_PERCENTAGE"\nbackends = { old = "monolith", new = "things" }\n'


def routed(text: str = ROUTED, backends: str = BACKENDS) -> str:
    found = MINIMAL.replace('urls = ["http://127.0.0.1:1"]\ntoken = "env:TOKEN"\n', text)
    return found.replace('percentage = "THINGS_PERCENTAGE"\n', backends)


def test_a_route_says_which_services_are_a_domains_two_sides(written: Path) -> None:
    written.write_text(routed())
    config = load(written)
    backends = config.domains["things"].backends
    assert backends is not None
    assert (config.gateway.route, backends.old, backends.new) == ("shop", "monolith", "things")
    assert config.gateway.by_chance


@pytest.mark.parametrize("lacking", ["owners_refuse", "services_pass_on", "route"])
def test_a_route_is_refused_where_a_customer_would_see_a_refusal(
    written: Path, lacking: str
) -> None:
    left = [line for line in ROUTED.splitlines() if not line.startswith(lacking)]
    written.write_text(routed("\n".join(left) + "\n"))
    with pytest.raises(ConfigInvalid, match=f"driver http-route needs {lacking}"):
        load(written)


@pytest.mark.parametrize(
    ("backends", "told"),
    [
        ("", "domains.things.backends: nobody says which Services"),
        ('backends = { old = "a", new = "a" }\n', "Service a is another side's"),
        ('backends = { old = "a" }\n', "domains.things.backends.new"),
    ],
)
def test_a_domain_of_a_route_needs_two_services(written: Path, backends: str, told: str) -> None:
    written.write_text(routed(backends=f'percentage = "THINGS_PERCENTAGE"\n{backends}'))
    with pytest.raises(ConfigInvalid) as refused:
        load(written)
    assert told in str(refused.value)
