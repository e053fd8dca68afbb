"""What a leader does: moves due circuits to half-open, judges probes, and keeps the marks of both up to date.

One thing at a time and each by itself, so that a turn may end between any two of them: the lease is renewed in time and
the end does not wait, however many providers there are. Nothing goes through all providers for the sake of one.
"""

import random
import re
import time
from collections import deque
from dataclasses import dataclass, field

from redis_router.circuit.machine import OPEN
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import RedisRefused
from redis_router.replica.mirror import Mirror
from redis_router.runtime.alarm import Flag
from redis_router.runtime.log import Seldom, log
from redis_router.store.messages import Spec
from redis_router.store.redis import Store
from redis_router.telemetry.metrics import Metrics
from redis_router.worker import purge
from redis_router.worker.election import Election
from redis_router.worker.prober import Prober, Said, Verdict
from redis_router.worker.schedule import Agenda, Changes, Question, Watch, Watched
from redis_router.worker.writes import Writes

PASSES = "passes"
"""What the record says of a probe that passed."""
FAILS_TO_MARK, PASSES_TO_MARK = 3, 2
"""So many probes in a row mark a provider unavailable, or available again."""
TIDY_SECONDS = 3600.0
"""How often the leader looks for marks of providers that were deregistered long ago."""


@dataclass(slots=True)
class Done:
    """What was done: `probed` maps a provider to None where it passed, else to the reason."""

    half_opened: list[str] = field(default_factory=list)
    probed: dict[str, str | None] = field(default_factory=dict)


class Duties:
    """The worker's thread calls all but `note` and `forget`, which any thread may call."""

    def __init__(
        self,
        store: Store,
        mirror: Mirror,
        election: Election,
        prober: Prober,
        metrics: Metrics,
        interval: float,
        stop: Flag,
    ) -> None:
        self._store = store
        self._mirror = mirror
        self._election = election
        self._prober = prober
        self._metrics = metrics
        self._interval = interval
        self._stop = stop
        self._watch = Watch()
        self._circuits: Agenda[str] = Agenda()
        self._changes = Changes()
        self._writes = Writes(store, mirror, election, metrics, self._changes)
        self._specs: dict[str, Spec] | None = None
        """As all providers were looked at last."""
        self._to_judge: deque[tuple[str, Verdict]] = deque()
        self._seldom = Seldom(10.0)
        self._tidy_at = 0.0

    # What the mirror tells

    def note(self, name: str) -> None:
        """Look at this provider in the next turn."""
        self._changes.note(name)

    def forget(self, name: str) -> None:
        """Its record is gone."""
        self._writes.forget(name)

    # Turns

    def work(self, until: float, *, asks: bool = True) -> Done:
        """Do what is due, up to that monotonic moment. Without `asks` no probe is begun.

        Raises RedisUnavailable or RedisRefused.
        """
        done = Done()
        if self._mirror.specs is not self._specs:
            self._specs = self._mirror.specs
            for name in [*self._mirror.records, *self._watch.providers]:
                self._changes.note(name)

        def goes_on() -> bool:
            return self.is_leader and time.monotonic() < until and not self._stop.is_set()

        while goes_on() and (verdict := self._prober.next_verdict()) is not None:
            self._take(verdict)
        while goes_on() and self._to_judge:
            name, verdict = self._to_judge.popleft()
            done.probed[name] = None if verdict.said is Said.PASSES else verdict.why
            self._judge(name, verdict)
        while goes_on() and (changed := self._changes.pop()) is not None:
            self._look(*changed)
        while goes_on() and (due := self._circuits.pop(time.monotonic())) is not None:
            if self._moved(due, asks):
                done.half_opened.append(due)
        while asks and goes_on() and (question := self._watch.due(time.monotonic())) is not None:
            self._start(question)
        if goes_on() and time.monotonic() >= self._tidy_at:
            self._tidy_up()
        return done

    def ask_all(self) -> int:
        """Begin every probe that can be made, whosever turn it is; how many run now."""
        questions = list(self._watch.all_questions())
        random.shuffle(questions)  # where a pass ends before all were asked, the next one begins with others
        for question in questions:
            self._start(question)
        return self._watch.running

    def stand_by(self) -> None:
        """Another worker leads. What is known of probes in a row is kept, and everything looked at in the next term."""
        while (verdict := self._prober.next_verdict()) is not None:
            self._watch.ended(verdict, 0.0)
        self._changes.clear()
        self._to_judge.clear()
        self._specs = None
        self._tidy_at = 0.0

    @property
    def is_leader(self) -> bool:
        """May this worker act?"""
        return self._election.is_leader

    @property
    def probes_running(self) -> int:
        """So many verdicts are awaited."""
        return self._watch.running

    def next_at(self, *, asks: bool = True) -> float:
        """The monotonic moment of the next thing to do."""
        if self._changes or self._to_judge or not self._prober.verdicts.empty():
            return 0.0
        return min(self._circuits.next_at, self._tidy_at, self._watch.next_at if asks else float("inf"))

    # One provider

    def _look(self, name: str, gone: bool) -> None:
        """Bring what is known of it, its marks and its circuit's turn up to date."""
        health, spec = self._mirror.records.get(name), self._mirror.specs.get(name)
        if gone or health is None:
            self._watch.forget(name)
            self._circuits.drop(name)
        if health is None:
            return
        watched = self._watch.of(name, spec.probe if spec is not None else None)
        if health.circuit_state is OPEN:
            self._circuits.put(name, max(self._due_at(health), watched.retry_at))
        else:
            self._circuits.drop(name)
        if spec is not None:
            self._lift_marks(watched, health)

    def _lift_marks(self, watched: Watched, health: ProviderHealth) -> None:
        """A provider whose probe was taken away, or cannot be made here, is no longer unavailable because of it."""
        if watched.question is not None and not watched.question.impossible:
            return
        fields = {"available": "1"} if health.unavailable_reason == "probe" else {}
        said = "" if watched.question is None else _in_record(f"cannot: {watched.question.impossible}")
        if health.probe_result != said:
            fields["probe_result"] = said
        if fields:
            self._writes.update(health.name, fields)

    # Open -> half-open

    def _due_at(self, health: ProviderHealth) -> float:
        """When an open circuit is due, on our monotonic clock; a moment later rather than earlier."""
        redis_now = self._mirror.redis_now_ms()
        if redis_now is None:
            return float("inf")
        return time.monotonic() + (health.due_in_ms(redis_now) + 1) / 1000

    def _moved(self, name: str, asks: bool) -> bool:
        health, watched = self._mirror.records.get(name), self._watch.providers.get(name)
        if health is None or watched is None or health.circuit_state is not OPEN:
            return False
        now, due_at = time.monotonic(), self._due_at(health)
        if now < max(due_at, watched.retry_at):
            self._circuits.put(name, max(due_at, watched.retry_at))
            return False
        question = watched.question
        if question is not None and not question.impossible and not question.passed_since(due_at):
            if asks and question.is_worth_asking(due_at):
                self._start(question)
            return False  # its verdict brings the circuit back here
        watched.retry_at = now + 1.0  # unless it moves: where the record in Redis is not what we think
        self._circuits.put(name, watched.retry_at)
        reply = self._writes.half_open(name)
        if reply is not None and reply.transitions:
            watched.retry_at = 0.0
        elif reply is not None and reply.status == "not_due":
            watched.retry_at = now + 0.05  # our idea of Redis's clock was early
        self._changes.note(name)
        return reply is not None and bool(reply.transitions)

    # Probes

    def _start(self, question: Question) -> None:
        self._watch.begun(question)
        self._prober.start(question.probe)

    def _take(self, verdict: Verdict) -> None:
        next_at = time.monotonic() + self._interval * random.uniform(0.9, 1.1)
        question = self._watch.ended(verdict, next_at)
        if verdict.said is Said.IMPOSSIBLE:
            log.error("cannot probe %s: %s", verdict.probe.url, verdict.why)
        elif verdict.said is Said.NOT_ASKED:
            self._seldom.say("not asked", "could not probe %s this time: %s", verdict.probe.url, verdict.why)
        for name in question.providers if question is not None else ():
            if verdict.said in (Said.PASSES, Said.FAILS):
                self._to_judge.append((name, verdict))
            else:
                self._changes.note(name)

    def _judge(self, name: str, verdict: Verdict) -> None:
        watched = self._watch.providers.get(name)
        if watched is None or watched.question is None or watched.question.probe != verdict.probe:
            return  # it was given another one meanwhile
        passed, failed_before = verdict.said is Said.PASSES, watched.fails > 0
        watched.count(passed)
        self._metrics.probed(name, passed=passed)
        self._changes.note(name)
        health = self._mirror.records.get(name)
        if passed and health is not None and health.unavailable_reason == "probe" and watched.passes == PASSES_TO_MARK:
            log.warning("probe of %s passed %d times in a row: it is back in service", name, watched.passes)
        elif passed and failed_before:
            log.info("probe of %s passes again", name)
        elif watched.fails == 1:
            log.warning("probe of %s failed: %s", name, verdict.why)
        elif watched.fails == FAILS_TO_MARK:
            text = "probe of %s failed %d times in a row: it is taken out of service until it passes %d times; %s"
            log.warning(text, name, watched.fails, PASSES_TO_MARK, verdict.why)
        self._write_probe_state(watched, verdict, health)

    def _write_probe_state(self, watched: Watched, verdict: Verdict, health: ProviderHealth | None) -> None:
        passed, fields = verdict.said is Said.PASSES, {}
        if watched.passes >= PASSES_TO_MARK or watched.fails >= FAILS_TO_MARK:
            fields["available"] = str(int(passed))
        said = health.probe_result if health is not None else PASSES
        failed_before = said not in ("", PASSES)
        if said == "" or failed_before is passed:  # an edge, not each new word
            fields["probe_result"] = PASSES if passed else _in_record(verdict.why)
        if fields:
            self._writes.update(watched.name, fields)

    # Old marks

    def _tidy_up(self) -> None:
        """Once in a while, and at the beginning of a term."""
        self._tidy_at = time.monotonic() + TIDY_SECONDS
        try:
            for name in purge.drop_marks(self._store):
                log.info("%s was deregistered more than a week ago: its mark in Redis is removed", name)
        except RedisRefused as error:
            log.warning("cannot remove the marks of providers that were deregistered long ago: %s", error)


def _in_record(verdict: str) -> str:
    """Short enough to stand in the record, and printable."""
    return re.sub(r"[^ -~]", "?", verdict)[:60] or "failed"
