"""An operator's rehearsal: `python -m benchmarks.rehearsal`, on the demo's fleet of real processes.

A provider becomes slow. It is found, drained with a reason, waited for, mended, put back, and found in the history;
once on the page in a real browser, once by commands, once by the JSON API. Each step ends when it can be seen, and is
timed. An operator reads and thinks besides.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Page, sync_playwright

from redis_router.demo.play import PROVIDERS, REPLICAS, WORKERS, Fleet, Load
from redis_router.demo.story import Story
from redis_router.testing.server import EmbeddedServer, free_port
from tests.support import eventually
from tests.support.browser import browser

RESULTS = Path(__file__).parent / "results"
SICK, SLOW, QUICK = "alpha", 1.5, PROVIDERS["alpha"]
IS_SLOW_MS = 400.0
"""Above this it is not mended yet."""
REASON = "slow since noon"
PATIENCE = 60.0
STEPS = ("slow, and seen", "drained with a reason", "no call under way", "back, and called again", "in the history")
TOKEN = secrets.token_hex(16)


def until(condition: Callable[[], Any], what: str) -> Any:
    """Its value, once it is true. Raises AssertionError."""
    return eventually(condition, what, PATIENCE)


class ByPage:
    """What a person sees and clicks."""

    name = "page"

    def __init__(self, page: Page, url: str, redis: str) -> None:
        self._page = page
        page.goto(url)
        page.get_by_role("button", name="Log in to act").click()
        page.get_by_label("Token").fill(TOKEN)
        page.locator("#login-form button[type=submit]").click()
        page.locator("#log-out").wait_for()

    def _cells(self) -> list[str]:
        return self._page.locator("#rows tr", has_text=SICK).locator("td, th").all_inner_texts()

    def latency_ms(self) -> float:
        """As its row shows it."""
        shown = self._cells()[3].split()[0]
        return float(shown) if shown.replace(".", "").isdigit() else 0.0

    def is_slow(self) -> bool:
        """Does its row say so?"""
        return "slow: " in self._cells()[2]

    def calls(self) -> int:
        """The same."""
        return int(self._cells()[5].split()[0].partition("/")[0])

    def _act(self, action: str) -> None:
        self._page.get_by_role("button", name=SICK, exact=True).first.click()
        self._page.locator("#reason").fill(REASON)
        self._page.locator("#by").fill(self.name)
        self._page.locator(f"#act [data-action={action}]").click()
        until(lambda: self._page.locator("#done").inner_text(), "that it is done")

    def drain(self) -> None:
        """Click, reason, Drain."""
        self._act("drain")
        self._page.locator("#drill-close").click()

    def ready(self) -> None:
        """Click, Ready."""
        self._act("ready")

    def history(self) -> str:
        """Of the provider, as its dialog shows it."""
        return self._page.locator("#drill-events").inner_text()


class ByCommand:
    """`redis-router …`, and what it prints."""

    name = "command"

    def __init__(self, page: Page, url: str, redis: str) -> None:
        self._redis = redis

    def _run(self, *words: str) -> str:
        command = [sys.executable, "-m", "redis_router", *words, "--redis", self._redis]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    def _row(self) -> dict[str, Any]:
        said = json.loads(self._run("status", "--json"))
        row: dict[str, Any] = said["providers"][SICK]
        return row

    def latency_ms(self) -> float:
        """As `status` has it."""
        return float(self._row()["latency_ms"])

    def is_slow(self) -> bool:
        """As `status alpha` has it."""
        return ", usually " in self._run("status", SICK)

    def calls(self) -> int:
        """The same."""
        return int(self._row()["in_flight"])

    def drain(self) -> None:
        """With `--wait`: it comes back when no call is under way."""
        self._run("drain", SICK, "--for", "30m", "--reason", REASON, "--by", self.name, "--wait")

    def ready(self) -> None:
        """`ready`."""
        self._run("ready", SICK, "--reason", REASON, "--by", self.name)

    def history(self) -> str:
        """`events`."""
        return self._run("events", SICK)


class ByJson:
    """The API, as a script would ask it."""

    name = "json"

    def __init__(self, page: Page, url: str, redis: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {TOKEN}"}, trust_env=False)

    def _get(self, path: str) -> dict[str, Any]:
        answer: dict[str, Any] = self._http.get(path).raise_for_status().json()
        return answer

    def latency_ms(self) -> float:
        """Of `providers/alpha`."""
        return float(self._get(f"api/v1/providers/{SICK}")["latency_ms"] or 0.0)

    def is_slow(self) -> bool:
        """As its `why` has it."""
        return any(each["what"] == "slow" for each in self._get(f"api/v1/providers/{SICK}")["why"])

    def calls(self) -> int:
        """The same."""
        return int(self._get(f"api/v1/providers/{SICK}")["in_flight"])

    def _act(self, action: str) -> None:
        said = {"provider": SICK, "action": action, "reason": REASON, "by": self.name}
        self._http.post("api/v1/actions", json=said).raise_for_status()

    def drain(self) -> None:
        """A POST."""
        self._act("drain")

    def ready(self) -> None:
        """A POST."""
        self._act("ready")

    def history(self) -> str:
        """`events`."""
        return json.dumps(self._get(f"api/v1/events?provider={SICK}"))


WAYS = (ByPage, ByCommand, ByJson)


def rehearse(way: Any, patient: str) -> list[float]:
    """Seconds for each of the steps."""
    seconds, at = [], time.monotonic()

    def lap() -> None:
        nonlocal at
        seconds.append(time.monotonic() - at)
        at = time.monotonic()

    def answers_after(latency: float) -> None:
        httpx.post(f"{patient}/admin?latency={latency}", trust_env=False).raise_for_status()

    until(lambda: 0 < way.latency_ms() < IS_SLOW_MS and not way.is_slow(), "a provider that is well")
    at = time.monotonic()
    answers_after(SLOW)
    until(way.is_slow, "that it is slow")
    lap()
    way.drain()
    lap()
    until(lambda: way.calls() == 0, "that no call is under way")
    lap()
    answers_after(QUICK)
    at = time.monotonic()
    way.ready()
    until(lambda: way.calls() > 0 or way.latency_ms() < IS_SLOW_MS, "that it is called again")
    lap()
    until(lambda: (said := way.history()) and REASON in said and way.name in said, "the reason in the history")
    lap()
    return seconds


def main(argv: Sequence[str] | None = None) -> None:
    """Play all three, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for rehearsal.md")
    arguments = parser.parse_args(argv)
    descriptor, log = tempfile.mkstemp(prefix="redis-router-rehearsal-", suffix=".log")
    os.close(descriptor)
    with ExitStack() as stack:
        server = stack.enter_context(EmbeddedServer())
        fleet = Fleet(stack, log)
        patient, url = start(stack, fleet, server.url)
        chromium = browser().launch(stack.enter_context(sync_playwright()))
        taken = {way.name: rehearse(way(chromium.new_page(), url, server.url), patient) for way in WAYS}
        chromium.close()
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "rehearsal.md").write_text(table(taken))
    print(table(taken))


def start(stack: ExitStack, fleet: Fleet, redis: str) -> tuple[str, str]:
    """The processes, and requests to the gateways; the URL of the provider that becomes slow, and of the page."""
    for name, latency in PROVIDERS.items():
        fleet.start(name, "demo.provider", "--name", name, "--latency", str(latency))
    providers = {name: f"http://127.0.0.1:{port}" for name, port in fleet.ready(list(PROVIDERS)).items()}
    named = [part for name in PROVIDERS for part in ("--provider", f"{name}={providers[name]}")]
    for name in REPLICAS:
        fleet.start(name, "demo.gateway", "--redis", redis, "--replica", name, "--open-timeout", "10", *named)
    gateways = [f"http://127.0.0.1:{port}" for port in fleet.ready(REPLICAS).values()]
    port = free_port()
    for name, own in zip(WORKERS, (str(port), "0"), strict=True):
        words = ["--redis", redis, "--name", name, "--metrics-port", own, "--page-token-env", "PAGE_TOKEN"]
        fleet.start(name, "__main__", "worker", *words, PAGE_TOKEN=TOKEN)
    load = Load(gateways, Story(SICK, 3, 15.0, REPLICAS))
    load.start()
    stack.callback(load.stop)
    url = f"http://127.0.0.1:{port}/"
    until(lambda: _is_served(url), "the page")
    return providers[SICK], url


def _is_served(url: str) -> bool:
    try:
        return httpx.get(f"{url}api/v1/fleet", trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def table(taken: dict[str, list[float]]) -> str:
    """Markdown, seconds."""
    rows = [f"| Seconds | {' | '.join(taken)} |", f"|---|{'---|' * len(taken)}"]
    for number, step in enumerate(STEPS):
        rows.append(f"| {step} | {' | '.join(f'{seconds[number]:.1f}' for seconds in taken.values())} |")
    rows.append(f"| together | {' | '.join(f'{sum(seconds):.1f}' for seconds in taken.values())} |")
    head = (
        "# A rehearsal\n\n`python -m benchmarks.rehearsal`: three gateways under load, two workers and three providers"
        f" as processes; {SICK} answers after {SLOW:g} s instead of {QUICK:g} s.\n\n"
    )
    return head + "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
