"""The page that operators read names every alert and every metric there is."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from estate.config import Config
from migrator.gauges import Gauges
from migrator.stream_health import StreamHealth
from rollout.observe.alerts import alerts
from services.gateway.metrics import Metrics
from services.jobs.report import Report
from services.web import Service, Settings
from tests.observe.conftest import AGAINST_OLD, Configure

PAGE = Path(__file__).parents[2] / "docs" / "observe.md"


def named() -> set[str]:
    return set(re.findall(r"`(\w+)`", PAGE.read_text(encoding="utf-8")))


def families(page: bytes) -> set[str]:
    """Names as they are asked for; a histogram's is that of its family."""
    found = text_string_to_metric_families(page.decode())
    told = {f"{f.name}_total" if f.type == "counter" else f.name for f in found}
    return {name for name in told if not name.endswith("_created")}


def test_every_metric_is_in_the_reference() -> None:
    name = "d.forward"
    pages = {
        "worker": Gauges([name]).text({name: StreamHealth(name)}),
        "gateway": Metrics({}).text(),
        "jobs": Report().answer("/metrics")[2],
    }
    for page in pages.values():
        assert families(page) - named() == set()
    service = Service(Settings("shop", database_url="host=127.0.0.1 port=1"))
    counted = {family.name for family in service.registry.collect()}
    assert {name for name in counted if not named() & {name, f"{name}_total"}} == set()


def test_every_alert_is_in_the_table_with_its_severity_and_what_to_type(
    configure: Configure,
) -> None:
    config: Config = configure(extra=AGAINST_OLD)
    rows = {
        cells[0]: cells
        for line in PAGE.read_text(encoding="utf-8").splitlines()
        if len(cells := [cell.strip() for cell in line.strip("|").split("|")]) == 5
    }
    for alert in alerts(config).alerts:
        row = rows[alert.name]
        assert row[1] == alert.severity
        generic = re.sub(r"\bd\b", "DOMAIN", alert.next_command)
        assert f"`{generic}`" in row[4], alert.name
