"""What a leader does: moves due circuits to half-open, makes probes and writes what they say into the records, and
ends overrides whose time is over.

One step at a time, each about one provider: between any two the lease can be renewed and the worker can end, however
many providers there are. No step goes through all providers.
"""

import random
import re
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from redis_router.circuit.machine import OPEN
from redis_router.circuit.overrides import LAPSE
from redis_router.circuit.record import ProviderHealth, TakenOutBy, Transition
from redis_router.errors import AccessDenied, RedisRefused, RouterError
from redis_router.runtime.log import Seldom, log
from redis_router.store.contract import Store
from redis_router.store.messages import Reply, Status
from redis_router.telemetry.metrics import Metrics
from redis_router.worker.election import Election
from redis_router.worker.fleet import Change, Fleet
from redis_router.worker.options import WorkerOptions
from redis_router.worker.prober import ProbeOutcome, Prober, ProbeResult
from redis_router.worker.providers import Providers, ProviderState, SharedProbe
from redis_router.worker.tombstones import remove_old_tombstones

PASSES = "passes"
"""What the record says of a probe that passed."""
FAILURE_THRESHOLD, SUCCESS_THRESHOLD = 3, 2
"""So many probes in a row take a provider out of service, or put it back."""
TIDY_SECONDS = 3600.0
"""How often the leader looks for tombstones that are old."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did.

    transitions   of circuits, made by this worker
    probed        the provider that a probe result was counted for, '' for none; `why` it failed, None where it passed
    outranked_by  the epoch of a newer leader, by which a record refused a write; None where none did
    """

    transitions: tuple[Transition, ...] = ()
    probed: str = ""
    why: str | None = None
    outranked_by: int | None = None


NOTHING_TO_TELL = Step()


class Duties:
    """One thread uses it."""

    def __init__(
        self, options: WorkerOptions, store: Store, fleet: Fleet, election: Election, metrics: Metrics, prober: Prober
    ) -> None:
        self._interval = options.interval
        self._store = store
        self._fleet = fleet
        self._election = election
        self._metrics = metrics
        self._prober = prober
        self._providers = Providers()
        self._results: deque[tuple[ProviderState, ProbeResult]] = deque()
        self._seldom = Seldom(10.0)
        self._tidy_at = 0.0

    # Turns

    def step(self, *, probing: bool = True) -> Step | None:
        """Do the next thing; None where there is nothing to do now. Without `probing` no probe is begun.

        Raises RedisUnavailable or RedisRefused.
        """
        while (result := self._prober.next_result()) is not None:
            self._take(result)
        now = time.monotonic()
        if self._results:
            return self._count(*self._results.popleft())
        if (change := self._fleet.next_change()) is not None:
            return self._look(change)
        if (provider := self._providers.circuits.pop(now)) is not None:
            return self._move(provider, probing)
        if (provider := self._providers.overrides.pop(now)) is not None:
            return self._lapse(provider)
        if probing and (shared := self._providers.probes.pop(now)) is not None:
            return self._start(shared)
        return self._tidy_up() if now >= self._tidy_at else None

    def start_all_probes(self) -> int:
        """Begin every probe that can be made, whosever turn it is; how many run now."""
        probes = list(self._providers.all_probes())
        random.shuffle(probes)  # where a run ends before all were made, the next one begins with others
        for shared in probes:
            self._start(shared)
        return self._providers.running

    def stand_by(self) -> None:
        """Another worker leads. Probe results in a row are kept; every provider is looked at in the next term."""
        while (result := self._prober.next_result()) is not None:
            self._providers.ended(result, 0.0)
        for name in self._fleet.drop_changes():
            self._providers.forget(name)
        self._results.clear()
        self._tidy_at = 0.0

    @property
    def probes_running(self) -> int:
        """So many results are awaited."""
        return self._providers.running

    @property
    def next_at(self) -> float:
        """The monotonic moment of the next step that nothing announces: neither a ring nor a step before it."""
        of = self._providers
        return min(of.circuits.next_at, of.overrides.next_at, of.probes.next_at, self._tidy_at)

    # One provider

    def _look(self, change: Change) -> Step:
        """Bring what is known of it, and its circuit's turn, up to date with its record."""
        name = change.name
        health, spec = self._fleet.records.get(name), self._fleet.specs.get(name)
        if change.gone or health is None:
            self._providers.forget(name)
        if health is None:
            return NOTHING_TO_TELL
        provider = self._providers.of(name, spec.probe if spec is not None else None)
        if health.circuit_state is OPEN:
            self._providers.circuits.put(provider, max(self._fleet.due_at(health), provider.retry_at))
        else:
            self._providers.circuits.drop(provider)
        self._providers.overrides.put(provider, self._fleet.override_ends_at(health))
        return self._end_probe(provider, health) if spec is not None else NOTHING_TO_TELL

    def _end_probe(self, provider: ProviderState, health: ProviderHealth) -> Step:
        """A provider whose probe was taken away, or cannot be made here, is no longer unavailable because of it."""
        if provider.shared is not None and not provider.shared.impossible:
            return NOTHING_TO_TELL
        fields = {"available": "1"} if health.unavailable_reason == TakenOutBy.PROBE else {}
        said = "" if provider.shared is None else _in_record(f"cannot: {provider.shared.impossible}")
        if health.probe_result != said:
            fields["probe_result"] = said
        return self._update(provider.name, fields)

    def _move(self, provider: ProviderState, probing: bool) -> Step:
        """From open to half-open, where its time has come and its probe passes."""
        name, shared = provider.name, provider.shared
        health = self._fleet.records.get(name)
        if health is None or health.circuit_state is not OPEN:
            return NOTHING_TO_TELL
        now, due_at = time.monotonic(), self._fleet.due_at(health)
        if now < max(due_at, provider.retry_at):
            self._providers.circuits.put(provider, max(due_at, provider.retry_at))
            return NOTHING_TO_TELL
        if shared is not None and not shared.impossible and not shared.passed_since(due_at):
            if probing and shared.is_worth_making(due_at):
                self._start(shared)
            return NOTHING_TO_TELL  # its result brings the circuit back here
        provider.retry_at = now + 1.0  # unless it moves: where the record in Redis is not what we think
        self._providers.circuits.put(provider, provider.retry_at)
        reply = self._write(name, lambda: self._store.half_open(name, self._election.epoch))
        if reply is not None and reply.transitions:
            provider.retry_at = 0.0
        elif reply is not None and reply.status is Status.NOT_DUE:
            provider.retry_at = now + 0.05  # our idea of Redis's clock was early
        self._fleet.note(name)
        return _told(reply)

    def _lapse(self, provider: ProviderState) -> Step:
        """Write that an override is over, so that the log and all who listen hear of it at once."""
        health = self._fleet.records.get(provider.name)
        if health is None:
            return NOTHING_TO_TELL
        now, ends_at = time.monotonic(), self._fleet.override_ends_at(health)
        if ends_at > now:
            self._providers.overrides.put(provider, ends_at)
            return NOTHING_TO_TELL
        self._providers.overrides.put(provider, now + 0.25)  # where our idea of Redis's clock was early
        writer = self._store.writer
        reply = self._write(provider.name, lambda: self._store.override(provider.name, LAPSE, 0, 0.0, writer, ""))
        return _told(reply)

    # Probes

    def _start(self, shared: SharedProbe) -> Step:
        self._providers.begun(shared)
        self._prober.start(shared.probe)
        return NOTHING_TO_TELL

    def _take(self, result: ProbeResult) -> None:
        """A result came in; what it says is counted for each provider in a step of its own."""
        shared = self._providers.ended(result, time.monotonic() + self._interval * random.uniform(0.9, 1.1))
        if result.outcome is ProbeOutcome.IMPOSSIBLE:
            log.error("cannot probe %s: %s", result.probe.url, result.why)
        elif result.outcome is ProbeOutcome.NOT_ASKED:
            self._seldom.say("not asked", "could not probe %s this time: %s", result.probe.url, result.why)
        for provider in shared.providers:
            if result.outcome.is_final:
                self._results.append((provider, result))
            else:
                self._fleet.note(provider.name)

    def _count(self, provider: ProviderState, result: ProbeResult) -> Step:
        name = provider.name
        if provider.probe != result.probe:
            return NOTHING_TO_TELL  # it was given another one meanwhile, or is gone
        passed, failed_before = result.outcome is ProbeOutcome.PASSED, provider.fails > 0
        provider.count(passed)
        self._metrics.probed(name, passed=passed)
        self._fleet.note(name)
        health = self._fleet.records.get(name)
        was_out = health is not None and health.unavailable_reason == TakenOutBy.PROBE
        if passed and was_out and provider.passes == SUCCESS_THRESHOLD:
            log.warning("probe of %s passed %d times in a row: it is back in service", name, provider.passes)
        elif passed and failed_before:
            log.info("probe of %s passes again", name)
        elif provider.fails == 1:
            log.warning("probe of %s failed: %s", name, result.why)
        elif provider.fails == FAILURE_THRESHOLD:
            text = "probe of %s failed %d times in a row: it is taken out of service until it passes %d times; %s"
            log.warning(text, name, provider.fails, SUCCESS_THRESHOLD, result.why)
        step = self._update(name, _fields_to_write(provider, health, passed, result.why))
        return Step(probed=name, why=None if passed else result.why, outranked_by=step.outranked_by)

    # Writes

    def _update(self, name: str, fields: dict[str, str]) -> Step:
        """What a probe says of a provider."""
        if not fields:
            return NOTHING_TO_TELL
        epoch = self._election.epoch
        return _told(self._write(name, lambda: self._store.update(name, fields, source="probe", epoch=epoch)))

    def _write(self, name: str, write: Callable[[], Reply]) -> Reply | None:
        """What a write on one record did; None where it was refused, which holds up no other record."""
        try:
            reply = write()
        except RouterError as error:
            if isinstance(error, RedisRefused) and not isinstance(error, AccessDenied):
                self._fleet.refused(name, error)
                return None
            self._fleet.note(name)  # no matter of this record: it is looked at again when Redis is back
            raise
        for change in reply.transitions:
            self._metrics.transition(change, reply.health)
            log.warning("%s is half_open (%s), was open; moved by %s", name, change.reason, self._store.writer)
        self._fleet.take_in(name, reply)
        return reply

    def _tidy_up(self) -> Step:
        """Once in a while, and at the beginning of a term."""
        self._tidy_at = time.monotonic() + TIDY_SECONDS
        try:
            for name in remove_old_tombstones(self._store):
                log.info("%s was deregistered more than a week ago: its tombstone in Redis is removed", name)
        except RedisRefused as error:
            log.warning("cannot remove the tombstones of providers that were deregistered long ago: %s", error)
        return NOTHING_TO_TELL


def _told(reply: Reply | None) -> Step:
    if reply is None:
        return NOTHING_TO_TELL
    if reply.status is not Status.FENCED:
        return Step(reply.transitions)
    return Step(reply.transitions, outranked_by=reply.health.leader_epoch if reply.health is not None else 0)


def _fields_to_write(provider: ProviderState, health: ProviderHealth | None, passed: bool, why: str) -> dict[str, str]:
    """Availability from the thresholds on; the words on edges, not each new word."""
    fields = {}
    if provider.passes >= SUCCESS_THRESHOLD or provider.fails >= FAILURE_THRESHOLD:
        fields["available"] = str(int(passed))
    said = health.probe_result if health is not None else PASSES
    if said == "" or passed is (said != PASSES):
        fields["probe_result"] = PASSES if passed else _in_record(why)
    return fields


def _in_record(said: str) -> str:
    """Short enough to stand in the record, and printable."""
    return re.sub(r"[^ -~]", "?", said)[:60] or "failed"
