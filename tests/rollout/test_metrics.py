"""Scraping: what a gateway's page says, and what is not believed."""

import http.server
import math
import threading
from collections.abc import Iterator

import pytest

from rollout.metrics import ScrapeMetrics, parse
from rollout.sums import Unreadable

PAGE = """
# HELP gateway_requests_total Requests answered.
# TYPE gateway_requests_total counter
gateway_requests_total{domain="d",side="new",status="200"} 90.0
gateway_requests_total{domain="d",side="new",status="404"} 4.0
gateway_requests_total{domain="d",side="new",status="500"} 5.0
gateway_requests_total{domain="d",side="new",status="503"} 1.0
gateway_requests_total{domain="d",side="old",status="200"} 900.0
gateway_requests_total{domain="",side="",status="200"} 7.0
gateway_requests_created{domain="d",side="new",status="200"} 1.7e+09
# HELP gateway_request_seconds From arrival to answer.
# TYPE gateway_request_seconds histogram
gateway_request_seconds_bucket{domain="d",side="new",le="0.05"} 80.0
gateway_request_seconds_bucket{domain="d",side="new",le="+Inf"} 100.0
gateway_request_seconds_count{domain="d",side="new"} 100.0
gateway_request_seconds_sum{domain="d",side="new"} 3.5
gateway_request_seconds_created{domain="d",side="new"} 1.7e+09
# HELP gateway_customers Buckets served since the flags last changed.
# TYPE gateway_customers gauge
gateway_customers{domain="d",side="new"} 12.0
"""


def test_a_page_is_read_by_domain_and_side() -> None:
    counts = parse(PAGE).counts()["d"]
    assert (counts["new"].requests, counts["new"].errors) == (100.0, 6.0)
    assert counts["new"].buckets == {0.05: 80.0, math.inf: 100.0}
    assert (counts["old"].requests, counts["old"].buckets) == (900.0, {})
    assert (counts["new"].customers, counts["old"].customers) == (12.0, None)


def test_a_gateway_that_answered_nobody_yet_is_seen_with_nothing() -> None:
    page = "# HELP gateway_requests_total Requests.\n# TYPE gateway_requests_total counter\n"
    assert parse(page).counts() == {}


@pytest.mark.parametrize(
    ("page", "why"),
    [
        ("", "no counter"),
        ("other_total 3\n", "no counter"),
        ("<html>it works</html>", "text format"),
        ('gateway_requests_total{domain="d",side="new",status="200"} NaN\n', "no counter|not a"),
        (
            "# TYPE gateway_requests_total counter\n"
            'gateway_requests_total{domain="d",side="new",status="200"} NaN\n',
            "not a number",
        ),
    ],
)
def test_what_cannot_be_believed_is_told(page: str, why: str) -> None:
    with pytest.raises(Unreadable, match=why):
        parse(page)


class Pages(http.server.BaseHTTPRequestHandler):
    """One good page, one that fails."""

    def do_GET(self) -> None:
        status = 200 if self.path == "/metrics" else 500
        self.send_response(status)
        self.end_headers()
        self.wfile.write(PAGE.encode())

    def log_message(self, format: str, *args: object) -> None:
        del format, args


@pytest.fixture
def server() -> Iterator[str]:
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_address[1]}"
    httpd.shutdown()
    httpd.server_close()


def test_every_page_is_asked_and_a_missing_one_is_named(server: str) -> None:
    gone = "http://127.0.0.1:1/metrics"
    snapshot = ScrapeMetrics([f"{server}/metrics", f"{server}/broken", gone]).scrape()
    assert list(snapshot.gateways) == [f"{server}/metrics"]
    assert snapshot.problems[f"{server}/broken"] == "it answers 500"
    assert gone in snapshot.problems
    assert not snapshot.complete


def test_no_pages_is_no_data() -> None:
    assert not ScrapeMetrics([]).scrape().complete
