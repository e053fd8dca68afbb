"""HealthChecker: the leader moves due circuits to half-open and probes providers; standbys keep a warm copy and wait.

One thread decides and writes; probes run on an event loop beside it and hand their verdicts back, so a provider that
hangs delays nobody. Timers follow the pushed records: a circuit is moved at its time, not at the next interval.
"""

import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from redis_router.checks import check_name, check_number, check_seconds
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RouterError
from redis_router.replica.link import COMMANDS, Link
from redis_router.replica.mirror import Mirror, reconnecting
from redis_router.runtime.alarm import Alarm, Flag
from redis_router.runtime.background import Background
from redis_router.runtime.log import log
from redis_router.runtime.names import process_name
from redis_router.store.connect import connect, where
from redis_router.store.messages import Event
from redis_router.store.redis import Store
from redis_router.telemetry.metrics import CollectorRegistry, Metrics
from redis_router.worker.duties import Done, Duties
from redis_router.worker.election import Election
from redis_router.worker.prober import AT_ONCE, Prober

TURN_SECONDS = 5.0
"""The longest turn, and the longest wait for one: a thread that shows no life for much longer is stuck."""


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
    probe_timeout  seconds for all of a probe: look-up, connection, answer
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
        self._metrics.watch_providers(self)
        self._link = Link(where(self._store.client), self._metrics)
        failed = self._metrics.background_failed
        self._mirror = Mirror(
            self._store, self._link, self, lambda: None, self._metrics.saw_epoch, failed, self._interval
        )
        self._wake = Alarm()
        self._stop = Flag()
        self._prober = Prober(check_seconds("probe_timeout", probe_timeout), probe_env, self._wake)
        self._duties = Duties(
            self._store, self._mirror, self._election, self._prober, self._metrics, self._interval, self._stop
        )
        self._thread: Background | None = None
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
        return self._thread is not None and self._thread.is_alive and time.monotonic() - self._turned_at < 30.0

    # Life

    def start(self) -> None:
        """Work in a daemon thread until `stop()`. Raises RouterError after it."""
        self._check_open()
        if self._thread is None:
            self._mirror.start()
            self._thread = Background("worker", self._run, self._metrics.background_failed)
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
        self._prober.close()
        if self._owns_client:
            self._store.client.close()

    def ask_to_stop(self) -> None:
        """Begin to end, without waiting for it."""
        self._stop.set()
        self._mirror.ask_to_stop()
        self._wake.ring()

    def _check_open(self) -> None:
        if self._stop.is_set():
            raise RouterError("this health checker was stopped: make a new one")

    def run_once(self) -> Pass:
        """One pass without a thread, for tests and cron: campaign; if elected, probe every provider, move due circuits.

        It takes up to `probe_timeout`, with more than 256 probes as much for each 256. Probes in a row are counted by
        this object, so passes of one object mark a provider and `--once` from cron does not. The lease stays ours
        until it ends; `stop()` frees it. Raises RedisUnavailable or RedisRefused.
        """
        self._check_open()
        self._mirror.refresh()
        self._election.campaign()
        done = Done()
        if self.is_leader:
            self._say_if_empty()
            self._work_off(done, 0.0)
            rounds = math.ceil(self._duties.ask_all() / AT_ONCE)
            self._work_off(done, time.monotonic() + rounds * self._prober.timeout + 1.0)
        self._metrics.leads(self.is_leader)
        return Pass(self.is_leader, tuple(done.half_opened), done.probed)

    def _work_off(self, done: Done, probes_until: float) -> None:
        """Do what is due; wait for probes until that moment."""
        while self.is_leader and not self._stop.is_set():
            now = time.monotonic()
            if self._duties.next_at(asks=False) > now:
                if not self._duties.probes_running or now >= probes_until:
                    return
                self._wake.wait(0.05)
            self._campaign_if_due(now)
            more = self._duties.work(self._election.next_at, asks=False)
            done.half_opened += more.half_opened
            done.probed |= more.probed

    # What the mirror tells

    def has_provider(self, name: str) -> bool:
        """Has it a record in the fleet, as far as this worker knows?"""
        return name in self._mirror.records

    def changed(self, old: ProviderHealth | None, new: ProviderHealth, by: str) -> None:
        self._metrics.health([new])
        self._duties.note(new.name)
        if old is None or old.circuit_state is not new.circuit_state:
            self._wake.ring()

    def lost(self, name: str) -> None:
        self._duties.forget(name)

    def deregistered(self, name: str) -> None:
        self._duties.forget(name)

    def unusable(self, name: str) -> None:
        """The mirror said so; the replicas decide on it."""

    def heard(self, event: Event) -> None:
        if event.kind == "resigned":
            self._election.hurry()
            self._wake.ring()

    # The thread

    def _run(self) -> bool:
        if self._stop.is_set():
            self._resign()
            return False
        try:
            reconnecting(self._stop, self._failed)(self._turn)
            self._link.works(COMMANDS)
        except RouterError as error:
            self._failed(error)
        self._metrics.leads(self.is_leader)
        self._wake.wait(min(self._next_at() - time.monotonic(), TURN_SECONDS))
        return True

    def _failed(self, error: BaseException) -> None:
        self._turned_at = time.monotonic()
        self._link.failed(COMMANDS, error)
        self._metrics.leads(self.is_leader)

    def _turn(self) -> None:
        self._turned_at = now = time.monotonic()
        self._campaign_if_due(now)
        if not self.is_leader:
            self._duties.stand_by()
            return
        self._say_if_empty()
        self._duties.work(min(self._election.next_at, now + TURN_SECONDS))

    def _campaign_if_due(self, now: float) -> None:
        if now >= self._election.next_at:
            self._election.campaign()
            if self._election.leader is not None:
                self._metrics.saw_epoch(self._election.leader.epoch)

    def _resign(self) -> None:
        try:
            self._election.resign()
        except RouterError as error:
            log.warning("could not resign, the lease runs out by itself: %s", error)
        self._metrics.leads(False)

    def _next_at(self) -> float:
        """The monotonic moment of the next thing to do."""
        return min(self._election.next_at, self._duties.next_at()) if self.is_leader else self._election.next_at

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
