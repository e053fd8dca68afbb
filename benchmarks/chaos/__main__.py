"""The command: run the soak, print the figures and the verdict. Exit code 0 only if every promise was kept."""

import argparse
import random
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.chaos import truth, verdict
from benchmarks.chaos.fleet import Fleet, faults
from benchmarks.chaos.replica import MUTATIONS
from benchmarks.servers import eventually, sentinels


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--faults", nargs="+", choices=sorted(faults()), default=sorted(faults()))
    parser.add_argument("--mutate", choices=MUTATIONS, default="none", help="break the scripts on purpose")
    arguments = parser.parse_args()
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
            print(f"{time.strftime('%H:%M:%S')} {kind}", flush=True)
            fleet.harm(kind)
            names |= set(fleet.replicas)
        lines, seen = finish(fleet, names)
        ailing = fleet.ailing()
    done = {line["kind"] for line in lines if line["what"] == "fault"}
    if missing := set(arguments.faults) - done:
        print(f"too short for: {', '.join(sorted(missing))}")
    for label, value in verdict.figures(lines):
        print(f"{label:42} {value}")
    wrong = {**verdict.broken(lines, fleet.ledgers, fleet.streams, seen), "every process lives": ailing}
    print()
    for promise, sentences in wrong.items():
        print(f"{'BROKEN' if sentences else 'kept  '} {promise}")
        for sentence in sentences[:3]:
            print(f"         {sentence}")
        if len(sentences) > 3:
            print(f"         and {len(sentences) - 3} more")
    return 1 if any(wrong.values()) else 0


def finish(fleet: Fleet, names: set[str]) -> tuple[list[dict[str, Any]], dict[str, list[Any]]]:
    """No more traffic; wait until all is calm, then ask everybody for the last word."""
    fleet.tell("quiet")
    eventually(lambda: all(told(fleet, name, "quiet") for name in fleet.replicas), "traffic ends", 30)
    fleet.wait_served()
    eventually(lambda: calm(fleet), "every circuit has come to rest", 60)
    fleet.tell("report")
    eventually(lambda: all(told(fleet, name, "report") for name in fleet.replicas), "every replica reports", 60)
    fleet.keep_history()
    lines = [*fleet.lines, *(line for name in names for line in fleet.read(name))]
    return lines, in_redis(fleet)


def told(fleet: Fleet, name: str, what: str) -> bool:
    return any(line["what"] == what for line in fleet.read(name))


def in_redis(fleet: Fleet) -> dict[str, list[Any]]:
    records = fleet.store().snapshot().records
    return {name: [str(record.circuit_state), record.generation] for name, record in records.items()}


def calm(fleet: Fleet) -> bool:
    """No circuit waits for its time: without traffic an open one becomes half-open, and stays so."""
    seen = in_redis(fleet)
    return set(seen) == set(truth.PROVIDERS) and all(state != "open" for state, _ in seen.values())


if __name__ == "__main__":
    sys.exit(main())
