"""What Prometheus answers is believed only when it is whole and fresh."""

import http.server
import json
import math
import threading
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest

from rollout.counters import Snapshot
from rollout.prometheus import Expected, PrometheusMetrics, seen
from rollout.prometheus_api import Prometheus, PrometheusSilent, QueryRefused, Sample

NOW = 1_700_000_000.0
LABELS = {"domain": "d", "side": "new"}


def scraped(*instances: str, age_s: float = 5.0) -> list[Sample]:
    return [Sample({"instance": name, "job": "g"}, NOW, NOW - age_s) for name in instances]


def counted(instance: str, up: float = 1.0, requests: float = 7.0, **more: str) -> list[Sample]:
    def sample(name: str, value: float, **labels: str) -> Sample:
        return Sample({"__name__": name, "instance": instance, **labels}, NOW, value)

    return [
        sample("up", up),
        sample("gateway_requests_total", requests, status="200", **LABELS),
        sample("gateway_requests_total", 2.0, status="503", **LABELS),
        sample("gateway_request_seconds_bucket", 9.0, le="+Inf", **LABELS),
        sample("gateway_flag_epoch", 4.0, domain="d"),
        sample("gateway_customers", 3.0, **LABELS),
    ]


def look(times: list[Sample], samples: list[Sample], number: int = 1, *named: str) -> Snapshot:
    return seen(Expected(number, named, 45.0), NOW, times, samples)


def test_a_fresh_gateway_is_seen_as_its_page_would_be() -> None:
    found = look(scraped("a"), counted("a"))
    assert found.complete
    new = found.gateways["a"]["d"]["new"]
    assert (new.requests, new.errors, new.buckets, new.customers) == (9.0, 2.0, {math.inf: 9.0}, 3)
    assert found.epochs == {"a": {"d": 4.0}}


@pytest.mark.parametrize(
    ("times", "samples", "why"),
    [
        (scraped("a", age_s=46), counted("a"), "too old (46 s)"),
        (scraped("a"), counted("a", up=0.0), "cannot be scraped"),
        (scraped("a"), [], "cannot be scraped"),
        (scraped("a"), counted("a")[:1], "no counter gateway_requests_total"),
        (scraped("a", "a"), [*counted("a"), *counted("a")], "several targets"),
        (scraped("a"), counted("a", requests=math.nan), "not a number"),
    ],
)
def test_what_cannot_be_believed_is_a_problem_of_that_gateway(
    times: list[Sample], samples: list[Sample], why: str
) -> None:
    found = look([*times, *scraped("b")], [*samples, *counted("b")], 2)
    assert why in found.problems["a"]
    assert set(found.gateways) == {"b"}
    assert not found.complete


def test_a_gateway_that_is_missed_is_told_by_name_or_by_number() -> None:
    assert look([], []).problems == {"prometheus": "0 of 1 gateways are scraped"}
    assert look(scraped("a"), counted("a"), 2).problems == {
        "prometheus": "1 of 2 gateways are scraped"
    }
    named = look(scraped("a"), counted("a"), 2, "a", "b")
    assert named.problems["b"] == "it is not scraped"


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers every question with what the test has put here."""

    status: ClassVar[int] = 200
    body: ClassVar[Any] = None
    asked: ClassVar[list[tuple[str, str | None]]] = []

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        text = self.rfile.read(length).decode()
        self.asked.append((f"{self.path}?{text}", self.headers.get("Authorization")))
        self.send_response(self.status)
        self.end_headers()
        body = self.body if isinstance(self.body, str) else json.dumps(self.body)
        self.wfile.write(body.encode())

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def prometheus() -> Iterator[Prometheus]:
    Answers.status, Answers.asked = 200, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Prometheus(f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


def vector(*result: Any, **more: Any) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": "vector", "result": list(result)}, **more}


ONE = {"metric": {"instance": "a"}, "value": [NOW, "1"]}


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (503, "starting", "it answers 503"),
        (401, "no", "it answers 401"),
        (302, "elsewhere", "it answers 302"),
        (200, "<html>", "it answers 200"),
        (200, {"status": "error", "error": "out of memory"}, "out of memory"),
        (200, vector(ONE, warnings=["a store did not answer"]), "a store did not answer"),
        (200, {"status": "success", "data": {"resultType": "matrix", "result": []}}, "form"),
        (200, vector({"metric": {}, "value": "1"}), "form"),
        (200, vector({"value": [NOW, "1"]}), "form"),
    ],
)
def test_an_answer_that_is_not_whole_is_no_answer(
    prometheus: Prometheus, status: int, body: Any, why: str
) -> None:
    Answers.status, Answers.body = status, body
    with pytest.raises(PrometheusSilent, match=why):
        prometheus.instant("up")
    found = PrometheusMetrics(prometheus, 'job="g"', Expected(1)).scrape()
    assert found.gateways == {}
    assert why in found.problems["prometheus"]


def test_a_query_that_is_refused_is_told_apart_from_a_prometheus_that_is_away(
    prometheus: Prometheus,
) -> None:
    Answers.status, Answers.body = 400, {"status": "error", "error": "parse error: x"}
    with pytest.raises(QueryRefused, match="parse error"):
        prometheus.instant("sum(")


def test_both_questions_are_about_one_moment_of_prometheus_own_clock(
    prometheus: Prometheus,
) -> None:
    Answers.body = vector(ONE)
    PrometheusMetrics(prometheus, 'job="g"', Expected(1)).scrape()
    first, second = (asked for asked, _ in Answers.asked)
    assert "time=" not in first
    assert f"time={NOW:.3f}" in second


def test_the_token_is_read_when_something_is_asked(
    prometheus: Prometheus, monkeypatch: pytest.MonkeyPatch
) -> None:
    from estate.secrets import SecretRef

    with_token = Prometheus(prometheus.url, SecretRef("env:PROMETHEUS_TOKEN"))
    metrics = PrometheusMetrics(with_token, 'job="g"', Expected(1))
    assert "PROMETHEUS_TOKEN" in metrics.scrape().problems["prometheus"]
    assert Answers.asked == []
    monkeypatch.setenv("PROMETHEUS_TOKEN", "t0ken")
    Answers.body = vector()
    metrics.scrape()
    assert Answers.asked[0][1] == "Bearer t0ken"
