"""Each command of a page is typed by a test, in the page's order, and ends as the page says."""

import ast
from pathlib import Path

import pytest

from tests.pages.commands import ROOT, commands, pages, unread
from tests.pages.mentions import in_markdown
from tests.pages.shapes import Shapes, named, typed_by

# Which test types a page's commands: file::function.
TYPED_BY = {
    "README.md": "splitctl/test_rollout_page.py::test_the_first_page_is_true_at_night",
    "docs/deploy.md": "cluster/test_deploy.py::test_the_page_is_true",
    "docs/finish.md": "rollout/test_finish.py::test_the_page_is_true",
    "docs/observe.md": "observe/test_page.py::test_every_command_of_the_page_ends_as_it_says",
    "docs/rollout.md": "splitctl/test_rollout_page.py::test_the_page_is_true",
    "docs/traffic.md": "services/test_smoke.py::test_every_command_of_the_page_does_what_it_says",
    "docs/verify.md": "verify/test_verify_commands.py::test_the_page_is_true",
}


@pytest.mark.parametrize("page", pages())
def test_commands_stand_where_a_test_reads_them(page: str) -> None:
    """In a fenced block, as `console` or `sh`."""
    assert not unread(page), "\n".join(f"{line} is run by no test" for line in unread(page))


@pytest.mark.parametrize("page", pages())
def test_a_test_types_them(page: str) -> None:
    shown = commands(page)
    if page not in TYPED_BY:
        assert not shown, "\n".join(f"{command} is run by no test" for command in shown)
        return
    assert shown, f"{page} shows no command any more"
    file, _, name = TYPED_BY[page].partition("::")
    source = (ROOT / "tests" / file).read_text(encoding="utf-8")
    found = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == name]
    assert found, f"{TYPED_BY[page]} is not there: nobody types what {page} shows"
    # With its decorators: a page's commands may be its parameters.
    parts = [found[0], *found[0].decorator_list]
    text = "\n".join(ast.unparse(part) for part in parts)
    assert f"commands('{page}')" in text, f"{TYPED_BY[page]} does not type what {page} shows"


@pytest.fixture(scope="module")
def typed() -> Shapes:
    """Every command, with each of its options, that a test or the rehearsal types."""
    files = [*(ROOT / "tests").rglob("*.py"), *(ROOT / "rehearsal").rglob("*.py")]
    found = Shapes()
    for path in files:
        if path.parent != Path(__file__).parent:
            found.add(typed_by(path.read_text(encoding="utf-8")))
    for page in TYPED_BY:
        for command in commands(page):
            found.add([named(command.text)])
    return found


@pytest.mark.parametrize("page", pages())
def test_what_sentences_and_tables_name_is_typed_by_some_test(page: str, typed: Shapes) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    lacking = [
        f"{page}:{mention.line}: `splitctl {mention.text}` is run by no test"
        for mention in in_markdown(text)
        if not typed.has(named(mention.text))
    ]
    assert not lacking, "\n".join(lacking)


def test_what_no_test_types_is_noticed() -> None:
    found = Shapes()
    found.add(typed_by('run("rollout", "advance", name, "--dry-run", expect=(0,))'))
    found.add(typed_by('x = [["deploy", "undo"], ["nonsense", "here"]]'))
    assert found.has(named("rollout advance DOMAIN"))
    assert found.has(named("rollout advance --dry-run"))
    assert found.has(named("deploy"))
    assert not found.has(named("deploy undo --confirm OVERLAY"))
    assert not found.has(named("rollout watch"))
    assert not found.has(named("rollout advance|watch"))
