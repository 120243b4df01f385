"""`python -m services.jobs --side old|new [--database order|checkout|return]`.

Environment: DATABASE_URL, JOBS (cleanup,outbox,compensation), INTERVAL_S (5), CLEANUP_IDLE_S
(3600), JOB_UNCARRIED (what to do where nothing is carried between the sides, before sync began or
after it was torn down: work or wait; by itself the old side works and the new side waits),
PARTNERS_URL (the warehouse that is told of released goods; none: nobody is told),
PORT (health and metrics; none: not served), HOST. Without --database the tables tell.
SIGTERM ends it after the batch under way.
"""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from datetime import timedelta
from types import FrameType

from services.jobs.loop import JOBS, Rounds, Settings
from services.jobs.report import Report, serve
from services.jobs.work import no_warehouse, warehouse

UNCARRIED = {"": None, "work": True, "wait": False}


class SettingsInvalid(Exception):
    """Something in the environment is missing or cannot be read."""


def settings(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Settings:
    """Settings from the command line and the environment. Raises SettingsInvalid."""
    url = environment.get("DATABASE_URL", "").strip()
    if not url:
        raise SettingsInvalid("DATABASE_URL is not set: give a PostgreSQL connection string")
    jobs = tuple(name.strip() for name in environment.get("JOBS", ",".join(JOBS)).split(","))
    jobs = tuple(name for name in jobs if name)
    if unknown := [name for name in jobs if name not in JOBS]:
        raise SettingsInvalid(
            f"JOBS: there is no {', '.join(unknown)}; there are {', '.join(JOBS)}"
        )
    word = environment.get("JOB_UNCARRIED", "").strip()
    if word not in UNCARRIED:
        raise SettingsInvalid(f"JOB_UNCARRIED is {word}: say work or wait")
    partners = environment.get("PARTNERS_URL", "").strip()
    return Settings(
        side=arguments.side,
        database_url=url,
        jobs=jobs,
        interval_s=_seconds(environment, "INTERVAL_S", 5.0),
        idle=timedelta(seconds=_seconds(environment, "CLEANUP_IDLE_S", 3600.0)),
        release=warehouse(partners) if partners else no_warehouse,
        shape=arguments.database,
        alone=UNCARRIED[word],
    )


def _seconds(environment: Mapping[str, str], name: str, default: float) -> float:
    try:
        value = float(environment.get(name) or default)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e9:
        raise SettingsInvalid(f"{name} is not a number of seconds")
    return value


def main() -> int:
    """Run until a signal. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.jobs")
    parser.add_argument("--side", choices=("old", "new"), required=True)
    parser.add_argument("--database", choices=("order", "checkout", "return"))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        read = settings(parser.parse_args(), os.environ)
        port = int(os.environ.get("PORT") or 0)
    except (SettingsInvalid, ValueError) as error:
        print(f"jobs: {error}", file=sys.stderr)  # noqa: T201
        return 2
    stop = threading.Event()

    def told(_: int, __: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    report = Report()
    server = serve(report, os.environ.get("HOST", "127.0.0.1"), port) if port else None
    Rounds(read, report, stop).run()
    if server is not None:
        server.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
