"""What every part of the benchmark shares: rows, interleaved timings, CPU of processes and threads."""

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from timeit import Timer
from typing import Any


@dataclass(frozen=True)
class Row:
    """One measured figure: the median, the quartiles, and the bound that was set for it, if any.

    `met` says whether the median keeps the bound; None where there is none.
    """

    part: str
    what: str
    unit: str
    median: float
    low: float
    high: float
    samples: int
    target: str = ""
    met: bool | None = None
    note: str = ""


def row(
    part: str,
    what: str,
    unit: str,
    values: Sequence[float],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    note: str = "",
) -> Row:
    """The row of these samples, with its bound."""
    median = statistics.median(values)
    low, high = quantile(values, 0.25), quantile(values, 0.75)
    target, met = "", None
    if at_most is not None:
        target, met = f"≤ {at_most:g}", median <= at_most
    elif at_least is not None:
        target, met = f"≥ {at_least:g}", median >= at_least
    return Row(part, what, unit, median, low, high, len(values), target, met, note)


def quantile(values: Iterable[float], share: float) -> float:
    """By linear interpolation between the two nearest samples."""
    ordered = sorted(values)
    at = (len(ordered) - 1) * share
    below = int(at)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (at - below)


@dataclass(frozen=True)
class Case:
    """A statement to time: `calls` of it make one sample, `after` runs untimed behind each.

    Where the statement itself makes several calls, `each` says how many.
    """

    name: str
    statement: str
    names: dict[str, Any]
    calls: int
    after: Callable[[], object] = lambda: None
    each: int = 1


def interleaved(cases: Sequence[Case], rounds: int) -> dict[str, list[float]]:
    """Microseconds per call of each case, one sample a round, in turn: what disturbs the machine disturbs all."""
    # timeit alone would switch the garbage collector off, which a gateway does not
    timers = [(case, Timer(case.statement, "import gc; gc.enable()", globals=case.names)) for case in cases]
    for case, timer in timers:
        timer.timeit(max(1, case.calls // 10))
        case.after()
    samples: dict[str, list[float]] = {case.name: [] for case in cases}
    for _ in range(rounds):
        for case, timer in timers:
            samples[case.name].append(timer.timeit(case.calls) / case.calls / case.each * 1e6)
            case.after()
    return samples


def background_cpu() -> float:
    """CPU seconds of this process so far that were not spent on the calling thread."""
    return time.process_time() - time.thread_time()


def server_cpu(client: Any) -> float:
    """CPU seconds that a Redis server has used."""
    said = client.info("cpu")
    return float(said["used_cpu_user"]) + float(said["used_cpu_sys"])


def paced(rate: float, seconds: float, act: Callable[[int], object]) -> int:
    """Call `act(n)` `rate` times a second, in small bursts every 5 ms; returns how many calls there were."""
    began, done = time.monotonic(), 0
    while (passed := time.monotonic() - began) < seconds:
        due = int(passed * rate)
        while done < due:
            act(done)
            done += 1
        time.sleep(0.005)
    return done


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """How many times the one is the other, round by round."""
    return [one / other for one, other in zip(above, below, strict=True)]


@contextmanager
def on_cores(cores: Collection[int], *processes: int) -> Iterator[None]:
    """Keep this process and others on these cores for a while: where a client and its server run decides how long a
    round trip takes."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    try:
        for process in (0, *processes):
            os.sched_setaffinity(process, cores)
        yield
    finally:
        for process in (0, *processes):
            os.sched_setaffinity(process, before)


def not_measured(part: str, why: str) -> Row:
    """In place of a part that failed."""
    return Row(part, f"not measured: {why}", "", math.nan, math.nan, math.nan, 0, "", False)


def machine() -> str:
    """Cores, processor and Python, for the heading of a report."""
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.exists() else []
    model = next((line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{os.cpu_count()} cores, {model}, {platform.system()}, {python}"
