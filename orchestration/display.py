"""How the services look on a terminal: one line each, repainted, or a plain line a change where nobody is looking.

Here: turning what the supervisor sees into text.
Not here: judging health (orchestration.health), the ward (orchestration.ward_table).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from orchestration.health import Condition
from orchestration.supervisor import Seen

REPAINT_S = 0.5

_STYLES = {
    Condition.READY: ("●", "green"),
    Condition.EXTERNAL: ("●", "green"),
    Condition.BLOCKED: ("▲", "red"),
    Condition.STARTING: ("○", "yellow"),
    Condition.SILENT: ("▲", "red"),
    Condition.DOWN: ("✕", "red"),
    Condition.WAITING: ("·", "dim"),
    Condition.STOPPED: ("·", "dim"),
}


def services_table(services: Sequence[Seen]) -> Table:
    """Return a table of one line a service."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for heading in ("service", "health", "address", "restarts", ""):
        table.add_column(heading, no_wrap=heading in {"service", "health"}, overflow="fold")
    for seen in services:
        sign, style = _STYLES[seen.condition]
        restarts = str(seen.restarts) if seen.restarts else ""
        table.add_row(
            seen.name, Text(f"{sign} {seen.condition}", style=style), seen.address, restarts, Text(seen.note, "dim")
        )
    return table


def service_line(seen: Seen) -> str:
    """Return one service as plain text."""
    restarts = f"  restarts={seen.restarts}" if seen.restarts else ""
    note = f"  ({seen.note})" if seen.note else ""
    return f"{seen.name:<12} {seen.condition:<9} {seen.address}{restarts}{note}".rstrip()


class ServicesDisplay:
    """Shows the services while a block runs."""

    def __init__(self, console: Console, footer: str = "") -> None:
        """Prepare to show on `console`, with a line of advice below."""
        self._console = console
        self.footer = footer
        self._live: Live | None = None
        self._stack = ExitStack()
        self._shown: dict[str, str] = {}
        self._painted_at = 0.0

    def __enter__(self) -> ServicesDisplay:
        if self._console.is_terminal:
            self._live = self._stack.enter_context(Live(console=self._console, auto_refresh=False, transient=False))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def show(self, services: Sequence[Seen]) -> None:
        """Paint the services: at most twice a second on a terminal, only what changed elsewhere."""
        if self._live is None:
            for seen in services:
                line = service_line(seen)
                if seen.condition is not Condition.WAITING and self._shown.get(seen.name) != line:
                    self._shown[seen.name] = line
                    self._console.print(line, markup=False, highlight=False, soft_wrap=True)
            return
        table = services_table(services)
        if self.footer:
            table.caption, table.caption_justify = self.footer, "left"
        self._live.update(table, refresh=True)

    def is_due(self) -> bool:
        """Return whether it is time to look again; looking costs a connection to each server."""
        now = time.monotonic()
        if now - self._painted_at < REPAINT_S:
            return False
        self._painted_at = now
        return True
