"""The report of a run as one HTML page that can be mailed."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from difflib import SequenceMatcher
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from markupsafe import Markup, escape
from psycopg import sql

from verify.verdict import MappingVerdict, Sample, Verdict

SHOWN_ROWS = 200
LONGEST_TEXT = 2000
AROUND = 60
# Comparing letter by letter costs the square of the length.
LONGEST_MARKED = 400


def render(verdict: Verdict, environment: str, earlier: Sequence[Mapping[str, Any]]) -> str:
    """The whole page as one self-contained HTML text: no script, no outside address.

    `earlier` are verdicts of the same domains as the ledger keeps them, newest first.
    """
    template = Environment(
        loader=PackageLoader("verify", "."), autoescape=select_autoescape(["j2"])
    ).get_template("page.html.j2")
    return template.render(
        verdict=verdict,
        totals=verdict.totals(),
        environment=environment,
        seconds=(verdict.finished_at - verdict.started_at).total_seconds(),
        mappings=[_Shown(mapping) for mapping in verdict.mappings],
        earlier=earlier,
        made_at=datetime.now(UTC),
    )


class _Shown:
    """One mapping as the page shows it."""

    def __init__(self, mapping: MappingVerdict) -> None:
        self.told = mapping
        self.name = mapping.mapping
        self.verdict = mapping.verdict
        # Compared are the rows of the side that holds more; what was not told did not match.
        others = mapping.mismatched + max(mapping.missing, mapping.extra) + mapping.inconclusive
        self.matched = max(mapping.rows_compared - others, 0)
        self.rate = mapping.rows_compared / mapping.seconds if mapping.seconds else 0.0
        self.more = max(len(mapping.found) - SHOWN_ROWS, 0)
        self.rows = [_row(mapping, sample) for sample in mapping.found[:SHOWN_ROWS]]
        self.columns = sorted(mapping.columns.items(), key=lambda item: -item[1])
        self.cells = _cells(mapping.spread)


def _cells(spread: Sequence[int]) -> list[tuple[int, float]]:
    """Each part's count, and how dark it is, 0 to 1."""
    most = max(spread, default=0)
    return [(count, 0.15 + 0.85 * count / most if count else 0.0) for count in spread]


def _row(mapping: MappingVerdict, sample: Sample) -> dict[str, Any]:
    old, new = (_text(value) for value in (sample.old, sample.new))
    if sample.column is not None and old is not None and new is not None:
        shown = marked(old, new)
    else:
        shown = (_plain(old, sample.column), _plain(new, sample.column))
    return {
        "what": sample.what,
        "key": ", ".join(f"{name} = {value}" for name, value in sample.key.items()),
        "column": sample.column,
        "old": shown[0],
        "new": shown[1],
        "lasted": (sample.confirmed_at - sample.first_seen).total_seconds(),
        "confirmed_at": sample.confirmed_at,
        "statements": [
            (side, f"{text} {_condition({name: sample.key[name] for name in mapping.driving})};")
            for side, text in sorted(mapping.statements.items(), reverse=True)
        ],
    }


def _text(value: Any) -> str | None:
    if isinstance(value, dict):
        return "\n".join(f"{k}: {'NULL' if v is None else v}" for k, v in value.items())
    return None if value is None else str(value)


def _plain(text: str | None, column: str | None) -> Markup:
    if text is None:
        return Markup("<i>NULL</i>") if column is not None else Markup("<i>no row</i>")
    return Markup("<i>empty</i>") if not text else escape(_short(text))


def _short(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else f"{text[:LONGEST_TEXT]} … ({len(text):,} letters)"


def marked(old: str, new: str) -> tuple[Markup, Markup]:
    """Both texts with the parts that differ marked; what looks the same is made to be seen."""
    parts: tuple[list[Markup], list[Markup]] = ([], [])
    for tag, first, last, start, end in _opcodes(old, new):
        for side, text in zip(parts, (old[first:last], new[start:end]), strict=True):
            if tag == "equal":
                side.append(escape(_between(text)))
            elif text:
                side.append(Markup("<mark>{}</mark>").format(_seen(_short(text))))
    empty = Markup("<i>empty</i>")
    before, after = (Markup("").join(side) or empty for side in parts)
    return before, after


def _between(text: str) -> str:
    """What is equal, shortened to its ends where it is long."""
    if len(text) <= 3 * AROUND:
        return text
    return f"{text[:AROUND]} … {text[-AROUND:]}"


def _opcodes(old: str, new: str) -> list[tuple[str, int, int, int, int]]:
    if max(len(old), len(new)) > LONGEST_MARKED:
        head = _common(old, new)
        tail = _common(old[head:][::-1], new[head:][::-1])
        middle = ("replace", head, len(old) - tail, head, len(new) - tail)
        return [
            ("equal", 0, head, 0, head),
            middle,
            ("equal", middle[2], len(old), middle[4], len(new)),
        ]
    return list(SequenceMatcher(None, old, new, autojunk=False).get_opcodes())


def _common(one: str, other: str) -> int:
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


def _seen(text: str) -> str:
    """Spaces and control characters, where they are what differs, as visible signs."""
    return "".join(
        "␣" if letter == " " else letter if letter.isprintable() else f"\\u{ord(letter):04x}"
        for letter in text
    )


def _condition(key: Mapping[str, str | None]) -> str:
    parts = [
        sql.SQL("{} IS NULL").format(sql.Identifier("q", name))
        if value is None
        else sql.SQL("{} = {}").format(sql.Identifier("q", name), sql.Literal(value))
        for name, value in key.items()
    ]
    return sql.SQL(" AND ").join(parts).as_string()
