"""The watch as one screen that a person leaves open for days. It draws; it decides nothing.

It fits any window: first columns go, then what passes is told in a line, then events, at last all
but one line for each domain.
"""

import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from rollout.board import Board, DomainBoard, GateLine
from rollout.history import Event
from rollout.marks import moment, span
from rollout.status import DomainStatus

BLOCKS, PLAIN_BLOCKS = "▁▂▃▄▅▆▇█", "_.-~=+*#"
BAR, PLAIN_BAR = ("█", "░"), ("#", ".")
STYLES = {"pass": "green", "fail": "bold red", "inconclusive": "yellow"}
# From this width on there is room for the samples, the sparkline, the limit.
SAMPLES_FROM, SPARK_FROM, LIMIT_FROM = 76, 60, 44
GATHER_EVERY_S = 3.0


class Screen:
    """Shows a board that is gathered anew every few seconds, at any size of the window."""

    def __init__(self, gather: Callable[[], Board]) -> None:
        self._gather = gather
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._board: Board | None = None
        self._live = Live(
            get_renderable=self._drawn,
            console=Console(stderr=True, highlight=False),
            screen=True,
            refresh_per_second=2,
        )

    def __enter__(self) -> Self:
        self._live.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._live.__exit__(kind, error, trace)

    def _follow(self) -> None:
        while not self._ended.is_set():
            self._board = self._gather()
            self._ended.wait(GATHER_EVERY_S)

    def _drawn(self) -> "Drawing | Text":
        return Drawing(self._board) if self._board else Text("looking at the estate ...")


class Drawing:
    """A board at the size that the console has now."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        width, height = options.max_width, options.height or console.height
        pen = Pen(width, options.ascii_only)
        lines: list[Text] = []
        for draw in (_whole, _without_passing, _without_events, _short):
            lines = list(draw(self._board, pen))
            if len(lines) <= height:
                break
        for line in lines[:height]:
            line.truncate(width, overflow="crop" if options.ascii_only else "ellipsis")
            yield line


class Pen:
    """What depends on the window: so many columns, and the letters that it has."""

    def __init__(self, width: int, ascii_only: bool) -> None:
        self.width = width
        self.blocks = PLAIN_BLOCKS if ascii_only else BLOCKS
        self.full, self.empty = PLAIN_BAR if ascii_only else BAR

    def spark(self, values: Sequence[float]) -> str:
        """The last values as small columns; the highest of them fills its own."""
        if not values:
            return ""
        low, high = min(values), max(values)
        size = (high - low) or 1.0
        last = len(self.blocks) - 1
        return "".join(self.blocks[round((value - low) / size * last)] for value in values)

    def bar(self, share: float, width: int) -> str:
        """So much of the width, filled."""
        filled = round(min(max(share, 0.0), 1.0) * width)
        return self.full * filled + self.empty * (width - filled)


# Four drawings, each smaller than the one before


def _whole(board: Board, pen: Pen) -> Iterator[Text]:
    yield _title(board)
    for item in board.domains:
        yield Text()
        yield from _head(item, pen)
        yield from _gates(item.gates, pen)
        yield from _foot(item, pen)
    yield from _events(board.events)
    yield from _away(board)


def _without_passing(board: Board, pen: Pen) -> Iterator[Text]:
    yield _title(board)
    for item in board.domains:
        yield from _head(item, pen)
        others = [line for line in item.gates if line.result.verdict != "pass"]
        yield from _gates(others, pen)
        passing = [line.result.name for line in item.gates if line.result.verdict == "pass"]
        if passing:
            yield Text(f"  pass: {', '.join(passing)}", "green")
        yield from _foot(item, pen)
    yield from _events(board.events[-2:])
    yield from _away(board)


def _without_events(board: Board, pen: Pen) -> Iterator[Text]:
    yield _title(board)
    for item in board.domains:
        yield from _head(item, pen)
        for line in item.gates:
            if line.result.verdict != "pass":
                yield Text(f"  {line.result.name}: {line.result.verdict}", _style(line))
        yield from _warnings(item.status)
        yield from _next(item.status, pen)
    yield from _away(board)


def _short(board: Board, pen: Pen) -> Iterator[Text]:
    del pen
    for item in board.domains:
        told = item.watched.result if item.watched else item.status.stage
        yield Text.assemble((item.status.domain, "bold"), f" {_percent(item.status.asked)} {told}")
        yield from _warnings(item.status)
    yield from _away(board)


# Their parts


def _title(board: Board) -> Text:
    line = Text.assemble((board.environment, "bold"), f"  {moment(board.at)}")
    if board.lock:
        line.append(f"  lock: {board.lock}", "yellow")
    return line


def _head(item: DomainBoard, pen: Pen) -> Iterator[Text]:
    found = item.status
    told = {f"{served.percentage} %" for served in found.served if served.percentage is not None}
    served = ", ".join(sorted(told)) or "unknown"
    measured = "-" if found.measured is None else f"{found.measured:.1f} %"
    yield Text.assemble(
        (found.domain, "bold"),
        f"  {found.stage}  asked {_percent(found.asked)}  served {served}  measured {measured}",
        (f" of {found.requests:,}", "dim"),
    )
    if found.proof is not None:
        word, style = ("proven", "green") if found.proof.proven else ("unproven", "bold yellow")
        yield Text.assemble("  share ", (f"{word}: ", style), found.proof.told)
    if item.watched is not None:
        yield _clock(item, pen)


def _clock(item: DomainBoard, pen: Pen) -> Text:
    """The soak clock: a bar, and evidenced of required."""
    assert item.watched is not None
    soak, required = item.watched.soak_s, item.watched.soak_required_s
    share = soak / required if required else 1.0
    told = f"{_length(soak)} of {_length(required)}  "
    room = max(min(pen.width - len(told) - len(item.watched.result) - 10, 30), 5)
    held = item.watched.result in ("hold", "paused", "drift", "fail")
    return Text.assemble(
        "  soak  ",
        (pen.bar(share, room), "yellow" if held else "green"),
        f"  {told}",
        (item.watched.result, "bold yellow" if held else ""),
    )


def _gates(lines: Sequence[GateLine], pen: Pen) -> Iterator[Text]:
    """A table. What is not passed says why, below it."""
    if not lines:
        return
    rows = [("gate", "value", "limit", "samples", "verdict", "last values")]
    rows += [_row(line, pen) for line in lines]
    shown = [0, 1, 4]
    shown += [2] if pen.width >= LIMIT_FROM else []
    shown += [3] if pen.width >= SAMPLES_FROM else []
    shown += [5] if pen.width >= SPARK_FROM else []
    shown.sort()
    widths = {column: max(len(row[column]) for row in rows) for column in shown}
    for number, row in enumerate(rows):
        line = Text("  ")
        for column in shown:
            right = column in (1, 2, 3)
            cell = row[column].rjust(widths[column]) if right else row[column].ljust(widths[column])
            style = "dim" if number == 0 else (_style(lines[number - 1]) if column == 4 else "")
            line.append(f"{cell}  ", style)
        line.rstrip()
        yield line
        if number and (result := lines[number - 1].result).verdict != "pass" and result.reason:
            # Whole: it has the figures that count.
            indent = " " * 4
            for part in textwrap.wrap(result.reason, max(pen.width - len(indent), 20)):
                yield Text(f"{indent}{part}", "dim")


def _row(line: GateLine, pen: Pen) -> tuple[str, str, str, str, str, str]:
    result = line.result
    value, limit = result.value, result.limit
    if pen.width < SAMPLES_FROM:
        # The figure against the old side goes first; the verdict has to stay.
        alone = replace(result, ratio=None, times=None)
        value, limit = alone.value, alone.limit
    policy = "" if result.on_fail == "rollback" else f" ({result.on_fail})"
    return (
        result.name,
        value or "-",
        limit,
        f"{result.samples:,}",
        f"{result.verdict}{policy}",
        pen.spark(line.values),
    )


def _foot(item: DomainBoard, pen: Pen) -> Iterator[Text]:
    found = item.status
    for stream in found.sync:
        lag = "unknown" if stream.lag_ms is None else f"{stream.lag_ms:.0f} ms"
        alive = "" if stream.worker_alive else "  NO LIVING WORKER"
        strays = f"  strays {stream.strays}" if stream.strays else ""
        yield Text(f"  sync  {stream.stream.rpartition('.')[2]}: lag {lag}{strays}{alive}")
    yield Text(f"  verified  {found.verified or 'never'}")
    yield from _warnings(found)
    yield from _next(found, pen)


def _next(found: DomainStatus, pen: Pen) -> Iterator[Text]:
    """The next command, whole: it is there to be typed."""
    line = f"  next  {found.next_command}"
    for part in textwrap.wrap(line, max(pen.width, 20), subsequent_indent=" " * 8):
        yield Text(part, "cyan")


def _warnings(found: DomainStatus) -> Iterator[Text]:
    told = [found.paused, f"drift: {found.drift}" if found.drift else None]
    told += [f"an answer is wanted: {gate}" for gate in found.wanted]
    told += [f"unfinished: {act}" for act in found.unfinished]
    told += [] if found.drift else found.disagreements
    for line in told:
        if line:
            yield Text(f"  ! {line}", "bold yellow")


def _events(events: Sequence[Event]) -> Iterator[Text]:
    if events:
        yield Text()
    for event in events:
        by = f"  by {event.operator}" if event.operator else ""
        told = f"  {event.told}" if event.told else ""
        line = f"{event.at:%m-%d %H:%M:%S}  {event.domain or '-'}  {event.kind}: {event.outcome}"
        yield Text(f"{line}{by}{told}", "dim")


def _away(board: Board) -> Iterator[Text]:
    for what, why in board.away.items():
        yield Text(f"away: {what}: {why}", "bold red")


def _style(line: GateLine) -> str:
    return STYLES[line.result.verdict]


def _percent(asked: int | None) -> str:
    return "unknown" if asked is None else f"{asked} %"


def _length(seconds: float) -> str:
    return span(timedelta(seconds=seconds))
