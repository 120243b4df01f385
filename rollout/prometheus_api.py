"""Prometheus, asked over HTTP: instant and range queries, believed only when they are whole.

The answers are those of the stable HTTP API, `/api/v1/query` and `/api/v1/query_range`
(prometheus.io/docs/prometheus/latest/querying/api).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import httpx

from estate.config import Config
from estate.errors import ExitCode, SplitctlError, in_one_line
from estate.secrets import SecretRef
from rollout import parallel

TIMEOUT_S = 2.0
HISTORY_TIMEOUT_S = 30.0
# Prometheus refuses more than 11,000 points of a series; fewer at a time keep an answer small.
POINTS = 250
# A query that cannot be read, and one that cannot be worked out.
REFUSALS = (httpx.codes.BAD_REQUEST, httpx.codes.UNPROCESSABLE_ENTITY)
# So much of what a page says against a query is shown.
LONGEST_REASON = 300


class PrometheusSilent(SplitctlError):
    """Prometheus at {url} does not tell: {reason}. Nothing was changed; without evidence nothing
    is decided."""

    hint = "the same command, once Prometheus answers"
    exit_code = ExitCode.INCONCLUSIVE


class QueryRefused(PrometheusSilent):
    """Prometheus at {url} refuses the query: {reason}. Nothing was changed."""

    hint = "mend the expression in config.toml, then the same command again"
    exit_code = ExitCode.CHECK_FAILED


class NoPrometheus(SplitctlError):
    """The configuration names no Prometheus. Nothing was changed."""

    hint = "add url and matcher to [metrics] in config.toml, then the same command again"
    exit_code = ExitCode.USAGE


@dataclass(frozen=True)
class Sample:
    """A series' value at a moment, in seconds since 1970."""

    labels: Mapping[str, str]
    at: float
    value: float


class Prometheus:
    """One Prometheus. Nothing is opened, and no token read, before the first question."""

    def __init__(self, url: str, token: SecretRef | None = None) -> None:
        self.url = url.rstrip("/")
        self._token = token

    @cached_property
    def _client(self) -> httpx.Client:
        return httpx.Client(trust_env=False)

    @classmethod
    def of(cls, config: Config) -> "Prometheus":
        """The one that the configuration names. Raises NoPrometheus."""
        if config.metrics.url is None:
            raise NoPrometheus
        return cls(config.metrics.url, config.metrics.token)

    def instant(self, query: str, at: float | None = None) -> list[Sample]:
        """Each series' value at a moment; None is now, by Prometheus' own clock.

        A sample's `at` is that moment, not when it was scraped. Raises PrometheusSilent,
        SecretMissing.
        """
        values = {"query": query, "timeout": f"{TIMEOUT_S:g}s"}
        if at is not None:
            values["time"] = f"{at:.3f}"
        found = self._ask("query", values, "vector", TIMEOUT_S)
        return list(self._samples(found, lambda series: [series["value"]]))

    def range(
        self, query: str, start: float, end: float, step: float
    ) -> Iterator[tuple[list[float], list[Sample]]]:
        """The values at start, start + step, ... up to `end`: some hundred moments at a time, and
        the samples there are. Raises PrometheusSilent, SecretMissing.
        """
        # A step that ends where the whole does belongs to it, whatever a float makes of it.
        number = math.floor((end - start) / step + 1e-6) + 1
        moments = [round(start + index * step, 3) for index in range(number)]
        for first in range(0, number, POINTS):
            some = moments[first : first + POINTS]
            values = {
                "query": query,
                "start": f"{some[0]:.3f}",
                "end": f"{some[-1]:.3f}",
                "step": f"{step:.3f}",
            }
            found = self._ask("query_range", values, "matrix", HISTORY_TIMEOUT_S)
            yield some, list(self._samples(found, lambda series: series["values"]))

    def _samples(self, found: list[Any], values: Any) -> Iterator[Sample]:
        try:
            for series in found:
                labels = {str(name): str(text) for name, text in series["metric"].items()}
                for at, value in values(series):
                    yield Sample(labels, float(at), float(value))
        except (TypeError, ValueError, KeyError, AttributeError) as error:
            raise self._silent("it answers in a form that is not known") from error

    def _ask(self, path: str, values: Mapping[str, str], kind: str, limit_s: float) -> list[Any]:
        token = self._token.token() if self._token else None

        def work() -> Any:
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            return self._client.post(
                f"{self.url}/api/v1/{path}", data=dict(values), headers=headers, timeout=limit_s
            )

        # A page that comes letter by letter must have an end, too.
        outcome = parallel.gather({path: work}, 2 * limit_s)[path]
        if outcome.value is None:
            raise self._silent(in_one_line(outcome.error)) from outcome.error
        return self._whole(outcome.value, kind)

    def _whole(self, answer: httpx.Response, kind: str) -> list[Any]:
        try:
            body = answer.json()
        except ValueError:
            body = None
        told = body if isinstance(body, dict) else {}
        if not answer.is_success or told.get("status") != "success":
            reason = in_one_line(told.get("error") or "")[:LONGEST_REASON]
            if answer.status_code in REFUSALS and told.get("error"):
                raise QueryRefused(url=self.url, reason=reason)
            what = f"it answers {answer.status_code}"
            raise self._silent(f"{what}: {reason}" if told.get("error") else what)
        if told.get("warnings"):
            # A warning says that something is missing, for instance a part of a federation.
            warned = "; ".join(str(item) for item in told["warnings"])
            raise self._silent(f"it warns: {in_one_line(warned)[:LONGEST_REASON]}")
        data = told.get("data")
        if not isinstance(data, dict) or data.get("resultType") != kind:
            raise self._silent("it answers in a form that is not known")
        result = data.get("result")
        return result if isinstance(result, list) else []

    def _silent(self, reason: str) -> PrometheusSilent:
        return PrometheusSilent(url=self.url, reason=reason)
