"""Prometheus and Alertmanager as processes of a test: own ports, own storage, nothing left."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from rehearsal.children import Children, wait_until
from rehearsal.postgres import free_port
from rehearsal.processes import Program, Programs

READY_S = 30.0


def needed(program: str) -> str:
    """Where a program is; the test is skipped where it is missing."""
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed: make system")
    return path


@dataclass
class Monitoring:
    """A Prometheus, and its Alertmanager if there is one."""

    directory: Path
    programs: Programs
    url: str
    alertmanager_url: str | None = None

    def stop(self, *names: str) -> None:
        """End `prometheus` or `alertmanager`."""
        self.programs.stop(*names)

    def value(self, query: str) -> float | None:
        """The value of a query with one answer."""
        found = httpx.get(f"{self.url}/api/v1/query", params={"query": query}).json()
        result = found["data"]["result"]
        return float(result[0]["value"][1]) if result else None

    def await_value(self, query: str, wanted: float, limit_s: float = 30.0) -> None:
        """Wait until a query gives this."""
        reached = wait_until(lambda: self.value(query) == wanted, limit_s)
        assert reached, f"{query}: {self.value(query)}, not {wanted}"


def start(
    directory: Path,
    children: Children,
    jobs: Mapping[str, Sequence[str]],
    *,
    interval: str = "1s",
    rules: Path | None = None,
    alertmanager: Path | None = None,
    port: int | None = None,
    discovered: Sequence[Mapping[str, object]] = (),
) -> Monitoring:
    """Scrape these jobs' targets. With a configuration of Alertmanager, start that too.

    `discovered`: entries of `scrape_configs` whose targets Prometheus finds by itself.
    """
    programs = Programs(children)
    alertmanager_url = None
    if alertmanager is not None:
        alertmanager_url = f"http://127.0.0.1:{free_port()}"
        command = [
            needed("prometheus-alertmanager"),
            f"--config.file={alertmanager}",
            f"--storage.path={directory / 'alertmanager'}",
            f"--web.listen-address={alertmanager_url.removeprefix('http://')}",
            "--cluster.listen-address=",
        ]
        programs.start(Program("alertmanager", command, {}, f"{alertmanager_url}/-/ready"))
    # JSON is YAML.
    config = directory / "prometheus.yml"
    config.write_text(
        json.dumps(
            {
                "global": {
                    "scrape_interval": interval,
                    "scrape_timeout": interval,
                    "evaluation_interval": interval,
                },
                "rule_files": [str(rules)] if rules else [],
                "alerting": {
                    "alertmanagers": [
                        {"static_configs": [{"targets": [alertmanager_url.partition("//")[2]]}]}
                    ]
                    if alertmanager_url
                    else []
                },
                "scrape_configs": [
                    {"job_name": name, "static_configs": [{"targets": list(targets)}]}
                    for name, targets in jobs.items()
                ]
                + list(discovered),
            }
        )
    )
    address = f"127.0.0.1:{port or free_port()}"
    url = f"http://{address}"
    command = [
        needed("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={directory / 'prometheus'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    programs.start(Program("prometheus", command, {}, f"{url}/-/ready"), limit_s=READY_S)
    return Monitoring(directory, programs, url, alertmanager_url)
