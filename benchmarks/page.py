"""docs/performance.md, from the last results: `python -m benchmarks.page > docs/performance.md`.

A test compares the page with what this prints. After a new run read the sentences below once more, too: they explain
the misses of the run that is in `results/`.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from textwrap import fill
from typing import Any

from benchmarks.__main__ import RESULTS
from benchmarks.measure import Row
from benchmarks.report import TITLES, number

PAGE = """\
<!-- Written by `python -m benchmarks.page > docs/performance.md`. Change that, not this. -->

# Performance

These figures are of commit {commit}, {date}. What was changed since then has not been measured. Attempts choose by
`adaptive`, the default strategy.

- Machine: {machine}
- Server: {server}
- Command: `{command}`

Each figure is a median. The bound is what we set out for; a bold one was missed.
The [report](../benchmarks/results/benchmark.md) has every other figure, and the spreads.
To measure on your machine:

```sh
pip install -e '.[bench]' && python -m benchmarks
```

{table}

![µs per choice, beside LiteLLM's Router](../benchmarks/results/choosing.png)

![µs per guarded call, beside other breakers with Redis](../benchmarks/results/guarding.png)

The peers do other work than this library does. LiteLLM's Router filters deployments, tags and budgets for each choice.
interlock-cb and pybreaker guard one dependency and choose none. The report says what each does that this library does
not.

## What the misses mean

{misses}

## What a fleet takes

A thousand replicas of 20 requests/s each bring one server to its limit: it applied {applied} of their 20,000 outcomes
a second, on {cpu} % of a core. Most of that goes into commands of a single outcome. First raise `push_interval`, which
concerns averages only: transitions are pushed at once whatever it is. The report works out what ten thousand replicas
would take, and when to move to a cluster.

How good the choices are is another question: see [choosing](choosing.md).
"""

SHOWN = (
    "adaptive, 3 providers",
    "adaptive, 100 providers",
    "adaptive, 1000 providers",
    "latency, 3 providers",
    "latency, 1000 providers",
    "weighted, 1000 providers",
    "p2c, 3 providers",
    "p2c, 100 providers",
    "p2c, 1000 providers",
    "with router.attempt(model)",
    "the same, 1000 providers",
    "LiteLLM Router with Redis, latency-based-routing, 3 deployments",
    "LiteLLM Router, simple-shuffle, 100 deployments",
    "LiteLLM Router with Redis, latency-based-routing, 100 deployments",
    "interlock-cb with Redis, a decorated call, on 1 core",
    "pybreaker with Redis, call, on 1 core",
    "purgatory with Redis, async with get_breaker(name), on 1 core",
    "pybreaker with Redis, call, on 2 cores",
    "sent by the thread that makes the requests",
    "in the background, 1,000 requests/s over 3 providers",
    "an outcome, 20,000/s over 3 providers",
    "an outcome, 20,000/s over 3 providers, 1 % failures",
    "an outcome, 1,000/s over 3 providers",
    "an idle replica alone",
    "an idle replica, while others write to 20 providers",
    "asyncio, growth of that p99 lag",
    "2 replica processes, without traffic: p50",
    "20 replica processes, without traffic: p50",
    "20 replica processes, without traffic: p99",
    "floor: 20 bare redis-py subscribers: p50",
    "20 replica processes, 2,000 requests/s in each: p99",
    "full batches of successes: outcomes through one server",
    "full batches of successes: server CPU for an outcome",
    "1,000 replicas: outcomes applied",
    "1,000 replicas: server CPU",
    "1,000 replicas: pushed",
    "1,000 replicas: a transition, until it is at a replica: p50",
    "a provider in a replica, of 500",
    "of which prometheus-client's series, made without a router",
    "growth over the last 60,000 of 100,000 requests",
    "in Redis: the record of a provider",
    "in Redis: a provider and 10 replicas, without the events",
    "what `import redis_router` adds to it",
)
"""The rows of the table; every other one is in the report."""

MISSES = {
    "peers: guarding": "Bounds on how many times longer a guarded call of another library takes. pybreaker pays for"
    " round trips, and a round trip is cheap where the server shares the caller's core. interlock-cb asks Redis once a"
    " second and keeps its counts in the process, so it pays for none.",
    "background": "A wake-up on a cold core and redis-py's pipeline set the floor. An outcome costs less, the more of"
    " them travel together. Each one says how many calls were under way, which is what limits are learned from.",
    "propagation": "The 20 replicas and the process that trips the circuit share two cores. Bare"
    " redis-py subscribers take {floor} ms here. With 2 replicas it is {two} ms.",
    "server": "From each outcome the script learns how fast the provider answers and how many calls it takes at once."
    " Before it learned that, an outcome took 0.97 µs.",
    "memory": "Most of a provider ({series} KB) are prometheus-client's series. What grew were"
    " providers that were called for the first time, some 200 bytes each. The benchmark calls each of them first now.",
}
"""Why the bounds of a part were missed."""


def page(said: Mapping[str, Any]) -> str:
    """The page, of what `benchmark.json` holds. Raises KeyError where a figure of the table was not measured."""
    rows = [Row(**each) for each in said["rows"]]
    found = {each.what: each for each in rows}
    return PAGE.format(
        **{name: said[name] for name in ("commit", "date", "machine", "server", "command")},
        table="\n".join(_table([found[what] for what in SHOWN])),
        misses="\n".join(_misses(rows, found)).rstrip(),
        applied=number(found["1,000 replicas: outcomes applied"].median),
        cpu=number(found["1,000 replicas: server CPU"].median),
    )


def _table(rows: Sequence[Row]) -> Iterator[str]:
    yield "| | what | median | bound |"
    yield "|---|---|---|---|"
    before = ""
    for each in rows:
        title = _title(each.part) if each.part != before else ""
        before = each.part
        bound = f"**{each.target}**" if each.met is False else each.target
        yield f"| {title} | {each.what} | {_figure(each)} | {bound} |"


def _misses(rows: Sequence[Row], found: Mapping[str, Row]) -> Iterator[str]:
    figures = {
        "floor": number(found["floor: 20 bare redis-py subscribers: p50"].median),
        "two": number(found["2 replica processes, without traffic: p50"].median),
        "series": number(found["of which prometheus-client's series, made without a router"].median),
    }
    for part in dict.fromkeys(each.part for each in rows if each.met is False):
        yield fill(f"**{_title(part)}.** {MISSES[part].format_map(figures)}", 120, break_on_hyphens=False)
        yield ""
        for each in rows:
            if each.part == part and each.met is False:
                yield f"- {each.what}: {_figure(each)}, bound {each.target}"
        yield ""


def _title(part: str) -> str:
    return TITLES[part].partition(":")[0]


def _figure(row: Row) -> str:
    return f"{number(row.median)} {row.unit}".rstrip()


if __name__ == "__main__":
    sys.stdout.write(page(json.loads((RESULTS / "benchmark.json").read_text())))
