"""`splitctl observe`: alerts and dashboards for others' programs, from the same configuration."""

from pathlib import Path
from typing import Annotated, Any

import typer

from splitctl.session import ConfigPath, Output, OutputFormat, answer, command_group

observe = command_group("Alert rules, routes and dashboards, from what feeds the gates.")
Out = Annotated[
    Path, typer.Option("--out", metavar="DIRECTORY", help="Where the files are, or are written.")
]
OUT = Path("observe")


@observe.command("rules")
def observe_rules(
    out: Out = OUT, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Write Prometheus' alert rules."""

    def work(c: Any) -> Any:
        from rollout.observe import writing

        return writing.rules(c, out)

    answer(work, config, output)


@observe.command("alertmanager")
def observe_alertmanager(
    out: Out = OUT, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Write Alertmanager's routes and receivers. Secrets are files that they name."""

    def work(c: Any) -> Any:
        from rollout.observe import writing

        return writing.alertmanager(c, out)

    answer(work, config, output)


@observe.command("dashboards")
def observe_dashboards(
    out: Out = OUT, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Write Grafana's dashboards, a JSON file each."""

    def work(c: Any) -> Any:
        from rollout.observe import writing

        return writing.grafana(c, out)

    answer(work, config, output)


@observe.command("check")
def observe_check(
    out: Out = OUT, config: ConfigPath = None, output: OutputFormat = Output.TEXT
) -> None:
    """Whether the files are up to date, well formed, and about series that exist."""

    def work(c: Any) -> Any:
        from rollout.observe import checking

        return checking.check(c, out)

    answer(work, config, output)
