"""What the engine costs beside the requests: CPU for each outcome, when idle, and the lag of an event loop."""

import asyncio
import subprocess
import sys
import time
from collections.abc import Sequence

from benchmarks.hotpath import router
from benchmarks.measure import Row, background_cpu, paced, quantile, row

LOADS = {
    "20000": ("an outcome, 20,000/s over 3 providers", 20_000, 3, 0),
    "failures": ("an outcome, 20,000/s over 3 providers, 1 % failures", 20_000, 3, 100),
    "providers": ("an outcome, 20,000/s over 100 providers", 20_000, 100, 0),
    "1000": ("an outcome, 1,000/s over 3 providers", 1_000, 3, 0),
}
"""Outcomes a second, providers, and every which outcome is a failure."""
KINDS = (*LOADS, "idle", "watching", "lag")


def run(url: str, rounds: int, seconds: float) -> list[Row]:
    """Each sample in a process of its own, so that nothing is warm that would not be."""
    samples: dict[str, list[float]] = {}
    for number in range(rounds):
        for kind in KINDS:
            command = [
                sys.executable,
                "-m",
                "benchmarks.background",
                url,
                f"background-{kind}-{number}",
                kind,
                str(seconds),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            for line in done.stdout.splitlines():
                value, _, what = line.partition(" ")
                samples.setdefault(what, []).append(float(value))
    bounds = {
        **{name: ("µs of CPU", 3.0 if kind == "20000" else None) for kind, (name, *_) in LOADS.items()},
        "an idle replica alone": ("% of a core", 0.3),
        "an idle replica, while others write to 20 providers": ("% of a core", None),
        "asyncio, p99 lag of a busy loop, engine idle": ("ms", None),
        "asyncio, p99 lag of a busy loop, with 5,000 outcomes/s": ("ms", None),
        "asyncio, growth of that p99 lag": ("ms", 1.0),
    }
    return [row("background", what, unit, samples[what], at_most=most) for what, (unit, most) in bounds.items()]


def per_outcome(url: str, namespace: str, rate: int, providers: int, failing: int, seconds: float) -> float:
    """Microseconds of CPU, off the recording thread, for each outcome."""
    names = [f"p{number}" for number in range(providers)]

    def record(n: int) -> None:
        success = not failing or n % failing > 0
        made.record_result(names[n % providers], success=success, latency_ms=100.0 + n % 100 / 7)

    with router(url, namespace, providers) as made:
        before = background_cpu()
        done = paced(rate, seconds, record)
        assert made.flush(30.0)
        return (background_cpu() - before) / done * 1e6


def idle(url: str, namespace: str, seconds: float) -> float:
    """Per cent of a core."""
    with router(url, namespace, 20):
        time.sleep(0.5)
        before = time.process_time()
        time.sleep(seconds)
        return (time.process_time() - before) / seconds * 100


def watching(url: str, namespace: str, seconds: float) -> float:
    """The same, while another process writes to the same 20 providers, so that their averages are pushed."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.background", url, namespace, "write", str(seconds + 2)]
    )
    try:
        return idle(url, namespace, seconds)
    finally:
        writer.wait()


def write(url: str, namespace: str, seconds: float) -> None:
    with router(url, namespace, 20) as made:
        paced(400, seconds, lambda n: made.record_result(f"p{n % 20}", success=True, latency_ms=100.0))


def lag(url: str, namespace: str, seconds: float) -> tuple[float, float, float]:
    """p99 in ms of how late a busy loop serves a timer: engine idle, with 5,000 outcomes/s, and the difference.

    Windows alternate. The requests are made in both; in the first they record nothing.
    """
    late: dict[bool, list[float]] = {False: [], True: []}

    async def window(recorded: bool) -> None:
        end = time.monotonic() + seconds / 4
        done, began = 0, time.monotonic()

        async def busy() -> None:
            nonlocal done
            while time.monotonic() < end:
                while done < (time.monotonic() - began) * 5_000:
                    done += 1
                    if recorded:
                        made.record_result(f"p{done % 3}", success=True, latency_ms=10.0)
                sum(range(2_000))
                await asyncio.sleep(0)

        async def watch() -> None:
            while time.monotonic() < end:
                due = time.monotonic() + 0.005
                await asyncio.sleep(0.005)
                late[recorded].append((time.monotonic() - due) * 1000)

        await asyncio.gather(busy(), watch())
        await asyncio.to_thread(made.flush)

    async def windows() -> None:
        for recorded in (False, True, True, False):
            await window(recorded)

    with router(url, namespace, 3) as made:
        asyncio.run(windows())
    without, with_engine = (quantile(late[recorded], 0.99) for recorded in (False, True))
    return without, with_engine, with_engine - without


def main(arguments: Sequence[str]) -> None:
    url, namespace, kind, seconds = arguments
    if kind == "idle":
        print(idle(url, namespace, float(seconds)), "an idle replica alone")
    elif kind == "watching":
        print(watching(url, namespace, float(seconds)), "an idle replica, while others write to 20 providers")
    elif kind == "write":
        write(url, namespace, float(seconds))
    elif kind == "lag":
        names = ("engine idle", "with 5,000 outcomes/s")
        *both, growth = lag(url, namespace, float(seconds))
        for value, name in zip(both, names, strict=True):
            print(value, f"asyncio, p99 lag of a busy loop, {name}")
        print(growth, "asyncio, growth of that p99 lag")
    else:
        name, *load = LOADS[kind]
        print(per_outcome(url, namespace, *load, float(seconds)), name)


if __name__ == "__main__":
    main(sys.argv[1:])
