"""Flows: what a test customer does, step by step, as a file tells it. Pure but for reading files.

`Walk` is one customer's way through a flow: it makes each request and judges each answer; sending
is somebody else's. docs/traffic.md describes the files.
"""

import json
import random
import tomllib
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from pydantic import Field, ValidationError

from estate.config import Config, ConfigInvalid, Problem
from estate.config.mistakes import of_validation
from estate.config.model import Model
from estate.config.values import Duration
from estate.errors import ExitCode, SplitctlError
from rollout import templates

# What every step may name: the test customer, a guest's token, a new uuid each time it is written,
# and the customer's number within the run.
GENERATED = ("customer", "guest", "uuid", "n")
WHO = {"customer", "guest"}
EXCERPT = 200


class FlowInvalid(ConfigInvalid):
    """The flow {path} has {count} mistake(s). Nothing was sent."""

    hint = "correct the keys above, then: splitctl smoke --dry-run"


class NoFlow(SplitctlError):
    """{what}: no flow file of [flows] in {path} is about that. Nothing was sent."""

    hint = "name flow files under [flows], as the example of `splitctl init` does"
    exit_code = ExitCode.USAGE


class Step(Model):
    """One request and what its answer has to be.

    `capture` gives names to values of the answer, `assert` compares some, both by dotted path. A
    step that `prepares` goes through a gateway whichever side is asked: it is not what is tried.
    `think` is the mean pause before it, in a load.
    """

    name: str = Field(min_length=1, max_length=40)
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str = Field(pattern="^/")
    headers: dict[str, str] = Field(default_factory=dict)
    body: dict[str, Any] | list[Any] | None = None
    status: list[int] = Field(default=[200], min_length=1)
    capture: dict[str, str] = Field(default_factory=dict)
    equal: dict[str, Any] = Field(default_factory=dict, alias="assert")
    prepares: bool = False
    think: Duration | None = None


class Flow(Model):
    """What one customer does in one domain. `weight` is its share of a load; 0: only by name."""

    name: str = Field(min_length=1, max_length=40)
    domain: str
    headers: dict[str, str] = Field(min_length=1)
    think: Duration = timedelta(seconds=2)
    weight: int = Field(default=1, ge=0)
    steps: list[Step] = Field(min_length=1)

    def think_s(self, step: Step) -> float:
        """The mean pause before a step, in seconds."""
        return (self.think if step.think is None else step.think).total_seconds()


KEYS = frozenset([*Flow.model_fields, *Step.model_fields, "assert"])


def read(path: Path, domains: Collection[str]) -> Flow:
    """A flow from its file. Raises FlowInvalid with every mistake there is."""
    try:
        text = path.read_text(encoding="utf-8")
        data = tomllib.loads(text)
    except OSError as error:
        reason = f"cannot be read ({error.strerror})"
        raise FlowInvalid(path, [Problem("file", reason, "Correct [flows] files.")]) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problem = Problem("file", f"not valid TOML: {error}", "Mend the line it names.")
        raise FlowInvalid(path, [problem]) from None
    try:
        flow = Flow.model_validate(data)
    except ValidationError as error:
        raise FlowInvalid(path, of_validation(error, KEYS), text) from None
    problems = list(_of_names(flow))
    if flow.domain not in domains:
        known = f"There are: {', '.join(domains)}."
        problems.append(Problem("domain", f"no domain '{flow.domain}'", known))
    if problems:
        raise FlowInvalid(path, problems, text)
    return flow


def read_all(config: Config) -> list[Flow]:
    """Every flow of the configuration, in its order. Raises FlowInvalid; NoFlow without any."""
    flows = [read(path, config.domains) for path in config.flows.files]
    if not flows:
        raise NoFlow(what="A flow", path=config.path)
    seen: set[str] = set()
    for flow, path in zip(flows, config.flows.files, strict=True):
        if flow.name in seen:
            problem = Problem("name", f"another file has a flow '{flow.name}'", "Rename one.")
            raise FlowInvalid(path, [problem], path.read_text(encoding="utf-8"))
        seen.add(flow.name)
    return flows


def _of_names(flow: Flow) -> Iterator[Problem]:
    """Placeholders that nothing has given by then, and names that nobody could write."""
    known = set(GENERATED)
    named: set[str] = set()
    parts: list[tuple[str, Any]] = [("headers", flow.headers)]
    for number, step in enumerate(flow.steps):
        at = f"steps.{number}"
        parts += [
            (f"{at}.path", step.path),
            (f"{at}.headers", step.headers),
            (f"{at}.body", step.body),
            (f"{at}.assert", step.equal),
        ]
        for key, template in parts:
            try:
                used = set(templates.names_within(template))
            except templates.TemplateInvalid as error:
                yield Problem(key, str(error), "Correct it.")
                continue
            named |= used
            for name in sorted(used - known):
                there = f"There are by then: {', '.join(sorted(known))}."
                yield Problem(key, f"nothing has given a value to {{{name}}}", there)
        parts = []
        for name in step.capture:
            if not templates.NAME.fullmatch(name) or name in GENERATED:
                remedy = f"Use letters, digits and underscores, but none of {', '.join(GENERATED)}."
                yield Problem(f"{at}.capture", f"'{name}' cannot be captured", remedy)
        known |= set(step.capture)
    if not named & WHO:
        reason = "neither {customer} nor {guest} stands anywhere: its data could not be found again"
        yield Problem("headers", reason, "Say who asks.")


@dataclass(frozen=True)
class Request:
    """One request, filled. `path` is quoted."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any = None


@dataclass
class Walk:
    """One customer's way through a flow, with what its answers have given so far."""

    flow: Flow
    values: dict[str, Any] = field(default_factory=dict)
    chance: random.Random = field(default_factory=random.Random)

    def request(self, step: Step) -> Request:
        """What to send for a step. The steps before it must have been answered as expected."""
        headers = {**self.flow.headers, **step.headers}
        return Request(
            step.method,
            templates.fill(step.path, self._value, lambda text: quote(text, safe="")),
            {name: templates.fill(text, self._value) for name, text in headers.items()},
            templates.fill_within(step.body, self._value),
        )

    def judge(self, step: Step, status: int, content: bytes) -> str | None:
        """Take what the answer gives. Returns why it is not the one expected, else None."""
        if status not in step.status:
            expected = " or ".join(str(number) for number in step.status)
            return f"status {status} instead of {expected}"
        if not step.capture and not step.equal:
            return None
        try:
            document = json.loads(content)
            for name, path in step.capture.items():
                self.values[name] = templates.look_up(document, path)
            found = {path: templates.look_up(document, path) for path in step.equal}
        except ValueError:
            return "the answer is no JSON"
        except LookupError as error:
            return f"the answer has no {error.args[0]}"
        for path, template in step.equal.items():
            wanted = templates.fill_within(template, self._value)
            if found[path] != wanted:
                return f"{path} is {templates.as_text(found[path])} instead of {wanted}"
        return None

    def _value(self, name: str) -> Any:
        if name == "uuid":
            return str(uuid.UUID(int=self.chance.getrandbits(128), version=4))
        return self.values[name]


def excerpt(content: bytes) -> str:
    """The beginning of an answer, in one line."""
    return " ".join(content.decode("utf-8", "replace").split())[:EXCERPT]


def chosen(flows: Sequence[Flow], names: Sequence[str], config: Config) -> list[Flow]:
    """The flows of these names. Raises NoFlow."""
    known = {flow.name: flow for flow in flows}
    for name in names:
        if name not in known:
            what = f"'{name}' (there are: {', '.join(known)})"
            raise NoFlow(what=what, path=config.path)
    return [known[name] for name in names]
