"""The command: run the soak, print the figures and the verdict. Exit code 0 only if every promise was kept."""

import argparse
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.chaos import figures, ledger, links, records, truth, verdict
from benchmarks.chaos.fleet import SHUNNED, Fleet, within
from redis_router.store.scripts import load
from tests.support.servers import sentinels

FAULTS = {**links.FAULTS, **records.FAULTS}
"""By the names that `--faults` takes; the modules share one deck."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--faults", nargs="+", choices=sorted(FAULTS), default=sorted(FAULTS))
    parser.add_argument("--mutate", choices=ledger.MUTATIONS, default="none", help="break the scripts on purpose")
    arguments = parser.parse_args()
    for name in ("record", "claim"):
        ledger.broken_text(name, load.__wrapped__(name).text, arguments.mutate)  # says so at once where it does not fit
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, lambda number, _: sys.exit(128 + number))  # through the stack: every process is ended
    print(f"seed {arguments.seed}, {arguments.minutes:g} min", flush=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="redis-router-chaos-")))
        servers = stack.enter_context(sentinels())
        fleet = Fleet(servers, folder, arguments.seed, arguments.mutate, stack)
        names = set(fleet.replicas)
        deadline = time.monotonic() + arguments.minutes * 60
        plan = random.Random(arguments.seed)
        deck: list[str] = []
        while time.monotonic() < deadline:
            time.sleep(plan.uniform(0.5, 2.0))
            if not deck:  # every kind once, in another order each time
                deck = plan.sample(arguments.faults, len(arguments.faults))
            kind = deck.pop()
            print(f"{time.strftime('%H:%M:%S')} {kind}", end=" ", flush=True)
            fleet.harm(kind, FAULTS[kind])
            print(described(fleet.lines[-1]), flush=True)
            names |= set(fleet.replicas)
        lines, seen, restless = finish(fleet, names)
        ailing = fleet.ailing()
    done = {line["kind"] for line in lines if line["what"] == "fault"}
    if missing := set(arguments.faults) - done:
        print(f"too short for: {', '.join(sorted(missing))}")
    if idle := {line["kind"] for line in lines if line.get("missed")}:
        print(f"found nothing to hit: {', '.join(sorted(idle))}")
    for label, value in figures.figures(lines):
        print(f"{label:42} {value}")
    wrong = {
        **verdict.broken(lines, fleet.ledgers, fleet.streams, seen),
        "the fleet comes to rest": restless,
        "every process lives": ailing,
    }
    print()
    for promise, sentences in wrong.items():
        print(f"{'BROKEN' if sentences else 'kept  '} {promise}")
        for sentence in sentences[:5]:
            print(f"         {sentence}")
        if len(sentences) > 5:
            print(f"         and {len(sentences) - 5} more")
    return 1 if any(wrong.values()) else 0


def described(fault: dict[str, Any]) -> str:
    """What a fault was about, and what came of it: for people who look for the moment in which it went wrong."""
    known = ("t", "what", "kind", "replica", "until", "failed_over", "gone", "served", "mended")
    facts = ", ".join(f"{name} {value}" for name, value in fault.items() if name not in known)
    return f"{fault['until'] - fault['t']:.1f} s {facts}"


def finish(fleet: Fleet, names: set[str]) -> tuple[list[dict[str, Any]], dict[str, list[Any]], list[str]]:
    """No more traffic; wait until all is calm, then ask everybody for the last word; and what did not come true."""
    restless: list[str] = []

    def wait(seconds: float, what: str, condition: Callable[[], object]) -> None:
        if within(seconds, condition) is None:
            restless.append(f"{what} within {seconds:g} s: not so; Redis has {in_redis(fleet)}")

    fleet.tell("free")
    fleet.store().update(SHUNNED, {"min_reporters": "0"})  # no replica keeps a view of its own
    fleet.tell("quiet")
    wait(30, "traffic ends", lambda: all(told(fleet, name, "quiet") for name in fleet.replicas))
    fleet.wait_served()
    fleet.note_failover()
    wait(60, "every circuit comes to rest", lambda: calm(fleet))
    fleet.tell("report")
    wait(60, "every replica reports", lambda: all(told(fleet, name, "report") for name in fleet.replicas))
    fleet.keep_history()
    lines = [*fleet.lines, *(line for name in names for line in fleet.read(name))]
    return lines, in_redis(fleet), restless


def told(fleet: Fleet, name: str, what: str) -> bool:
    return any(line["what"] == what for line in reversed(fleet.read(name)))


def in_redis(fleet: Fleet) -> dict[str, list[Any]]:
    records = fleet.store().snapshot(truth.PROVIDERS).records
    return {name: [str(record.circuit_state), record.generation] for name, record in records.items()}


def calm(fleet: Fleet) -> bool:
    """No circuit waits for its time: without traffic an open one becomes half-open, and stays so."""
    seen = in_redis(fleet)
    known = set(fleet.store().specs()) == set(seen) == set(truth.PROVIDERS)
    return known and all(state != "open" for state, _ in seen.values())


if __name__ == "__main__":
    sys.exit(main())
