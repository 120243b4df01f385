"""Where commands are named: in pages, in comments of shipped files, in what the program says."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from tests.pages import grammar

FENCED = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`")
NAMED = re.compile(r"(?<![\w/.'-])splitctl +([^`\"\n;]*)")
# Where a sentence goes on, or a remark follows: two spaces, a bracket, a full stop, a comma.
ENDS = re.compile(r"  | \(|[.:,)](?= |$)| \| | > | # ")
# What stands for something that only the moment knows; in place of a command anything goes.
UNKNOWN = "UNKNOWN"
# What follows the program's name in a sentence about it.
PROSE = frozenset(("commands", "here", "may"))
FIELD = re.compile(r"\{[^{}]*\}")
FIELD_OF_ANY = "{}"


@dataclass(frozen=True)
class Mention:
    """`text` is what follows `splitctl`; `whole`: it can be typed as it stands."""

    line: int
    text: str
    whole: bool = False

    @property
    def fault(self) -> str:
        """What is wrong with it; empty when nothing is."""
        try:
            words = shlex.split(self.text)
        except ValueError as error:
            return f"`splitctl {self.text}`: {error}"
        if (
            not words
            or UNKNOWN in words[:2]
            or not (words[0].islower() or words[0].startswith("-"))
        ):
            return ""  # `splitctl COMMAND`
        return grammar.fault(words, whole=self.whole)


def in_markdown(text: str) -> Iterator[Mention]:
    """Spans of code; also those that leave `splitctl` away, as in `sync run`."""
    # Blocks have tests of their own; lines keep their numbers.
    text = FENCED.sub(lambda block: "\n" * block[0].count("\n"), text)
    for span in SPAN.finditer(text):
        line = text.count("\n", 0, span.start()) + 1
        words = " ".join(span[1].replace("\\|", "|").split())
        if words.startswith("splitctl "):
            yield Mention(line, words.removeprefix("splitctl "))
        elif re.fullmatch(rf"({'|'.join(grammar.groups())}) [a-z][a-z-]*( .*)?", words):
            yield Mention(line, words)


def in_comments(text: str) -> Iterator[Mention]:
    """Of TOML, YAML and SQL: spans of code, and what is named without them."""
    for number, line in enumerate(text.splitlines(), 1):
        comment = line.partition("#")[2] or line.partition("--")[2]
        spans = [found[1] for found in SPAN.finditer(comment)]
        yield from (
            Mention(number, span.removeprefix("splitctl "))
            for span in spans
            if span.startswith("splitctl ")
        )
        yield from (Mention(number, named) for named in sentences(SPAN.sub("", comment)))


def in_python(source: str) -> Iterator[Mention]:
    """Literals: those that are a command as a whole, and those that name one in a sentence."""
    tree = ast.parse(source)
    inner = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in node.values
    }
    for node in ast.walk(tree):
        if id(node) in inner:
            continue
        for text in dict.fromkeys(_texts(node)):
            yield from in_sentence(text, node.lineno)  # type: ignore[attr-defined]


def in_sentence(text: str, line: int = 0) -> Iterator[Mention]:
    """What a text of the program names. One that begins with a command is that command."""
    # `doctor{options}`: what is glued to a word may as well be nothing.
    text = FIELD.sub("{}", text).replace(" {}", f" {UNKNOWN}").replace("'{}", f"'{UNKNOWN}")
    text = text.replace("{}", "")
    if text.startswith("splitctl "):
        yield Mention(line, next(iter(sentences(text)), ""), whole=True)
        return
    for span in SPAN.finditer(text):
        if re.match(r"splitctl [a-zU-]", span[1]):
            yield Mention(line, " ".join(span[1].removeprefix("splitctl ").split()))
    for named in sentences(SPAN.sub("", text)):
        yield Mention(line, named)


def sentences(text: str) -> Iterator[str]:
    """What follows `splitctl` in prose, as far as it is a command."""
    for found in NAMED.finditer(text):
        words = ENDS.split(found[1].strip(), maxsplit=1)[0].split()
        if words and words[0] not in PROSE and words[0][0] not in "<(":
            yield " ".join(words)


def _texts(node: ast.AST) -> list[str]:
    """The texts that a literal can have: with each choice that stands in it."""
    if isinstance(node, ast.Constant):
        return [node.value] if isinstance(node.value, str) else []
    if not isinstance(node, ast.JoinedStr):
        return []
    parts = []
    for value in node.values:
        if isinstance(value, ast.Constant):
            parts.append([str(value.value)])
        elif isinstance(value, ast.FormattedValue) and isinstance(value.value, ast.IfExp):
            parts.append([*_texts(value.value.body), *_texts(value.value.orelse)] or [FIELD_OF_ANY])
        else:
            parts.append([FIELD_OF_ANY])
    return ["".join(chosen) for chosen in product(*parts)]
