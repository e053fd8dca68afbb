"""How long until every replica knows: from the return of the tripping `record_result` to the new table in each process.

Each trip opens the circuit of another provider. Replicas note when their table was replaced, on the machine's monotonic
clock, which all processes share. Beside it, the floor: bare redis-py subscribers in as many processes, from just before
a PUBLISH of the same size until the message is read.
"""

import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import redis
from prometheus_client import CollectorRegistry

from benchmarks.measure import Row, paced, quantile, row
from redis_router import CircuitConfig, Provider, Router

TRIP = CircuitConfig(consecutive_failure_limit=1, open_timeout=3600.0)


def run(url: str, rounds: int, trips: int, fleets: Sequence[tuple[int, int]]) -> list[Row]:
    """p50 and p99 over all replicas and trips, for so many replicas with so many requests/s in each; round by round."""
    kinds: dict[str, list[list[float]]] = {}
    for number in range(rounds):
        for replicas, rate in fleets:
            load = f"{rate:,} requests/s in each" if rate else "without traffic"
            found = measure(url, f"propagation-{replicas}-{rate}-{number}", replicas, trips, rate)
            kinds.setdefault(f"{replicas} replica processes, {load}", []).append(found)
            if not rate:
                found = floor(url, replicas, trips)
                kinds.setdefault(f"floor: {replicas} bare redis-py subscribers", []).append(found)
    rows = []
    for kind, samples in kinds.items():
        bounds = {0.5: 1.0, 0.99: 5.0} if kind.startswith("20 ") and "without" in kind else {}
        bounds = {0.99: 10.0} if kind.startswith("20 ") and not bounds else bounds
        for share in (0.5, 0.99):
            values = [quantile(delays, share) for delays in samples]
            note = f"each of {len(samples[0]):,} delays"
            rows.append(
                row("propagation", f"{kind}: p{share * 100:.0f}", "ms", values, at_most=bounds.get(share), note=note)
            )
    return rows


def measure(url: str, namespace: str, replicas: int, trips: int, rate: int) -> list[float]:
    """Milliseconds, one for each trip and replica."""
    names = [f"p{number}" for number in range(trips)]
    with ExitStack() as stack:
        others = [
            stack.enter_context(process_of("replica", url, namespace, str(trips), str(rate))) for _ in range(replicas)
        ]
        router = Router(url, namespace=namespace, circuit=TRIP, registry=CollectorRegistry())
        for name in names:
            router.register_provider(Provider(name, ("m",)))
        router.register_provider(Provider("traffic", ("t",)))
        stack.enter_context(router)
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
        if rate:  # the one that trips has traffic, too
            threading.Thread(target=paced, args=(float(rate), 3600.0, traffic(router)), daemon=True).start()
        time.sleep(1.0)  # the traffic comes into its stride
        recorded = {}
        for name in names:
            router.record_result(name, success=False, latency_ms=1.0)
            recorded[name] = time.monotonic()
            time.sleep(0.05)
        router.flush()
        time.sleep(0.5)
        delays = []
        for other in others:
            said, _ = other.communicate("end\n")
            seen = json.loads(said.splitlines()[-1])
            assert set(seen) == set(names), f"a replica missed {set(names) - set(seen)}"
            delays += [(seen[name] - recorded[name]) * 1000 for name in names]
    return delays


def traffic(router: Router) -> Callable[[int], None]:
    """A request to a provider of its own."""

    def request(_: int) -> None:
        with router.attempt("t"):
            pass

    return request


def floor(url: str, subscribers: int, messages: int) -> list[float]:
    """Milliseconds until bare redis-py subscribers have read a message."""
    with ExitStack() as stack:
        client = stack.enter_context(redis.Redis.from_url(url))
        others = [stack.enter_context(process_of("bare", url, "floor", str(messages))) for _ in range(subscribers)]
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == "ready\n"
        client.ping()  # connect beforehand
        time.sleep(1.0)
        sent = {}
        for number in range(messages):
            sent[str(number)] = time.monotonic()
            client.publish("floor", f"{number} {'x' * 800}")
            time.sleep(0.05)
        said = [json.loads(other.communicate("end\n")[0]) for other in others]
    return [(seen[name] - sent[name]) * 1000 for seen in said for name in sent]


@contextmanager
def process_of(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A replica, or a bare subscriber, as a process."""
    command = [sys.executable, "-m", "benchmarks.propagation", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def main(url: str, namespace: str, trips: str, rate: str) -> None:
    """The replica."""
    logging.getLogger("redis_router").setLevel(logging.ERROR)
    seen: dict[str, float] = {}
    router = Router(url, namespace=namespace, circuit=TRIP, registry=CollectorRegistry())
    settle = router._view._settle

    def watched() -> None:
        names = [health.name for health in router._view._unsettled.values() if health.circuit_state == "open"]
        settle()
        now = time.monotonic()
        for name in names:
            seen.setdefault(name, now)  # an open circuit's record may change again

    router._view._settle = watched  # type: ignore[method-assign]
    for number in range(int(trips)):
        router.register_provider(Provider(f"p{number}", ("m",)))
    router.register_provider(Provider("traffic", ("t",)))

    with router:
        if int(rate):
            threading.Thread(target=paced, args=(float(rate), 3600.0, traffic(router)), daemon=True).start()
        print("ready", flush=True)
        sys.stdin.readline()
        print(json.dumps(seen), flush=True)


def bare(url: str, channel: str, messages: str) -> None:
    """A subscriber without the library."""
    seen: dict[str, float] = {}
    with redis.Redis.from_url(url) as client, client.pubsub() as pubsub:
        pubsub.subscribe(channel)
        pubsub.get_message(timeout=5.0)
        print("ready", flush=True)
        while len(seen) < int(messages):
            message = pubsub.get_message(timeout=0.25)
            if message is not None and message["type"] == "message":
                seen[message["data"].partition(b" ")[0].decode()] = time.monotonic()
        sys.stdin.readline()  # whoever ends now takes the cores from those who have yet to read
    print(json.dumps(seen), flush=True)


if __name__ == "__main__":
    {"replica": main, "bare": bare}[sys.argv[1]](*sys.argv[2:])
