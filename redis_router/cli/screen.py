"""How `redis-router watch` looks: a table of the providers, the worst first, and what happened below it.

Words say everything; colour only helps. What came from outside is shown as text, and no part of it as an escape.
"""

import time
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from redis_router.cli.events import change
from redis_router.cli.terminal import printable
from redis_router.operate.facts import DOWN, HELD, OK, TROUBLE, Json
from redis_router.operate.words import ago, lasted

WIDE = 100
"""Columns; on a terminal that has fewer the latency is left out, so that there is room for why."""
LEAST_EVENTS = 6
"""Lines at the end of the screen that the table leaves to them."""
STYLES = {DOWN: "bold red", TROUBLE: "yellow", HELD: "cyan", OK: "green"}
WORDS = {DOWN: "DOWN", TROUBLE: "trouble", HELD: "held", OK: "ok"}


class Screen:
    """The whole terminal, which is as it was before at the end."""

    def __init__(self, where: str, wanted: Collection[str]) -> None:
        self._where = where
        self._wanted = wanted
        self._console = Console()
        self._live = Live(console=self._console, screen=True, auto_refresh=False)
        self._well_at = time.monotonic()

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def draw(self, fleet: Json) -> None:
        """Show what the feed knows at this moment."""
        self._live.update(self._picture(fleet), refresh=True)

    def _picture(self, fleet: Json) -> RenderableType:
        now_ms = None if fleet["now_ms"] is None else fleet["now_ms"] + fleet["age_ms"]
        head = self._head(fleet, now_ms)
        if now_ms is None:
            return head
        shown = [each for each in fleet["providers"] if self._is_wanted(each)]
        if not shown:
            none = "none of these is" if self._wanted else "no provider is"
            return Group(head, _line(f"{none} registered: check the names, and --namespace", ""))
        rows, left = self._fitting(shown, now_ms, self._console.height - len(head.split()) - LEAST_EVENTS - 1)
        table = self._table(rows, now_ms)
        more = Text(_more(shown[len(rows) :]), style="dim") if len(rows) < len(shown) else None
        room = left + LEAST_EVENTS - (more is not None)
        parts: list[RenderableType] = [head, table, *([more] if more is not None else []), _events(fleet, shown, room)]
        return Group(*parts)

    def _is_wanted(self, provider: Json) -> bool:
        return not self._wanted or provider["name"] in self._wanted or provider["provider"] in self._wanted

    # The head

    def _head(self, fleet: Json, now_ms: int | None) -> Text:
        leader = fleet["leader"]
        leads = f"leader: {leader['worker']}" if leader else "leader: none"
        clock = "-" if now_ms is None else f"{datetime.fromtimestamp(now_ms / 1000):%H:%M:%S}"
        head = _line(f"{clock}  {self._where}  {leads}", "bold")
        if fleet["error"] is None:
            self._well_at = time.monotonic()
        else:
            away = lasted(1000 * (time.monotonic() - self._well_at))
            head.append("\n")
            head.append(_line(f"OUT OF TOUCH for {away}, trying on: {fleet['error']['message']}", "bold red"))
        for each in fleet["unreadable"]:
            head.append("\n")
            head.append(_line(f"{each['name']}: {each['error']}", "bold red"))
        return head

    # The table

    def _fitting(self, shown: Sequence[Json], now_ms: int, lines: int) -> tuple[Sequence[Json], int]:
        """As many as the table has room for, and how many lines are left."""
        number = min(len(shown), max(1, lines))
        while True:
            height = len(self._console.render_lines(self._table(shown[:number], now_ms), pad=False))
            if height <= lines or number <= 1:
                return shown[:number], max(0, lines - height)
            number = min(number - 1, max(1, number - (height - lines) // 2))

    def _table(self, shown: Sequence[Json], now_ms: int) -> Table:
        table = Table(box=box.SIMPLE_HEAD, expand=True, padding=(0, 1, 0, 0), pad_edge=False)
        is_wide = self._console.width >= WIDE
        table.add_column("PROVIDER", max_width=32 if is_wide else 16, overflow="ellipsis", no_wrap=True)
        table.add_column("STATE", no_wrap=True)
        table.add_column("CIRCUIT", no_wrap=True)
        table.add_column("CALLS", no_wrap=True, justify="right")
        table.add_column("FAIL", no_wrap=True, justify="right")
        if is_wide:
            table.add_column("LATENCY", no_wrap=True, justify="right")
        table.add_column("WHY, UNTIL WHEN", ratio=1, overflow="fold")
        for each in shown:
            style = STYLES[each["level"]]
            calls = f"{each['in_flight']}" + (f"/{each['concurrency_limit']}" if each["concurrency_limit"] else "")
            latency = f"{each['latency_ms']:.0f} ms" if each["latency_ms"] else "-"
            table.add_row(
                Text(printable(each["name"])),  # as it is: rich would make a picture of eu:fire:1
                Text(WORDS[each["level"]], style=style),
                Text(each["circuit"], style=style),
                calls,
                f"{each['failure_rate']:.0%}",
                *([latency] if is_wide else []),
                Text(printable(why(each, now_ms))),
            )
        return table


def why(provider: Json, now_ms: int) -> str:
    """What is to be said of a provider, each with its end; '' of one that is well."""
    return "; ".join(_with_end(each, provider, now_ms) for each in provider["why"])


def _with_end(said: Json, provider: Json, now_ms: int) -> str:
    text, until_ms = said["text"], said["until_ms"]
    if said["what"] == "circuit":
        since = f", for {ago(now_ms, provider['since_ms'])} now" if provider["since_ms"] else ""
        return f"{text}{since}{_next_try(provider, now_ms)}"
    if until_ms is not None:
        return f"{text}, {lasted(max(0, until_ms - now_ms))} left"
    is_for_ever = said["what"] == "override" or (said["what"] == "weight" and provider["weight_override"])
    return f"{text}, for ever" if is_for_ever else text


def _next_try(provider: Json, now_ms: int) -> str:
    if provider["next_try"] == "in":
        return f", next try in {lasted(max(0, provider['next_try_at_ms'] - now_ms))}"
    return {"due": ", next try is due", "after_probe": ", next try after the probe"}.get(provider["next_try"] or "", "")


def _more(left_out: Sequence[Json]) -> str:
    worst = sum(each["level"] != OK for each in left_out)
    return f"and {len(left_out)} more, {worst} of them not ok" if worst else f"and {len(left_out)} more, all ok"


# What happened


def _events(fleet: Json, shown: Sequence[Json], lines: int) -> Text:
    """The newest first, as many as there is room for."""
    if fleet["events_error"]:
        return _line(f"no events: {fleet['events_error']}", "dim")
    names = {each["name"] for each in shown}
    told = [each for each in fleet["events"] if each["provider"] in names][: max(0, lines)]
    return Text("\n", no_wrap=True, overflow="ellipsis").join([_event(each) for each in told])


def _event(entry: Mapping[str, Any]) -> Text:
    at = f"{datetime.fromtimestamp(entry['at_ms'] / 1000):%H:%M:%S}"
    text = f"{at}  {entry['provider']}  {change(entry['event'], entry['by'], entry['details'])}"
    return _line(text, "" if entry["event"] == "transition" else "dim")


def _line(text: str, style: str) -> Text:
    return Text(printable(text), style=style, no_wrap=True, overflow="ellipsis")
