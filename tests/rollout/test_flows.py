"""Flow files: the language of their texts, the mistakes they can hold, and a walk through one."""

import json
import random
import re
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estate.config import load
from rollout import flows, templates
from rollout.flows import FlowInvalid, Walk
from tests.conftest import ConfigWriter

ROOT = Path(__file__).parents[2]
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True)
TEXTS = st.text(max_size=20)
HEAD = """
name = "f"
domain = "d"
headers = { X-Who = "{customer}" }
"""
STEP = """
[[steps]]
name = "make"
method = "POST"
path = "/things"
status = [201]
capture = { thing = "id", line = "lines.0.number" }
[[steps]]
name = "look"
method = "GET"
path = "/things/{thing}/lines/{line}"
"""


def doubled(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


@given(parts=st.lists(st.tuples(TEXTS, NAMES)), last=TEXTS, value=TEXTS)
def test_what_is_between_placeholders_comes_out_as_it_was_meant(
    parts: list[tuple[str, str]], last: str, value: str
) -> None:
    template = "".join(f"{doubled(text)}{{{name}}}" for text, name in parts) + doubled(last)
    wanted = "".join(text + value for text, _ in parts) + last
    assert templates.names(template) == [name for _, name in parts]
    # A value is taken as it is, also where it looks like a placeholder.
    assert templates.fill(template, lambda _: value) == wanted


@given(text=TEXTS)
def test_a_text_is_either_refused_or_filled_to_the_end(text: str) -> None:
    try:
        known = templates.names(text)
    except templates.TemplateInvalid:
        assert re.search("[{}]", text)
    else:
        assert templates.fill(text, dict.fromkeys(known, "").__getitem__).count("{") <= text.count(
            "{{"
        )


@pytest.mark.parametrize("text", ["{", "}", "{ cart }", "{Cart}", "{a.b}", "{a!r}", "{0}", "{{}"])
def test_there_is_nothing_in_the_language_but_names(text: str) -> None:
    with pytest.raises(templates.TemplateInvalid, match="belongs to no"):
        templates.names(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="abc", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(value=JSON)
def test_a_placeholder_alone_becomes_the_value_itself(value: Any) -> None:
    assert templates.fill_within({"a": ["{x}", "x"]}, lambda _: value) == {"a": [value, "x"]}
    assert json.loads(templates.fill_within("[{x}]", lambda _: json.dumps(value))) == [value]


@given(keys=st.lists(NAMES | st.integers(0, 3), min_size=1, max_size=5), value=JSON)
def test_a_path_leads_to_what_stands_there(keys: list[str | int], value: Any) -> None:
    document = value
    for key in reversed(keys):
        document = {key: document} if isinstance(key, str) else [None] * key + [document]
    assert templates.look_up(document, ".".join(map(str, keys))) == value
    with pytest.raises(LookupError):
        templates.look_up(document, "Missing.0")


def write(directory: Path, text: str) -> Path:
    path = directory / "flow.toml"
    path.write_text(text, encoding="utf-8")
    return path


MISTAKES = {
    "unknown placeholder": (
        HEAD + STEP.replace("{line}", "{lin}"),
        ["line 15, steps.1.path", "nothing has given a value to {lin}", "line, n, thing, uuid"],
    ),
    "captured too late": (
        HEAD + STEP.replace('"/things"', '"/things/{thing}"'),
        ["steps.0.path", "{thing}"],
    ),
    "stray brace": (
        HEAD + STEP.replace("/{line}", "/{line"),
        ["steps.1.path", "a brace at letter 23 belongs to no {name}"],
    ),
    "unknown key": (HEAD + STEP + 'stats = ["x"]', ["steps.1.stats", "Did you mean status?"]),
    "unknown method": (HEAD + STEP.replace("POST", "SEND"), ["steps.0.method", "GET"]),
    "missing": (HEAD + "[[steps]]\nname = 'x'\nmethod = 'GET'", ["steps.0.path: is missing"]),
    "no steps": (HEAD, ["steps: is missing"]),
    "no such domain": (
        (HEAD + STEP).replace('domain = "d"', 'domain = "e"'),
        ["line 3, domain: no domain 'e'", "There are: d."],
    ),
    "who": (
        (HEAD + STEP).replace("{customer}", "me"),
        ["headers", "neither {customer} nor {guest}"],
    ),
    "a generated name": (
        HEAD + STEP.replace("thing =", "uuid =").replace("{thing}", "{uuid}"),
        ["steps.0.capture", "'uuid' cannot be captured"],
    ),
    "no TOML": ("name = ", ["not valid TOML"]),
}


@pytest.mark.parametrize(("text", "told"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_told_with_file_key_and_reason(
    text: str, told: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path, text)
    with pytest.raises(FlowInvalid) as error:
        flows.read(path, ["d"])
    for part in [str(path), *told]:
        assert part in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FlowInvalid, match=r"nowhere\.toml.*\n.*cannot be read"):
        flows.read(tmp_path / "nowhere.toml", ["d"])


def walk(tmp_path: Path, text: str = HEAD + STEP) -> Walk:
    flow = flows.read(write(tmp_path, text), ["d"])
    return Walk(flow, {"customer": "c-1", "guest": "g-1", "n": 4}, random.Random(1))


def answer(value: Any) -> bytes:
    return json.dumps(value).encode()


def test_what_an_answer_gave_stands_in_the_next_request(tmp_path: Path) -> None:
    going = walk(tmp_path)
    make, look = going.flow.steps
    assert going.request(make).headers == {"X-Who": "c-1"}
    good = {"id": "a/b c", "lines": [{"number": 7}]}
    assert going.judge(make, 201, answer(good)) is None
    assert going.request(look).path == "/things/a%2Fb%20c/lines/7"


@pytest.mark.parametrize(
    ("status", "content", "why"),
    [
        (200, b"{}", "status 200 instead of 201"),
        (201, b"<html>", "the answer is no JSON"),
        (201, b'{"id": 1, "lines": []}', "the answer has no lines.0.number"),
        (201, b"[]", "the answer has no id"),
    ],
)
def test_an_answer_that_is_not_as_expected_says_why(
    status: int, content: bytes, why: str, tmp_path: Path
) -> None:
    going = walk(tmp_path)
    assert going.judge(going.flow.steps[0], status, content) == why


def test_an_assertion_may_name_what_was_captured_and_keeps_kinds_apart(tmp_path: Path) -> None:
    going = walk(tmp_path, HEAD + STEP + 'assert = { id = "{thing}", "lines.0.number" = 7 }')
    make, look = going.flow.steps
    assert going.judge(make, 201, answer({"id": "t", "lines": [{"number": 7}]})) is None
    assert going.judge(look, 200, answer({"id": "t", "lines": [{"number": 7}]})) is None
    wrong = going.judge(look, 200, answer({"id": "u", "lines": [{"number": 7}]}))
    assert wrong == "id is u instead of t"
    assert going.judge(look, 200, answer({"id": "t", "lines": [{"number": "7"}]})) is not None


def test_a_new_uuid_each_time_it_is_written(tmp_path: Path) -> None:
    more = '"{customer}", X-Once = "{uuid}", X-Twice = "{uuid}-{n}"'
    going = walk(tmp_path, HEAD.replace('"{customer}"', more) + STEP)
    headers = going.request(going.flow.steps[0]).headers
    once, twice = headers["X-Once"], headers["X-Twice"]
    assert uuid.UUID(once) != uuid.UUID(twice.removesuffix("-4"))


def test_the_shipped_flows_are_as_the_example_names_them() -> None:
    config = load(ROOT / "config.example.toml")
    found = flows.read_all(config)
    assert {flow.domain for flow in found} == set(config.domains) == set(config.flows.urls)
    assert [flow.name for flow in found if flow.weight] == ["cart"]


DOMAIN = """
[domains.d]
old = "a"
new = "b"
flag = "F"
percentage = "P"
phases = [{ percentage = 100, soak = "1s" }]
[[domains.d.forward]]
target = "t"
query = "mappings/q.sql"
key = ["id"]
route = "t.id::text"
sources = { t = { id = "id" } }
[[domains.d.reverse]]
target = "t"
query = "mappings/q.sql"
key = ["id"]
route = "t.id::text"
sources = { t = { id = "id" } }
"""


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("[flows.urls.e]\nold = 'http://a'\nnew = 'http://b'", "flows.urls.e: no domain 'e'"),
        ("[flows]\ncustomer = 'ABCD'", "flows.customer: 4 to 13 lower-case letters"),
        ("[flows]\nrequest_timeout = '0s'", "flows.request_timeout: a request needs some time"),
        ("[flows.urls.d]\nold = 'http://a'", "flows.urls.d.new: is missing"),
    ],
)
def test_mistakes_in_the_section_are_told_with_all_others(
    section: str, told: str, write_config: ConfigWriter
) -> None:
    path = write_config(
        databases={"a": "host=a", "b": "host=b"},
        domains=DOMAIN,
        mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
        extra=section,
    )
    with pytest.raises(Exception, match=re.escape(told)):
        load(path)


def test_two_files_with_one_name_are_refused(write_config: ConfigWriter, tmp_path: Path) -> None:
    for name in ("one.toml", "two.toml"):
        (tmp_path / name).write_text(HEAD + STEP, encoding="utf-8")
    path = write_config(
        databases={"a": "host=a", "b": "host=b"},
        domains=DOMAIN,
        mappings={"q.sql": "SELECT id, id::text AS splitctl_route FROM t"},
        extra="[flows]\nfiles = ['one.toml', 'two.toml']",
    )
    with pytest.raises(FlowInvalid, match=r"two\.toml.*\n.*another file has a flow 'f'"):
        flows.read_all(load(path))
