"""One place where a command meets the world: configuration, log file, errors, exit code."""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TextIO

import typer

from estate.errors import ExitCode, SplitctlError, in_one_line
from splitctl.answers import Listing
from splitctl.page import Page

if TYPE_CHECKING:
    from datetime import datetime, timedelta

    from estate.config import Config
    from rollout.history import History

log = logging.getLogger("splitctl")


class NotConfirmed(SplitctlError):
    """{act} '{domain}' was not confirmed. Nothing was changed."""

    hint = "the same command with --confirm {domain}"
    exit_code = ExitCode.USAGE


class Output(StrEnum):
    """How an answer is written to stdout."""

    TEXT = "text"
    JSON = "json"


ConfigPath = Annotated[
    Path | None,
    typer.Option(
        "--config", "-c", help="The estate's config.toml [env: SPLITCTL_CONFIG; ./config.toml]."
    ),
]
OutputFormat = Annotated[Output, typer.Option("--output", "-o", help="How to write the answer.")]
DomainName = Annotated[str, typer.Argument(help="The domain, as the configuration names it.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the ordered steps and blockers; change nothing.")
]
Confirm = Annotated[
    str | None,
    typer.Option("--confirm", metavar="NAME", help="The domain's name again, for scripts."),
]


def duration(text: str) -> "timedelta":
    """An option's value such as 20s, 15m, 24h or 7d."""
    from estate.config import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def since(text: str) -> "datetime":
    """An option's value such as 2h or 3d (ago), or a time in ISO 8601; without a zone it is UTC."""
    from datetime import UTC, datetime

    try:
        return datetime.now(UTC) - duration(text)
    except typer.BadParameter:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        wanted = "how long ago (2h, 3d), or a time (2024-05-01T10:00)"
        raise typer.BadParameter(f"expected is {wanted}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Since = Annotated[
    Any,
    typer.Option(
        "--since", parser=since, metavar="WHEN", help="Only what came after: 2h, 3d, or a time."
    ),
]
Limit = Annotated[int, typer.Option(min=1, max=10_000, help="How many events, newest last.")]
OptionalDomain = Annotated[
    str | None, typer.Argument(help="One domain; all of them when left out.")
]


def command_group(help_text: str) -> typer.Typer:
    """A group of commands; typed alone it shows its help."""
    return typer.Typer(help=help_text, no_args_is_help=True, rich_markup_mode=None)


def state_directory() -> Path:
    """Where the log and the local journal are kept."""
    given = os.environ.get("SPLITCTL_STATE_DIR")
    return Path(given) if given else Path.home() / ".local" / "state" / "splitctl"


def _log_to_file() -> Path | None:
    path = state_directory() / "splitctl.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    except OSError:
        return None  # a command must work where nothing can be written
    _write_as(handler, "%(asctime)sZ %(process)d %(levelname)s %(name)s: %(message)s")
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    for name in ("httpx", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return path


def log_to_stderr(room: str) -> None:
    """A room's log on stderr too: for a command that runs as a service."""
    handler = logging.StreamHandler()
    _write_as(handler, "%(asctime)sZ %(levelname)s %(message)s")
    logger = logging.getLogger(room)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def _write_as(handler: logging.Handler, form: str) -> None:
    formatter = logging.Formatter(form, datefmt="%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)


def answer(work: "Callable[[Config], Any]", config_path: Path | None, output: Output) -> NoReturn:
    """Load the configuration, do the work, render its result, and exit with its code."""

    def configured() -> Any:
        from estate.config import load

        config = load(config_path)
        log.info("%s: %s", config.environment, " ".join(sys.argv[1:]))
        return config.environment, work(config)

    _finish(configured, output)


def answer_without_config(work: Callable[[], Any], output: Output) -> NoReturn:
    """The same for the few commands that need no configuration."""
    _finish(lambda: (None, work()), output)


def _finish(work: Callable[[], Any], output: Output) -> NoReturn:
    log_path = _log_to_file()
    try:
        from splitctl import render

        environment, result = work()
        with reader_may_leave(sys.stdout):
            render.result(result, environment, output.value)
        _tell_next(result, output)
        code = int(getattr(result, "exit_code", ExitCode.DONE))
    except SplitctlError as error:
        log.error("%s: %s", type(error).__name__, error)
        _tell(output, type(error).__name__, str(error), error.next_command)
        code = int(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        if sys.stderr.isatty():
            sys.stderr.write("\n")  # below the ^C
        message = "Interrupted. What was begun is in the ledger, and can be typed again."
        _tell(output, "Interrupted", message, "splitctl status")
        code = int(ExitCode.INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the one place where everything ends
        code = _unforeseen(error, output, log_path)
    log.info("exit %d", code)
    raise SystemExit(code)


def _unforeseen(error: Exception, output: Output, log_path: Path | None) -> int:
    """What no room has put into words: a database that failed in the middle, or a mistake of ours.

    Returns the exit code.
    """
    from estate.connections import told

    known = told(error)
    if known is None:
        log.exception("unexpected")
    else:
        log.error("%s: %s", type(known).__name__, known, exc_info=error)
        _tell(output, type(known).__name__, str(known), known.next_command)
        return int(known.exit_code)
    where = f"The details are in {log_path}." if log_path else ""
    message = f"Unexpected: {type(error).__name__}: {in_one_line(error)}. {where}"
    _tell(output, "Unexpected", message.strip(), "splitctl status")
    return int(ExitCode.UNEXPECTED)


def _tell_next(result: Any, output: Output) -> None:
    """The next command on stderr, unless it stands in the data already."""
    next_command = getattr(result, "next_command", None)
    if next_command and (output is Output.TEXT or isinstance(result, Listing)):
        gap = "\n" if output is Output.TEXT else ""
        with reader_may_leave(sys.stderr):
            sys.stderr.write(f"{gap}Next: {next_command}\n")


def _tell(output: Output, kind: str, message: str, next_command: str) -> None:
    if output is Output.JSON:
        error = {"error": kind, "message": message, "next": next_command}
        with reader_may_leave(sys.stdout):
            sys.stdout.write(json.dumps(error, ensure_ascii=False) + "\n")
            sys.stdout.flush()
    with reader_may_leave(sys.stderr):
        page = Page(sys.stderr)
        for line in message.splitlines():
            page.line(line)
        # Not wrapped: a command is there to be copied.
        sys.stderr.write(f"Next: {next_command}\n")


@contextmanager
def reader_may_leave(stream: TextIO) -> Iterator[None]:
    """Whoever reads us may go away (`| head`): that changes nothing of what is done."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def confirmed(domain: str, confirm: str | None, act: str) -> None:
    """A severe act wants the domain's name typed, or --confirm NAME from a script."""
    if confirm is None and sys.stdin.isatty():
        confirm = typer.prompt(f"{act} '{domain}'. Type its name to go on", err=True)
    if confirm != domain:
        raise NotConfirmed(act=act, domain=domain)


def events(found: "History", output: Output) -> Any:
    """A history as an answer: for a person as it tells itself, as data the list alone."""
    return found if output is Output.TEXT else Listing(found.events, found.next_command)


def progress(message: str) -> None:
    """One line of progress on stderr."""
    with reader_may_leave(sys.stderr):
        sys.stderr.write(message + "\n")
        sys.stderr.flush()
