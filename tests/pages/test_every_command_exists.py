"""Every command that is named anywhere is one, with options that it has.

Whoever is told at night to type something must not be told that there is no such command.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.pages import grammar
from tests.pages.mentions import Mention, in_comments, in_markdown, in_python, in_sentence

ROOT = Path(__file__).parents[2]
ROOMS = ("estate", "migrator", "verify", "rollout", "splitctl", "rehearsal", "services", "runbooks")
Reader = Callable[[str], Iterator[Mention]]


def pages() -> list[Path]:
    return [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "runbooks").glob("*.md"),
    ]


def shipped() -> list[Path]:
    """What `splitctl init` copies, and the manifests."""
    folders = ("deploy", "flows", "gates", "mappings", "invariants")
    found = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [ROOT / "config.example.toml", *found]


def code() -> list[Path]:
    return [path for room in ROOMS for path in (ROOT / room).rglob("*.py")]


@pytest.mark.parametrize(
    ("files", "read", "least"),
    [(pages, in_markdown, 120), (shipped, in_comments, 15), (code, in_python, 300)],
    ids=["pages", "shipped files", "what the program says"],
)
def test_every_command_that_is_named_exists(
    files: Callable[[], list[Path]], read: Reader, least: int
) -> None:
    found = [(path, mention) for path in files() for mention in read(path.read_text("utf-8"))]
    wrong = [
        f"{path.relative_to(ROOT)}:{mention.line}: {mention.fault}"
        for path, mention in found
        if mention.fault
    ]
    assert not wrong, "\n".join(wrong)
    assert len(found) >= least, "commands are named, and not recognised any more"


def test_hints_and_next_commands_are_whole() -> None:
    """They are copied: what a command needs must be there."""
    whole = [m for path in code() for m in in_python(path.read_text("utf-8")) if m.whole]
    assert len(whole) >= 100


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("rolback", "`splitctl` has no command `rolback`"),
        ("rollout advnce d", "`splitctl rollout` has no command `advnce`"),
        ("rollout pause|halt d", "`splitctl rollout` has no command `halt`"),
        ("rollout advance d --dryrun", "No such option: --dryrun"),
        ("rollout advance one two", "`splitctl rollout advance` takes no `two`"),
        ("verify run --domain", "requires an argument"),
        ("rollout start", "`splitctl rollout start` needs domain"),
        ("rollout answer d --gate g", "`splitctl rollout answer` needs word"),
        ("rollout", "`splitctl rollout` is no command"),
    ],
)
def test_what_is_wrong_is_told(words: str, told: str) -> None:
    assert told in grammar.fault(words.split(), whole=True)


@pytest.mark.parametrize(
    "words",
    ["status", "rollback", "--version", "rollout start d", "history -o json --since 2d --limit 5",
     "rollout answer d --gate 'x' --yes|--no", "rollout run a b --until 10"],
)  # fmt: skip
def test_what_is_right_is_not_told(words: str) -> None:
    assert grammar.fault(words.split(), whole=True) == ""


def test_commands_are_found_where_they_stand() -> None:
    """In spans that go over a line, without the program's name, in sentences, in literals."""
    page = "Type `splitctl\nstatus`, then `rollout run`; `a b` is none. ```\n`splitctl no`\n```"
    assert [mention.text for mention in in_markdown(page)] == ["status", "rollout run"]
    assert [m.text for m in in_comments("x = 1  # kept: splitctl sync strays.")] == ["sync strays"]
    sentence = "Mend it, then: splitctl doctor. Or look at `splitctl sync status` first."
    assert [m.text for m in in_sentence(sentence)] == ["sync status", "doctor"]
    source = "x = f\"splitctl rollout {'watch' if a else 'advance'} {domain}  (later)\""
    assert [(m.text, m.whole) for m in in_python(source)] == [
        ("rollout watch UNKNOWN", True),
        ("rollout advance UNKNOWN", True),
    ]
    assert [m.fault for m in in_python('"splitctl rollout {step}"')] == [""]
