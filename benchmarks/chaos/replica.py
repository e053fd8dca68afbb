"""One gateway process of the soak. Writes a line for all that the verdict needs, before it happens or at once after.

It reads commands from stdin: `quiet` ends the traffic, `report` asks for its view and its counts.
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

from benchmarks.chaos import truth
from redis_router import CircuitConfig, NoProviderAvailable, Provider, Router, Transition, scripts
from redis_router.messages import Reply
from redis_router.store import Batch, Store

THREADS = 4
MUTATIONS = {
    "none": ("", "", ""),
    "sequence": ("record", "if did then", "if false then"),
    "generation": (
        "record",
        "if generation ~= record.generation or state == 'open' then return end",
        "if state == 'open' then return end",
    ),
    "limit": ("claim", "if known or free > 0 then", "if known or record.circuit_state == 'half_open' then"),
}
"""Bugs put in on purpose: script, what to replace, by what."""
LEDGER = (
    "redis.call('RPUSH', KEYS[1] .. ':ledger', ARGV[4] .. ' ' .. applied .. ' ' .. KEYS[3])\nreturn reply('ok', did"
)


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
    """Writes down when the library says that it lost or found Redis, and what it says went wrong inside."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.INFO)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if "touch with Redis" in text:
            self._journal.write("edge", up=text.startswith("in touch"), text=text)
        elif record.exc_info is not None:
            self._journal.write("error", text=self.format(record))


def with_ledger(mutation: str) -> None:
    """record.lua notes each batch it applies, in the same step: so the verdict can count what Redis did."""
    load = scripts.load.__wrapped__
    target, old, new = MUTATIONS[mutation]

    def noted(name: str) -> scripts.Script:
        text = load(name).text
        if name == target:
            assert old in text, "the mutation no longer fits the script"
            text = text.replace(old, new)
        if name == "record":
            text = text.replace("return reply('ok', did", LEDGER)
            assert "ledger" in text
        return scripts.Script(name, text, scripts.sha_of(text))

    cache = {name: noted(name) for name in ("record", "register", "claim", "half_open", "update", "leader")}
    scripts.load = cache.__getitem__  # type: ignore[assignment]


class Gateway:
    def __init__(self, url: str, name: str, seed: int, journal: Journal) -> None:
        self.seed = seed
        self.name = name
        self.journal = journal
        self.registry = CollectorRegistry()
        self.recorded = count()
        self.selects: list[float] = []
        self.refusals = count()
        self.quiet = threading.Event()
        self.router = Router(
            url,
            strategy="round_robin",
            replica=name,
            registry=self.registry,
            on_transition=self.saw,
            permit_ttl=truth.PERMIT_TTL,
            safety_net_after=3.0,
            refresh_interval=10.0,
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
            next(self.refusals)
            return
        finally:
            self.selects.append(time.perf_counter() - began)
        provider = attempt.provider.name
        failing, seconds = truth.call(self.seed, provider, time.time(), draw)
        facts = {"provider": provider, "permit": attempt.permit, "generation": attempt.generation}
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
            refusals=next(self.refusals),
            counts=counts,
            selects=[len(self.selects), *(self.selects[int(len(self.selects) * q)] for q in (0.5, 0.99, 0.999))],
        )


def journal_batches(journal: Journal) -> None:
    """Write down what Redis said of each batch: the client's side of the ledger."""
    record = Store.record

    def noted(self: Store, batches: list[Batch]) -> list[Any]:
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

    Store.record = noted  # type: ignore[method-assign, assignment]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--journal", required=True)
    parser.add_argument("--mutate", choices=MUTATIONS, default="none")
    arguments = parser.parse_args()
    with open(arguments.journal, "a") as file:
        journal = Journal(file)
        log = logging.getLogger("redis_router")
        log.setLevel(logging.INFO)
        log.addHandler(Edges(journal))
        log.propagate = False
        with_ledger(arguments.mutate)
        journal_batches(journal)
        gateway = Gateway(arguments.redis, arguments.name, arguments.seed, journal)
        gateway.router.start()
        threads = [threading.Thread(target=gateway.serve, args=(n,), daemon=True) for n in range(THREADS)]
        for thread in threads:
            thread.start()
        journal.write("ready")
        for line in sys.stdin:
            if line.strip() == "quiet":
                gateway.quiet.set()
                for thread in threads:
                    thread.join()
                journal.write("quiet")
            elif line.strip() == "report":
                gateway.report()
        gateway.router.close()


if __name__ == "__main__":
    main()
