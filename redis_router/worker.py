"""HealthChecker: the leader moves due circuits to half-open and probes providers; standbys keep a warm copy and wait.

One thread decides and writes; probes run in a small pool and hand their verdicts back to it, so a provider that hangs
delays nobody. Timers follow the pushed records: a circuit is moved at its time, not at the next interval.
"""

import random
import re
import threading
import time
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from redis_router.alarm import Flag
from redis_router.checks import check_name, check_number, check_seconds
from redis_router.circuit import OPEN
from redis_router.connect import connect, where
from redis_router.election import Election
from redis_router.errors import AccessDenied, RedisRefused, RouterError
from redis_router.link import COMMANDS, Link
from redis_router.log import log
from redis_router.messages import Event, Reply
from redis_router.metrics import CollectorRegistry, Metrics
from redis_router.mirror import Mirror, reconnecting
from redis_router.model import ProviderHealth
from redis_router.names import process_name
from redis_router.probe import Probe
from redis_router.probes import ProbeImpossible, Prober
from redis_router.store import Store

PASSES = "passes"
"""What the record says of a probe that passed."""
FAILS_TO_MARK, PASSES_TO_MARK = 3, 2
"""So many probes in a row mark a provider unavailable, or available again."""
PROBE_THREADS = 16


@dataclass(slots=True)
class Watch:
    """What the leader knows of one provider's probe. Moments are monotonic."""

    probe: Probe | None = None
    next_at: float = 0.0
    started_at: float = 0.0
    running: bool = False  # a verdict is awaited
    stuck: bool = False  # it was given up, and still holds its thread
    passes: int = 0
    fails: int = 0
    impossible: bool = False


@dataclass(frozen=True, slots=True)
class Pass:
    """What `run_once` did: `probed` maps a provider to None where it passed, else to the reason."""

    leader: bool
    half_opened: tuple[str, ...]
    probed: dict[str, str | None]


class HealthChecker:
    """The worker: campaigns for the lease, and while it leads keeps circuits and availability moving.

    redis          a URL or a redis-py client, as for Router
    namespace      as for Router
    interval       seconds between probes of a provider, with 10 % of jitter
    lease          seconds after which a leader that died is replaced; at least 1
    probe_timeout  seconds for a probe's connect and for each wait for its answer
    probe_env      environment variables of this process that the headers of probes may hold, as `${NAME}`
    worker         this process's name, for people; host and pid where not given
    registry       where the metrics go; prometheus_client's default registry where not given

    Raises InvalidArgument for what cannot be used.
    """

    def __init__(
        self,
        redis: Any,
        namespace: str = "rr",
        interval: float = 10.0,
        lease: float = 15.0,
        *,
        probe_timeout: float = 5.0,
        probe_env: Collection[str] = (),
        worker: str | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.worker = check_name("worker", worker or process_name())
        self._interval = check_seconds("interval", interval)
        lease = check_number("lease", lease, least=1.0, most=3600.0)
        self._metrics = Metrics.of(registry)
        self._owns_client = isinstance(redis, str)
        self._store = Store(connect(redis), check_name("namespace", namespace), self.worker)
        self._election = Election(self._store, lease)
        self._link = Link(where(self._store.client), self._metrics, lambda: None)
        failed = self._metrics.background_failed
        self._mirror = Mirror(
            self._store, self._link, self, lambda: None, self._metrics.saw_epoch, failed, self._interval
        )
        self._prober = Prober(check_seconds("probe_timeout", probe_timeout), probe_env)
        self._probe_deadline = 3 * probe_timeout + 1.0
        """Seconds for all of a probe: two connects and an answer. An endpoint that drips never ends by itself."""
        self._pool = ThreadPoolExecutor(PROBE_THREADS, thread_name_prefix="redis-router-probe")
        self._verdicts: SimpleQueue[tuple[str, str | ProbeImpossible | None]] = SimpleQueue()
        self._watches: dict[str, Watch] = {}
        self._retry_at: dict[str, float] = {}
        self._refused: set[str] = set()
        self._wake = threading.Event()
        self._stop = Flag()
        self._thread: threading.Thread | None = None
        self._turned_at = time.monotonic()
        self._told_empty = False

    # What an operator asks

    @property
    def is_leader(self) -> bool:
        """Does this worker lead now?"""
        return self._election.is_leader

    @property
    def redis_up(self) -> bool:
        """Is this worker in touch with Redis?"""
        return self._link.up

    @property
    def alive(self) -> bool:
        """Is the worker's thread running and not stuck?"""
        return self._thread is not None and self._thread.is_alive() and time.monotonic() - self._turned_at < 30.0

    # Life

    def start(self) -> None:
        """Work in a daemon thread until `stop()`. Raises RouterError after it."""
        self._check_open()
        if self._thread is None:
            self._mirror.start()
            self._thread = threading.Thread(target=self._run, name="redis-router-worker", daemon=True)
            self._thread.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Resign, so that a standby takes over at once, and end; within about `timeout` seconds. For good."""
        deadline = time.monotonic() + timeout
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join(timeout)
            self._mirror.stop(max(0.0, deadline - time.monotonic()))
        else:
            self._resign()
        self._link.close()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._prober.close()
        if self._owns_client:
            self._store.client.close()

    def ask_to_stop(self) -> None:
        """Begin to end, without waiting for it."""
        self._stop.set()
        self._mirror.ask_to_stop()
        self._wake.set()

    def _check_open(self) -> None:
        if self._stop.is_set():
            raise RouterError("this health checker was stopped: make a new one")

    def run_once(self) -> Pass:
        """One pass without a thread, for tests and cron: campaign; if elected, probe every provider, move due circuits.

        Probes in a row are counted by this object, so passes of one object mark a provider and `--once` from cron does
        not. The lease stays ours until it ends; `stop()` frees it. Raises RedisUnavailable or RedisRefused.
        """
        self._check_open()
        self._mirror.refresh()
        self._election.campaign()
        probed: dict[str, str | None] = {}
        if self.is_leader:
            self._say_if_empty()
            for name, probe in self._probe_targets():
                self._start_probe(name, probe)
            deadline = time.monotonic() + self._probe_deadline
            while any(watch.running for watch in self._watches.values()) and time.monotonic() < deadline + 1.0:
                self._wake.wait(0.05)
                self._wake.clear()
                probed |= self._take_verdicts()
            self._lift_probe_marks()
        half_opened = self._half_open_due() if self.is_leader else []
        self._metrics.leads(self.is_leader)
        return Pass(self.is_leader, tuple(half_opened), probed)

    # What the mirror tells

    def changed(self, old: ProviderHealth | None, new: ProviderHealth, by: str) -> None:
        self._metrics.health([new])
        if old is None or old.circuit_state is not new.circuit_state:
            self._wake.set()

    def lost(self, name: str) -> None:
        self._forget(name)  # a replica that has a copy restores it

    def deregistered(self, name: str) -> None:
        self._forget(name)

    def heard(self, event: Event) -> None:
        if event.kind == "resigned":
            self._election.hurry()
            self._wake.set()

    def unusable(self, name: str) -> None:
        """The mirror said so; the replicas decide on it."""

    def _forget(self, name: str) -> None:
        self._mirror.forget(name)
        self._metrics.forget(name)
        self._watches.pop(name, None)
        self._retry_at.pop(name, None)

    # The thread

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                reconnecting(self._stop, self._failed)(self._turn)
                self._link.works(COMMANDS)
            except RouterError as error:
                self._failed(error)
            except Exception:
                log.exception("the worker failed, and goes on")
                self._stop.wait(1.0)
            self._metrics.leads(self.is_leader)
            self._wake.wait(max(0.0, min(self._next_at() - time.monotonic(), 5.0)))
            self._wake.clear()
        self._resign()

    def _failed(self, error: BaseException) -> None:
        self._turned_at = time.monotonic()
        self._link.failed(COMMANDS, error)
        self._metrics.leads(self.is_leader)

    def _turn(self) -> None:
        self._turned_at = now = time.monotonic()
        if now >= self._election.next_at:
            self._election.campaign()
            if self._election.leader is not None:
                self._metrics.saw_epoch(self._election.leader.epoch)
        if not self.is_leader:
            return
        self._say_if_empty()
        self._take_verdicts()
        self._lift_probe_marks()
        self._half_open_due()
        for name, probe in self._probe_targets():
            if now >= self._watch(name).next_at:
                self._start_probe(name, probe)

    def _resign(self) -> None:
        try:
            self._election.resign()
        except RouterError as error:
            log.warning("could not resign, the lease runs out by itself: %s", error)
        self._metrics.leads(False)

    def _next_at(self) -> float:
        """The monotonic moment of the next thing to do."""
        moments = [self._election.next_at]
        if self.is_leader:
            for name, _ in self._probe_targets():
                watch = self._watch(name)
                moments.append(watch.started_at + self._probe_deadline if watch.running else watch.next_at)
            moments += [
                max(self._due_at(h), self._retry_at.get(h.name, 0.0)) for h in self._open_records() if self._may_ask(h)
            ]
        return min(moments)

    # Open -> half-open

    def _open_records(self) -> Iterable[ProviderHealth]:
        return [health for health in list(self._mirror.records.values()) if health.circuit_state is OPEN]

    def _due_at(self, health: ProviderHealth) -> float:
        """When an open circuit is due, on our monotonic clock; a moment later rather than earlier."""
        redis_now = self._mirror.redis_now_ms()
        if redis_now is None:
            return float("inf")
        return time.monotonic() + (health.due_in_ms(redis_now) + 1) / 1000

    def _half_open_due(self) -> list[str]:
        moved = []
        for health in self._open_records():
            now, due_at = time.monotonic(), self._due_at(health)
            if now < due_at or now < self._retry_at.get(health.name, 0.0) or not self.is_leader:
                continue
            if not self._probe_allows(health.name, due_at):
                continue
            self._retry_at[health.name] = now + 1.0  # unless it moves: where the record in Redis is not what we think
            reply = self._written(health.name, lambda name: self._store.half_open(name, self._election.epoch))
            if reply is None:
                continue
            if reply.transitions:
                moved.append(health.name)
                self._retry_at.pop(health.name, None)  # the mirror may have forgotten it meanwhile
            elif reply.status == "not_due":
                self._retry_at[health.name] = now + 0.05  # our idea of Redis's clock was early
        return moved

    def _written(self, name: str, write: Callable[[str], Reply]) -> Reply | None:
        """What a write on one record did; None where it was refused, which holds up no other record."""
        try:
            reply = write(name)
        except AccessDenied:
            raise
        except RedisRefused as error:
            if name not in self._refused:
                log.error("the record of provider %s cannot be used: %s", name, error)
            self._refused.add(name)
            return None
        self._refused.discard(name)
        self._accept(name, reply)
        return reply

    def _accept(self, name: str, reply: Reply) -> None:
        for change in reply.transitions:
            self._metrics.transition(change)
            log.warning("%s is half_open (%s), was open; moved by %s", name, change.reason, self.worker)
        if reply.status == "fenced":
            log.warning("a write of epoch %d was refused: a newer leader is at work", self._election.epoch)
            self._election.refused(reply.health.leader_epoch if reply.health is not None else 0)
        if reply.health is not None:
            self._mirror.apply(reply.health, self.worker, accepted=True)
        elif not reply.unreadable:
            self._forget(name)

    # Probes

    def _watch(self, name: str) -> Watch:
        return self._watches.setdefault(name, Watch())

    def _probe_targets(self) -> list[tuple[str, Probe]]:
        """Every provider with a record and a probe that can be made here."""
        targets: list[tuple[str, Probe]] = []
        for name, spec in list(self._mirror.specs.items()):
            if spec.probe and name in self._mirror.records:
                watch = self._watch(name)
                if watch.probe != spec.probe and not watch.running:
                    watch = self._watches[name] = Watch(probe=spec.probe, stuck=watch.stuck)
                if not watch.impossible and watch.probe is not None:
                    targets.append((name, watch.probe))
        return targets

    def _may_ask(self, health: ProviderHealth) -> bool:
        """Is it a matter of time alone, and not of a probe that is running or has failed?"""
        watch = self._watches.get(health.name)
        return watch is None or not (watch.running or watch.fails)

    def _probe_allows(self, name: str, due_at: float) -> bool:
        """A provider with a probe goes half-open only after one that began when it was due has passed."""
        probe = dict(self._probe_targets()).get(name)
        if probe is None:
            return True
        watch = self._watch(name)
        if watch.running:
            return False
        if watch.started_at >= due_at:
            return watch.passes > 0
        if watch.fails == 0 or time.monotonic() >= watch.next_at:
            self._start_probe(name, probe)
        return False

    def _start_probe(self, name: str, probe: Probe) -> None:
        watch = self._watch(name)
        if watch.running:
            return
        watch.running, watch.started_at = True, time.monotonic()
        if not watch.stuck:  # else its thread is still waiting: no second one, and the time runs
            self._pool.submit(self._probe, name, probe, watch)

    def _probe(self, name: str, probe: Probe, watch: Watch) -> None:
        """In the pool."""
        try:
            verdict: str | ProbeImpossible | None = self._prober.check(probe)
        except ProbeImpossible as error:
            verdict = error
        except Exception as error:  # whatever a URL or a proxy can do to an HTTP client: the probe did not pass
            verdict = f"{type(error).__name__}: {error}"
        if watch.stuck:  # too late: it was counted as failed
            watch.stuck = False
            return
        self._verdicts.put((name, verdict))
        self._wake.set()

    def _take_verdicts(self) -> dict[str, str | None]:
        taken: dict[str, str | None] = {}
        for name, watch in list(self._watches.items()):
            if watch.running and time.monotonic() - watch.started_at > self._probe_deadline:
                watch.stuck = True
                self._verdicts.put((name, f"no answer within {self._probe_deadline:g} s"))
        while True:
            try:
                name, verdict = self._verdicts.get_nowait()
            except Empty:
                return taken
            watch = self._watch(name)
            if not watch.running:
                continue  # its verdict came in just when it was given up
            watch.running = False
            watch.next_at = time.monotonic() + self._interval * random.uniform(0.9, 1.1)
            if isinstance(verdict, ProbeImpossible):
                watch.impossible = True
                log.error("%s", verdict)
                if self.is_leader:
                    self._write(name, {"probe_result": _in_record(f"cannot: {verdict.why}")})
                continue
            taken[name] = verdict
            self._judge(name, watch, verdict)

    def _judge(self, name: str, watch: Watch, verdict: str | None) -> None:
        passed, failed_before = verdict is None, watch.fails > 0
        watch.passes, watch.fails = (watch.passes + 1, 0) if passed else (0, watch.fails + 1)
        self._metrics.probed(name, passed=passed)
        health = self._mirror.records.get(name)
        if passed and health is not None and health.unavailable_reason == "probe" and watch.passes == PASSES_TO_MARK:
            log.warning("probe of %s passed %d times in a row: it is back in service", name, watch.passes)
        elif passed and failed_before:
            log.info("probe of %s passes again", name)
        elif watch.fails == 1:
            log.warning("probe of %s failed: %s", name, verdict)
        elif watch.fails == FAILS_TO_MARK:
            text = "probe of %s failed %d times in a row: it is taken out of service until it passes %d times; %s"
            log.warning(text, name, watch.fails, PASSES_TO_MARK, verdict)
        if self.is_leader:
            self._write_probe_state(name, watch, verdict, health)

    def _write_probe_state(self, name: str, watch: Watch, verdict: str | None, health: ProviderHealth | None) -> None:
        fields = {}
        if watch.passes >= PASSES_TO_MARK or watch.fails >= FAILS_TO_MARK:
            fields["available"] = str(int(verdict is None))
        said = health.probe_result if health is not None else PASSES
        failed_before = said not in ("", PASSES)
        if said == "" or failed_before is (verdict is None):  # an edge, not each new word
            fields["probe_result"] = PASSES if verdict is None else _in_record(verdict)
        if fields:
            self._write(name, fields)

    def _lift_probe_marks(self) -> None:
        """A provider whose probe was taken away, or cannot be made here, is no longer unavailable because of it."""
        for health in list(self._mirror.records.values()):
            spec, watch = self._mirror.specs.get(health.name), self._watches.get(health.name)
            if spec is None or (spec.probe is not None and not (watch is not None and watch.impossible)):
                continue
            fields = {"available": "1"} if health.unavailable_reason == "probe" else {}
            if health.probe_result and spec.probe is None:
                fields["probe_result"] = ""
            if fields:
                self._write(health.name, fields)

    def _write(self, name: str, fields: dict[str, str]) -> None:
        self._written(name, lambda n: self._store.update(n, fields, source="probe", epoch=self._election.epoch))

    def _say_if_empty(self) -> None:
        if not self._mirror.specs_read:
            return
        empty = not self._mirror.specs
        if empty and not self._told_empty:
            log.warning(
                "no provider is registered in %s: waiting for a gateway with the same Redis and namespace"
                " to call register_provider and start",
                self._store.keys.providers,
            )
        self._told_empty = empty


def _in_record(verdict: str) -> str:
    """Short enough to stand in the record, and printable."""
    return re.sub(r"[^ -~]", "?", verdict)[:60] or "failed"
