"""How the demo looks: a live table in a terminal, plain lines elsewhere."""

import sys
import time
from collections import deque
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from redis_router.demo.story import Story

MIN_NEWS = 6
"""Lines; where there is room for fewer, the longer hints are left out."""
_STYLES = {"closed": "green", "open": "bold red", "half_open": "yellow"}


class Screen:
    """Shows a story while it happens."""

    def __init__(self, story: Story, providers: list[str], plain: bool, hints: list[str]) -> None:
        self._story = story
        self._providers = providers
        self._hints = hints
        self._began = time.time()
        self._console = Console()
        self._news: deque[str] = deque(maxlen=50)
        self._live = None if plain else Live(console=self._console, refresh_per_second=8, transient=False)
        self._view_at = 0.0
        self.leader = "none yet"

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        else:
            print("\n".join(self._hints), flush=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def news(self, text: str, t: float | None = None) -> None:
        """Something happened."""
        line = f"{(time.time() if t is None else t) - self._began:6.2f} s  {text}"
        self._news.append(line)
        if self._live is None:
            print(line, flush=True)

    def draw(self) -> None:
        """Bring the picture up to date; plain output gets a line of states every two seconds."""
        if self._live is not None:
            self._live.update(self._picture())
        elif time.time() - self._view_at >= 2.0:
            self._view_at = time.time()
            requests = sum(view["requests"] for view in self._story.views.values())
            failures = sum(view["failures"] for view in self._story.views.values())
            for who, states in self._agreeing():
                self.news(f"{who} {states}  (fleet: requests={requests} user-visible failures={failures})")

    def _agreeing(self) -> list[tuple[str, str]]:
        """Who sees what, a line for each different view."""
        groups: dict[str, list[str]] = {}
        for name, view in sorted(self._story.views.items()):
            seen = "  ".join(f"{provider}={view['states'].get(provider, '?')}" for provider in self._providers)
            groups.setdefault(seen, []).append(name)
        everybody = len(groups) == 1 and len(self._story.views) == len(self._story.replicas)
        who = {seen: f"{', '.join(names)} {'sees' if len(names) == 1 else 'see'}" for seen, names in groups.items()}
        return [("every replica sees" if everybody else who[seen], seen) for seen in groups]

    def _picture(self) -> Group:
        """The table, then as much as fits below it: on a small terminal the news come first, then the hints."""
        table = Table(
            title=f"{time.time() - self._began:.0f} s   leader: {self.leader}",
            title_justify="left",
            box=box.SIMPLE_HEAD,
        )
        for heading in ("replica", *self._providers, "requests", "users saw fail", "Redis"):
            table.add_column(heading, no_wrap=True)
        for name, view in sorted(self._story.views.items()):
            states = [
                Text(view["states"].get(p, "?"), style=_STYLES.get(view["states"].get(p, ""), ""))
                for p in self._providers
            ]
            up = Text("up", style="green") if view["redis_up"] else Text("down", style="red")
            table.add_row(name, *states, str(view["requests"]), str(view["failures"]), up)
        left = self._console.size.height - len(self._console.render_lines(table, pad=False)) - 2
        hints = ["", *self._hints] if left >= len(self._hints) + MIN_NEWS else ["", *self._hints[:2]]
        news = list(self._news)[-max(1, left - len(hints)) :]
        return Group(table, _lines(news), _lines(hints, "dim"))

    def close_with(self, figures: list[tuple[str, str]], wrong: list[str], records: str) -> None:
        """The summary, measured from the run."""
        width = max(len(label) for label, _ in figures)
        lines = [
            "",
            "What this run measured",
            *(f"  {label.ljust(width)}  {value}" for label, value in figures),
            "",
            records,
            "",
        ]
        lines += [f"NOT as it should be: {text}" for text in wrong] or ["All went as it should."]
        print("\n".join(lines), flush=True)
        sys.stdout.flush()


def _lines(lines: list[str], style: str = "") -> Text:
    """A line of the terminal each: what is too long is cut."""
    return Text("\n".join(lines), style=style, no_wrap=True, overflow="ellipsis")
