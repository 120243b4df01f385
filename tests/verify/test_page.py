"""The page and the CSV of a run: complete, to be mailed, and showing what differs."""

import csv
import html.parser
import io
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.verify.conftest import Library, Passed
from verify import diff, page, tables
from verify.verdict import MappingVerdict, Sample, Verdict

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
TEXTS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=30)


class Reader(html.parser.HTMLParser):
    """Reads a page's text, and what it would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.text: list[str] = []
        self.outside: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A tag opens."""
        if tag not in ("meta", "br"):
            self.open.append(tag)
        self.outside += [value for name, value in attrs if name in ("src", "href") and value]

    def handle_endtag(self, tag: str) -> None:
        """A tag closes: the one that was opened last."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Text between tags."""
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def verdict_of(*mappings: MappingVerdict) -> Verdict:
    word: Any = "different" if any(m.different for m in mappings) else "equal"
    end = NOW + timedelta(seconds=3)
    barriers: dict[str, dict[str, str | None]] = {"a.forward": {"b0": "0/1", "b1": None}}
    return Verdict(word, NOW, end, barriers, list(mappings))


def sample(old: Any, new: Any, column: str | None = "title") -> Sample:
    what: Any = "mismatched" if column else "missing"
    return Sample({"id": "7"}, what, column, old, new, NOW, NOW + timedelta(seconds=2))


def test_a_real_run_as_a_page(library: Library) -> None:
    library.new.execute("UPDATE loans SET title = 'Title <7>' WHERE nr = 7")
    library.new.execute("UPDATE loans SET title = 'Title  8 ' WHERE nr = 8")
    library.new.execute("DELETE FROM shelves WHERE id = (SELECT min(id::text)::uuid FROM shelves)")
    verdict = diff.run(library.config, barriers=Passed())
    text = page.render(verdict, "a & b", [{**verdict.to_json(), "domain": "lending"}])
    reader = read(text)
    told = " ".join(reader.text)
    assert all(link.startswith("#lending.") for link in reader.outside)
    assert "a & b" in told
    assert "lending.forward.loans: 400 rows, 2 mismatched" in told
    assert "Title <mark>&lt;</mark>7<mark>&gt;</mark>" in text
    assert "Title <mark>␣</mark>8<mark>␣</mark>" in text
    assert "no row" in told
    # What a person can type, on either side.
    library.old.execute("SET search_path = public")
    (found,) = (s for s in verdict.mappings[0].found if s.key["nr"] == "7")
    for side, statement in page._row(verdict.mappings[0], found)["statements"]:
        connection = {"old": library.old, "new": library.new}[side]
        rows = connection.execute(statement.encode()).fetchall()
        assert len(rows) == 1
        assert 7 in rows[0]


def test_where_differences_lie_is_shown_in_the_order_of_the_key(library: Library) -> None:
    library.new.execute("UPDATE loan_lines SET price = 9 WHERE id > 540")
    library.new.execute("UPDATE shelves SET name = 'x' WHERE id = (SELECT max(id::text)::uuid"
                        " FROM shelves)")  # fmt: skip
    verdict = diff.run(library.config, barriers=Passed())
    cells = {m.mapping: m.spread for m in verdict.mappings}
    assert sum(cells["lending.forward.shelves"]) == 1
    assert cells["lending.forward.shelves"][-1] == 1
    assert cells["lending.forward.loans"] == []


@given(TEXTS, TEXTS)
def test_marking_loses_no_letter(old: str, new: str) -> None:
    for side, whole in zip(page.marked(old, new), (old, new), strict=True):
        text = "".join(read(f"<p>{side}</p>").text)
        letters = [letter for letter in whole if letter.isprintable() and letter != " "]
        shown = [letter for letter in text if letter.isprintable() and letter not in " ␣"]
        if whole:
            assert len(shown) >= len(letters)
        else:
            assert text == "empty"
        assert ("<mark>" in side) <= (old != new)


def test_long_texts_are_marked_by_their_ends() -> None:
    old, new = page.marked("a" * 5000 + "x" + "b" * 5000, "a" * 5000 + "yy" + "b" * 5000)
    assert "<mark>x</mark>" in old
    assert "<mark>yy</mark>" in new


def test_a_hundred_thousand_differences_are_a_page_all_the_same(tmp_path: Path) -> None:
    found = [sample(f"old {n}", f"new {n}") for n in range(100_000)]
    mapping = MappingVerdict("a.forward.b", 100_000, 100_000, found=found, spread=[1, 0, 99_999])
    text = page.render(verdict_of(mapping), "many", [])
    assert len(text) < 1_000_000
    assert "and 99,800 more" in text
    assert tables.write_csv(verdict_of(mapping), tmp_path / "all.csv") == 100_000


@given(st.lists(st.tuples(st.none() | TEXTS, st.none() | TEXTS), max_size=5))
def test_csv_gives_back_what_differs(pairs: list[tuple[str | None, str | None]]) -> None:
    mapping = MappingVerdict("a.forward.b", found=[sample(old, new) for old, new in pairs])
    text = page_csv(verdict_of(mapping))
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(row["old"], row["new"]) for row in rows] == [(a or "", b or "") for a, b in pairs]
    assert {row["mapping"] for row in rows} <= {"a.forward.b"}


def page_csv(verdict: Verdict) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.csv"
        tables.write_csv(verdict, path)
        return path.read_bytes().decode()


def test_null_and_an_empty_text_are_told_apart_in_csv() -> None:
    mapping = MappingVerdict(
        "a.forward.b", found=[sample(None, ""), sample({"a": "x"}, None, None)]
    )
    first, second = page_csv(verdict_of(mapping)).splitlines()[1:]
    assert first.startswith('"a.forward.b","mismatched","{""id"": ""7""}","title",,"","2026')
    assert '"missing","{""id"": ""7""}",,"{""a"": ""x""}",,"2026' in second


def test_parquet_gives_back_what_differs(tmp_path: Path) -> None:
    given = [sample(None, ""), sample("Grüße", "x"), sample({"a": None}, None, None)]
    mapping = MappingVerdict("a.forward.b", found=given)
    assert tables.write_parquet(verdict_of(mapping), tmp_path / "found.parquet") == 3
    frame = pandas.read_parquet(tmp_path / "found.parquet")
    assert list(frame.columns) == list(tables.HEAD)
    assert [None if pandas.isna(value) else value for value in frame["old"]] == [
        None,
        "Grüße",
        '{"a": null}',
    ]
    assert [None if pandas.isna(value) else value for value in frame["new"]] == ["", "x", None]
    assert frame["confirmed_at"].tolist() == [item.confirmed_at for item in given]


def test_parquet_of_nothing_has_the_same_columns(tmp_path: Path) -> None:
    path = tmp_path / "none.parquet"
    assert tables.write_parquet(verdict_of(MappingVerdict("a.forward.b")), path) == 0
    frame = pandas.read_parquet(path)
    assert list(frame.columns) == list(tables.HEAD)
    assert frame["confirmed_at"].dt.tz is not None


@pytest.mark.parametrize("word", ["equal", "inconclusive"])
def test_a_page_without_differences(word: Any) -> None:
    verdict = verdict_of(MappingVerdict("a.forward.b", 1000, seconds=0.5))
    verdict.verdict = word
    verdict.reasons = ["a.forward: <not> passed"] if word == "inconclusive" else []
    told = " ".join(read(page.render(verdict, "quiet", [])).text)
    assert "1,000" in told
    assert ("not passed" in told) or word == "equal"
    assert ("a.forward: <not> passed" in told) == (word == "inconclusive")
