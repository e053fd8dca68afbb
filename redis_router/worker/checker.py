"""HealthChecker: the leader moves due circuits to half-open and probes providers; standbys keep a warm copy and wait.

One thread decides and writes. Two others only keep for it what happened, and wake it: one follows the push channel, and
one makes probes on an event loop, where a provider that hangs delays nobody. A fourth tells the webhook, where there is
one. A circuit is moved at its time, not at the next interval.
"""

import math
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from redis_router.errors import RouterError
from redis_router.replica.presence import Present
from redis_router.runtime.alarm import Alarm, Flag
from redis_router.runtime.background import Background
from redis_router.runtime.log import log
from redis_router.runtime.names import process_name
from redis_router.store.backoff import backoff
from redis_router.store.opening import open_store, open_target
from redis_router.store.presence import LEADER, STANDBY
from redis_router.telemetry.metrics import CollectorRegistry, Metrics
from redis_router.worker.census import Census
from redis_router.worker.duties import Duties, Step
from redis_router.worker.election import Election
from redis_router.worker.fleet import Fleet
from redis_router.worker.notifier import Notifier
from redis_router.worker.options import WorkerOptions
from redis_router.worker.prober import AT_ONCE, Prober
from redis_router.worker.webhook import Webhook

TURN_SECONDS = 5.0
"""The longest turn, and the longest wait for one: a thread that shows no life for much longer is stuck."""
STUCK_SECONDS = 30.0
SLACK = 5.0
"""Seconds beyond a probe's time: a machine that is short of CPU learns late that there was no answer."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """What `run_once` did: `probed` maps a provider to None where it passed, else to the reason."""

    leader: bool
    half_opened: tuple[str, ...]
    probed: dict[str, str | None]


class HealthChecker:
    """The worker: campaigns for the lease, and while it leads keeps circuits and availability moving.

    redis          a URL or a redis-py client, as for Router; memory:// reaches the routers of this process
    namespace      as for Router
    interval       seconds between probes of a provider, with 10 % of jitter
    lease          seconds after which a leader that died is replaced; at least 1
    probe_timeout  seconds for all of a probe: look-up, connection, answer
    probe_env      environment variables of this process that the headers of probes may hold, as `${NAME}`
    webhook        where the leader tells of transitions and overrides; nowhere where not given
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
        webhook: Webhook | None = None,
        worker: str | None = None,
        registry: CollectorRegistry | None = None,
    ) -> None:
        options = WorkerOptions(
            namespace=namespace,
            interval=interval,
            lease=lease,
            probe_timeout=probe_timeout,
            probe_env=probe_env,
            worker=worker or process_name(),
        )
        self.options = options
        self.worker = options.worker
        self._metrics = Metrics.of(registry)
        self._client, self._owns_client = open_target(redis), isinstance(redis, str)
        self._store = open_store(self._client, options.namespace, self.worker)
        self._wake, self._news, self._stop = Alarm(), Alarm(), Flag()
        self._election = Election(self._store, options.lease)
        self._fleet = Fleet(self._store, self._metrics, options.interval, self._wake, self._news)
        self._prober = Prober(options, self._wake)
        self._present = Present()
        self._census = Census(self._store, self._metrics)
        self._duties = Duties(options, self._store, self._fleet, self._election, self._metrics, self._prober)
        self._notifier = (
            None if webhook is None else Notifier(webhook, self._store, self._election, self._metrics, self._news)
        )
        self._thread: Background | None = None
        self._turned_at = time.monotonic()
        self._failures = 0
        self._told_empty = False

    # What an operator asks

    @property
    def is_leader(self) -> bool:
        """Does this worker lead now?"""
        return self._election.is_leader

    @property
    def redis_up(self) -> bool:
        """Is this worker in touch with Redis?"""
        return self._fleet.up

    @property
    def alive(self) -> bool:
        """Is the worker's thread running and not stuck?"""
        stuck = time.monotonic() - self._turned_at >= STUCK_SECONDS
        return self._thread is not None and self._thread.is_alive and not stuck

    @property
    def where(self) -> str:
        """What keeps the shared state, and where; without credentials."""
        return self._store.where

    def reach(self) -> None:
        """Ask Redis for its clock, as a first contact. Raises RedisUnavailable or RedisRefused."""
        self._store.leader()

    # Life

    def start(self) -> None:
        """Work in a daemon thread until `stop()`. Raises RouterError after it."""
        self._check_open()
        if self._thread is None:
            self._fleet.start()
            self._thread = Background("worker", self._run, self._metrics)
            self._thread.start()
            if self._notifier is not None:
                self._notifier.start()

    def stop(self, timeout: float = 2.0) -> None:
        """Resign, so that a standby takes over at once, and end; within about `timeout` seconds. For good."""
        deadline = time.monotonic() + timeout
        self.ask_to_stop()
        if self._thread is not None:
            self._thread.join(timeout)
        else:
            self._resign()
        self._fleet.stop(max(0.0, deadline - time.monotonic()))
        self._prober.close()
        if self._notifier is not None:
            self._notifier.stop(max(0.0, deadline - time.monotonic()))
        if self._owns_client:
            self._client.close()

    def ask_to_stop(self) -> None:
        """Begin to end, without waiting for it."""
        self._stop.set()
        self._fleet.ask_to_stop()
        if self._notifier is not None:
            self._notifier.ask_to_stop()
        self._wake.ring()

    def _check_open(self) -> None:
        if self._stop.is_set():
            raise RouterError("this health checker was stopped: make a new one")

    # One run

    def run_once(self) -> RunReport:
        """One run without a thread, for tests and cron: campaign; if elected, probe every provider, move due circuits.

        It takes up to `probe_timeout`, with more than 256 probes as much for each 256. Probes in a row are counted by
        this object, so runs of one object take a provider out of service and `--once` from cron does not. The lease
        stays ours until it ends; `stop()` frees it. Raises RedisUnavailable or RedisRefused.
        """
        self._check_open()
        self._fleet.refresh()
        self._election.campaign()
        steps: list[Step] = []
        if self.is_leader:
            self._say_if_empty()
            steps += self._work_off(0.0)
            rounds = math.ceil(self._duties.start_all_probes() / AT_ONCE)
            steps += self._work_off(time.monotonic() + rounds * self.options.probe_timeout + SLACK)
            if self._notifier is not None:
                self._notifier.tell_once()
        else:
            self._duties.stand_by()
        self._metrics.leads(self.is_leader)
        half_opened = tuple(change.provider for step in steps for change in step.transitions)
        return RunReport(self.is_leader, half_opened, {step.probed: step.why for step in steps if step.probed})

    def _work_off(self, probes_until: float) -> list[Step]:
        """Do what is due, and begin no probe; wait for those that run until that moment."""
        steps = []
        while self.is_leader and not self._stop.is_set():
            self._campaign_if_due()
            step = self._duties.step(probing=False)
            if step is not None:
                self._act_on(step)
                steps.append(step)
            elif not self._duties.probes_running or time.monotonic() >= probes_until:
                break
            else:
                self._wake.wait(0.05)
        return steps

    # The thread

    def _run(self) -> bool:
        if self._stop.is_set():
            self._resign()
            return False
        self._turned_at = time.monotonic()
        try:
            self._turn()
        except RouterError as error:
            self._fleet.failed(error)
            self._metrics.leads(self.is_leader)
            if not self.is_leader:
                self._census.stand_by()
            self._failures += 1
            self._stop.wait(backoff(self._failures))
            return True
        self._failures = 0
        self._fleet.served()
        self._metrics.leads(self.is_leader)
        next_at = min(self._election.next_at, self._duties.next_at) if self.is_leader else self._election.next_at
        self._wake.wait(min(next_at - time.monotonic(), TURN_SECONDS))
        return True

    def _turn(self) -> None:
        """Do what is due, at most until the lease is to be renewed. Raises RedisUnavailable or RedisRefused."""
        self._campaign_if_due()
        self._say_present()
        if not self.is_leader:
            self._duties.stand_by()
            self._census.stand_by()
            return
        self._census.count_if_due()
        self._say_if_empty()
        until = min(self._election.next_at, time.monotonic() + TURN_SECONDS)
        while self.is_leader and not self._stop.is_set() and time.monotonic() < until:
            if (step := self._duties.step()) is None:
                return
            self._act_on(step)
        self._wake.ring()  # there may be more to do, at once

    def _act_on(self, step: Step) -> None:
        if step.outranked_by is not None:
            self._election.outranked(step.outranked_by)

    def _campaign_if_due(self) -> None:
        if self._fleet.take_resignation():
            self._election.next_at = 0.0
        if time.monotonic() >= self._election.next_at:
            led = self.is_leader
            self._election.campaign()
            if self._election.leader is not None:
                self._metrics.saw_epoch(self._election.leader.epoch)
            if self.is_leader and not led:
                self._news.ring()  # what the leader before did not tell

    def _say_present(self) -> None:
        """That this worker is there, and how it sees the fleet's circuits."""
        role = LEADER if self.is_leader else STANDBY
        if self._present.is_due(role, self._fleet.records):
            self._present.say(self._store, role, self._fleet.records.copy())

    def _resign(self) -> None:
        try:
            self._election.resign()
        except RouterError as error:
            log.warning("could not resign, the lease runs out by itself: %s", error)
        with suppress(RouterError):  # then its word goes by itself
            self._present.say_gone(self._store)
        self._census.stand_by()
        self._metrics.leads(False)

    def _say_if_empty(self) -> None:
        empty = self._fleet.is_known_to_be_empty
        if empty and not self._told_empty:
            log.warning(
                "no provider is registered in %s: waiting for a gateway with the same Redis and namespace"
                " to call register_provider and start",
                self._store.keys.providers,
            )
        self._told_empty = empty
