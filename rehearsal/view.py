"""The rehearsal as a person sees it: a live panel in a terminal, one line per event elsewhere."""

import sys
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rehearsal.scene import Event, Scene

STYLES = {"step": "bold", "command": "cyan", "warning": "bold red", "gate": "green"}


class View(Protocol):
    """Something that shows events as they come."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def event(self, event: Event) -> None:
        """Show one event."""


class LineView:
    """One line per event on stderr, for logs and pipes."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        sys.stderr.flush()

    def event(self, event: Event) -> None:
        """Write the event as a line."""
        sys.stderr.write(f"{clock(event.at)}  {event.kind:<8} {event.text}\n")
        sys.stderr.flush()


class LiveView:
    """A panel that is redrawn four times a second, for a person at a terminal."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.console = Console(stderr=True)
        self.live = Live(
            get_renderable=self.render, console=self.console, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> Self:
        self.live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.live.__exit__(kind, error, trace)
        for event in self.scene.events:
            if event.kind in ("step", "warning"):
                line = f"{clock(event.at)}  {event.text}"
                self.console.print(Text(line, STYLES.get(event.kind, "")))

    def event(self, event: Event) -> None:
        """The panel reads the scene by itself."""

    def render(self) -> RenderableType:
        """The panel for the terminal's present size."""
        with self.scene.lock:
            return panel(self.scene, self.console.width, self.console.height)


def view_for(scene: Scene) -> View:
    """The live panel where stderr is a terminal, lines elsewhere."""
    console = Console(stderr=True)
    return LiveView(scene) if console.is_terminal and not console.is_dumb_terminal else LineView()


def clock(seconds: float) -> str:
    """Seconds as mm:ss."""
    return f"{int(seconds) // 60:02d}:{int(seconds) % 60:02d}"


def panel(scene: Scene, width: int, height: int) -> RenderableType:
    """Everything at one look; a small window keeps the figures and drops the tail of events."""
    head = Text.assemble(
        (f"splitctl rehearse  {scene.environment}  {clock(scene.seconds)}\n", "bold"),
        (f"{scene.step}\n", "bold cyan"),
        (f"$ {scene.command}\n" if scene.command else "\n", "cyan"),
        (scene.progress or " ", "dim"),
    )
    head.no_wrap, head.overflow = True, "ellipsis"
    failed = Text(f"failed requests {scene.failed}", "bold red" if scene.failed else "green")
    figures = Text.assemble(
        f"acknowledged writes {scene.writes:,}   requests {scene.requests:,}   ",
        failed,
        f"   longest hold {scene.longest_hold_ms} ms",
    )
    parts: list[RenderableType] = [head, "", figures, "", _domains(scene), "", _streams(scene)]
    used = 12 + len(scene.domains) + len(scene.streams)
    if scene.gates and height - used > 2:
        parts += ["", Text("gates  " + "   ".join(f"{k} {v}" for k, v in scene.gates.items()))]
        used += 2 + sum(len(k) + len(v) + 4 for k, v in scene.gates.items()) // max(width, 1)
    room = min(height - used - 2, len(scene.tail))
    if room > 0:
        lines = [
            Text(
                f"{clock(event.at)}  {event.text}",
                STYLES.get(event.kind, ""),
                no_wrap=True,
                overflow="ellipsis",
            )
            for event in list(scene.tail)[-room:]
        ]
        parts += ["", *lines]
    return Group(*parts)


def _domains(scene: Scene) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("domain", "stage", "asked", "served", "measured", "held"):
        table.add_column(name, justify="left" if name in ("domain", "stage") else "right")
    for name, domain in scene.domains.items():
        measured = "-" if domain.measured is None else f"{domain.measured:.1f} %"
        table.add_row(
            name, domain.stage, f"{domain.asked} %", domain.served, measured, str(domain.held)
        )
    return table


def _streams(scene: Scene) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("sync", "lag", "pending keys", "strays"):
        table.add_column(name, justify="left" if name == "sync" else "right")
    for name, stream in scene.streams.items():
        lag = "-" if stream.lag_ms is None else f"{stream.lag_ms:.0f} ms"
        pending = "-" if stream.pending is None else f"{stream.pending:,}"
        strays = "-" if stream.strays is None else str(stream.strays)
        table.add_row(name, lag, pending, strays)
    return table
