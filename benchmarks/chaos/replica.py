"""One gateway process of the soak. Writes a line for all that the verdict needs, before it happens or at once after.

It reads commands from stdin: `quiet` ends the traffic, `report` asks for its view and its counts; the others do harm.
"""

import argparse
import json
import logging
import random
import sys
import threading
import time
from itertools import count
from typing import Any, TextIO

from prometheus_client import CollectorRegistry

from benchmarks.chaos import ledger, net, truth
from redis_router import CircuitConfig, NoProviderAvailable, Provider, Router, Transition
from redis_router.circuit.generations import is_local
from redis_router.store.messages import Reply
from redis_router.store.redis import Batch, RedisStore

THREADS = 4
TICK = 0.25
"""Seconds between two lines that say how many calls each provider was chosen for."""

FORCED = {"down": 1.0, "shaky": 0.2, "fine": 0.0}
"""Commands that say how many of a provider's calls fail."""


class Journal:
    """One JSON line for each event, in the file when the call returns."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._lock = threading.Lock()

    def write(self, what: str, **facts: Any) -> None:
        with self._lock:
            self._file.write(json.dumps({"t": time.time(), "what": what, **facts}) + "\n")
            self._file.flush()


class Edges(logging.Handler):
    """Writes down when the library says that it lost or found Redis, and what it says went wrong."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.INFO)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "touch with Redis" in text:
            self._journal.write("edge", up=text.startswith("in touch"), text=text)
        elif record.exc_info is not None:
            self._journal.write("error", text=self.format(record))
        elif record.levelno >= logging.ERROR:
            self._journal.write("said", text=text)


class BrokenHandler(logging.Handler):
    """A handler of the application that raises, as long as it is told to: its disk is full."""

    raises = False

    def emit(self, record: logging.LogRecord) -> None:
        if self.raises:
            raise OSError("no space left on device")


class Gateway:
    def __init__(self, url: str, name: str, seed: int, journal: Journal) -> None:
        self.seed = seed
        self.name = name
        self.journal = journal
        self.registry = CollectorRegistry()
        self.recorded = count()
        self.selects: list[float] = []
        self.refused = 0
        self.quiet = threading.Event()
        self.forced: dict[str, float] = {}
        """provider -> the part of its calls that fail, as a fault wants it, whatever `truth` says."""
        self.slow = ""
        """A provider that takes about a second for each call."""
        self.calls: dict[str, int] = dict.fromkeys(truth.PROVIDERS, 0)
        self._counting = threading.Lock()
        self.router = Router(
            url,
            strategy="round_robin",
            replica=name,
            registry=self.registry,
            on_transition=self.saw,
            permit_ttl=truth.PERMIT_TTL,
            safety_net_after=3.0,
            circuit=CircuitConfig(
                failure_rate_threshold=0.9,
                half_open_max_probes=truth.LIMIT,
                half_open_success_threshold=truth.SUCCESSES,
                open_timeout=truth.OPEN_TIMEOUT,
            ),
        )
        for provider in truth.PROVIDERS:
            self.router.register_provider(Provider(provider, (truth.MODEL,)))

    def saw(self, change: Transition) -> None:
        self.journal.write(
            "saw",
            provider=change.provider,
            after=change.to_state,
            generation=change.generation,
            alone=change.alone,
        )

    def serve(self, number: int) -> None:
        draw = random.Random(f"{self.name}/{number}/{time.time()}")
        while not self.quiet.is_set():
            try:
                self.request(draw)
            except Exception as error:  # what the router promises never to do
                self.journal.write("error", text=f"{type(error).__name__}: {error}")
            time.sleep(draw.uniform(0.002, 0.02))

    def request(self, draw: random.Random) -> None:
        began = time.perf_counter()
        try:
            attempt = self.router.attempt(truth.MODEL)
        except NoProviderAvailable:
            with self._counting:
                self.refused += 1
            return
        finally:
            self.selects.append(time.perf_counter() - began)
        provider = attempt.provider.name
        with self._counting:
            self.calls[provider] += 1
        failing, seconds = truth.call(self.seed, provider, time.time(), draw)
        if provider in self.forced:
            failing = draw.random() < self.forced[provider]
        if provider == self.slow:
            seconds = draw.uniform(0.9, 1.6)
        facts = {"provider": provider, "permit": attempt.permit, "generation": attempt.generation}
        facts["alone"] = attempt._permit is not None and is_local(attempt._permit.generation)
        if attempt.permit:
            self.journal.write("trial", **facts)
        try:
            with attempt:
                time.sleep(seconds)
                if attempt.permit:
                    self.journal.write("tried", ok=not failing, **facts)
                next(self.recorded)
                if failing:
                    raise ConnectionError
        except ConnectionError:
            return

    def tick(self) -> None:
        """Say from time to time whom the calls went to."""
        while not self.quiet.wait(TICK):
            with self._counting:
                calls, self.calls = self.calls, dict.fromkeys(truth.PROVIDERS, 0)
                refused, self.refused = self.refused, 0
            self.journal.write("chose", calls=calls, refused=refused)

    def obey(self, command: str, argument: str) -> None:
        """What a fault does inside this process: `down beta`, `fine beta`, `free`, `dns hangs`, `log raises`, …"""
        if command in FORCED:
            self.forced = {**self.forced, argument: FORCED[command]}
        elif command == "slow":
            self.slow = argument
        elif command == "free":
            self.forced, self.slow = {}, ""
        elif command == "dns":
            (net.dns_hangs.set if argument == "hangs" else net.dns_hangs.clear)()
        elif command == "log":
            BrokenHandler.raises = argument == "raises"
        elif command == "quiet":
            self.quiet.set()
        elif command == "report":
            self.report()

    def report(self) -> None:
        flushed = self.router.flush(20.0)
        counts: dict[str, float] = {}
        for family in self.registry.collect():
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    key = sample.labels.get("reason") or sample.name
                    counts[key] = counts.get(key, 0.0) + sample.value
        self.selects.sort()
        self.journal.write(
            "report",
            flushed=flushed,
            up=self.router.redis_up,
            view={name: [h.circuit_state, h.generation] for name, h in self.router.get_health_status().items()},
            recorded=next(self.recorded),
            counts=counts,
            selects=[len(self.selects), *(self.selects[int(len(self.selects) * q)] for q in (0.5, 0.99, 0.999))],
        )


def journal_batches(journal: Journal) -> None:
    """Write down what Redis said of each batch: the client's side of the ledger."""
    record = RedisStore.record

    def noted(self: RedisStore, batches: list[Batch]) -> list[Any]:
        sent = time.time()
        replies = record(self, batches)
        for batch, reply in zip(batches, replies, strict=True):
            if isinstance(reply, Reply) and reply.status in ("ok", "replayed"):
                journal.write(
                    "applied",
                    sent=sent,
                    key=self.keys.seq(batch.provider, self.session),
                    seq=batch.seq,
                    n=reply.applied,
                )
        return replies

    RedisStore.record = noted  # type: ignore[method-assign, assignment]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--journal", required=True)
    parser.add_argument("--mutate", choices=ledger.MUTATIONS, default="none")
    parser.add_argument("--proxies", required=True)
    arguments = parser.parse_args()
    net.reach_through(arguments.proxies)
    with open(arguments.journal, "a") as file:
        journal = Journal(file)
        log = logging.getLogger("redis_router")
        log.setLevel(logging.INFO)
        log.addHandler(Edges(journal))
        log.addHandler(BrokenHandler())  # after it: what is said is written down all the same
        log.propagate = False
        ledger.use(arguments.mutate)
        journal_batches(journal)
        gateway = Gateway(arguments.redis, arguments.name, arguments.seed, journal)
        gateway.router.start()
        threads = [threading.Thread(target=gateway.serve, args=(n,), daemon=True) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        threading.Thread(target=gateway.tick, daemon=True).start()
        journal.write("ready")
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            gateway.obey(command, argument)
            if command == "quiet":
                for thread in threads:
                    thread.join()
                journal.write("quiet")
        gateway.router.close()


if __name__ == "__main__":
    main()
