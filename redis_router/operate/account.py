"""A full account of one provider: how it is, why, and until when; for `redis-router status PROVIDER` and for the page.

`Account.lines` says it in words, `Account.facts` as JSON. Both are made of what Redis holds: the record, the keys
beside it, and the words of the replicas.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis_router.circuit.capacity import answer_rate
from redis_router.circuit.record import CircuitState, ProviderHealth, TakenOutBy
from redis_router.operate import words
from redis_router.operate.words import ago, lasted
from redis_router.replicas import Replica, ViewState
from redis_router.store.contract import Snapshot
from redis_router.store.memory_records import reports_kept_ms
from redis_router.store.messages import Spec
from redis_router.store.presence import Surroundings

SHOWN_PER_S = 0.05
"""Answers a second: less is none."""
MOST_NAMED = 8
"""Replicas in one line."""
NOT_ALLOWED = "not allowed to look: it takes the right to zrange"


@dataclass(frozen=True, slots=True)
class Account:
    """One record and what there is around it; `fleet` is None where Redis refuses to tell it."""

    health: ProviderHealth
    spec: Spec
    around: Surroundings
    fleet: Sequence[Replica] | None
    now_ms: int

    @classmethod
    def of(cls, name: str, snapshot: Snapshot, around: Surroundings, fleet: Sequence[Replica] | None) -> "Account":
        """Of a record that the snapshot has."""
        return cls(snapshot.records[name], snapshot.specs.get(name, Spec()), around, fleet, snapshot.now_ms)

    # What counts at this moment

    @property
    def permits(self) -> dict[str, int]:
        """The permits in use: token -> when it expires, ms."""
        return {token: until for token, until in self.around.permits.items() if until > self.now_ms}

    @property
    def reporters(self) -> dict[str, int]:
        """The sessions that complain: -> since when, ms."""
        kept = reports_kept_ms(self.health.config)
        return {who: at for who, at in self.around.reporters.items() if abs(self.now_ms - at) <= kept}

    @property
    def calls(self) -> dict[str, Any]:
        """The sessions with calls under way, as they said within the last minute; the most calls first."""
        lately = self.around.calls_at(self.now_ms)
        return dict(sorted(lately.items(), key=lambda each: (-each[1].calls, each[0])))

    @property
    def served_by(self) -> list[Replica]:
        """The gateways that said that they serve it."""
        name = self.health.name
        return [each for each in self.fleet or () if each.is_gateway and name in each.sees]

    # As JSON

    @property
    def facts(self) -> dict[str, Any]:
        """What a record does not hold: permits, reporters, calls and replicas, by name; and the words."""
        return {
            "permits": None if self.around.denied else _each(self.permits, "until_ms"),
            "reporters": None if self.around.denied else _each(self.reporters, "at_ms"),
            "calls": [
                {
                    "replica": _name(who),
                    "calls": it.calls,
                    "overdue": it.overdue,
                    "answering": it.answering,
                    "said_ms": it.said_ms,
                }
                for who, it in self.calls.items()
            ],
            "replicas": None
            if self.fleet is None
            else [{"replica": each.name, "sees": each.sees[self.health.name]} for each in self.served_by],
            "words": dict(self.lines),
        }

    # In words

    @property
    def lines(self) -> list[tuple[str, str]]:
        """What it is about, and what is to be said of it."""
        health, now_ms = self.health, self.now_ms
        said = [
            ("circuit", self._circuit()),
            ("next try", words.next_try(health, now_ms)),
            ("last failure", health.last_failure or "-"),
            ("available", words.available(health, now_ms)),
            ("probe", words.probe(self.spec, health)),
            ("rate limit", self._rate_limit()),
            ("override", self._override()),
            ("weight", self._weight()),
            ("permits", self._permits()),
            ("reporters", self._reporters()),
            ("calls", self._calls()),
            ("results", self._results()),
            ("replicas", self._replicas()),
            ("models", ", ".join(map(str, self.spec.models)) or "-"),
        ]
        return [(what, text) for what, text in said if text]

    def _circuit(self) -> str:
        health = self.health
        since = f" for {ago(self.now_ms, health.last_state_change_ms)}" if health.last_state_change_ms else ""
        text = f"{health.circuit_state}{since}, generation {health.generation}"
        if health.circuit_state is CircuitState.CLOSED:
            last = f"; opened last by {health.open_reason}" if health.open_reason else ""
            return f"{text}{last}"
        text += f"; opened by {health.open_reason or 'an unknown rule'}"
        if health.times_opened > 1:
            text += f", {health.times_opened} times in a row"
        if health.circuit_state is CircuitState.HALF_OPEN:
            wanted = health.config.half_open_success_threshold
            text += f"; {health.consecutive_successes} of {wanted} trial calls went well"
        return text

    def _rate_limit(self) -> str:
        cooling = self.health.cooling_for_ms(self.now_ms)
        return f"ends in {lasted(cooling)}, of {lasted(self.health.cooldown_ms)}" if cooling else "-"

    def _override(self) -> str:
        health = self.health
        if health.unavailable_reason == TakenOutBy.OPERATOR:
            return "available=False, until available=True"
        if health.override_until_ms <= self.now_ms:
            return "-"
        said = words.overridden(health.override, health.override_until_ms, health.override_by, self.now_ms)
        return f"{said}: {health.override_reason}" if health.override_reason else said

    def _weight(self) -> str:
        said, health = words.weight(self.health, self.now_ms), self.health
        is_overridden = health.weight_override_until_ms > self.now_ms
        return f"{said}: {health.weight_override_reason}" if is_overridden and health.weight_override_reason else said

    def _permits(self) -> str:
        if self.health.circuit_state is not CircuitState.HALF_OPEN and not self.permits:
            return "-"
        if self.around.denied:
            return NOT_ALLOWED
        held = [f"{_name(token)} for {lasted(until - self.now_ms)} more" for token, until in self.permits.items()]
        return _listed(f"{len(held)} of {self.health.config.half_open_max_probes} in use", held)

    def _reporters(self) -> str:
        needed = self.health.config.min_reporters
        if needed <= 1:
            return ""
        if self.around.denied:
            return NOT_ALLOWED
        complain = [f"{_name(who)} {ago(self.now_ms, at)} ago" for who, at in self.reporters.items()]
        return _listed(f"{len(complain)} of {needed} that it takes", complain)

    def _calls(self) -> str:
        each = [
            f"{_name(who)} {it.calls}" + (f" ({it.overdue} overdue)" if it.overdue else "")
            for who, it in self.calls.items()
        ]
        return _listed(words.calls(self.health), each)

    def _results(self) -> str:
        health = self.health
        if not health.last_result_ms:
            return "none yet"
        rows = (("failures", health.consecutive_failures), ("successes", health.consecutive_successes))
        in_a_row = [f"{what} in a row: {number}" for what, number in rows if number]
        parts = [f"last {ago(self.now_ms, health.last_result_ms)} ago", f"failure rate {health.failure_rate:.1%}"]
        parts += [f"latency {words.latency(health)}"] if health.latency_ms else []
        parts += [f"{rate:.1f} answers/s"] if (rate := answer_rate(health, self.now_ms)) >= SHOWN_PER_S else []
        return ", ".join([*parts, *in_a_row])

    def _replicas(self) -> str:
        if self.fleet is None:
            return "unknown, Redis refuses to tell"
        serving = self.served_by
        otherwise = [
            f"{replica.name} saw {each.sees}, was {each.record} for {lasted(each.for_ms)}"
            for replica in self.fleet
            for each in replica.differences
            if each.provider == self.health.name
        ]
        otherwise += [
            f"{replica.name} decides by itself, {replica.own[self.health.name]}"
            for replica in self.fleet
            if self.health.name in replica.own
        ]
        silent = [
            f"{each.name} silent for {lasted(each.silent_ms)}" for each in serving if each.state is ViewState.SILENT
        ]
        return _listed(f"{len(serving)} serve it", [*otherwise, *silent])


def _name(session: str) -> str:
    """The replica's, of a session or of a token: without what each start adds."""
    return session.rpartition(".")[0] or session


def _each(moments: Mapping[str, int], moment: str) -> list[dict[str, Any]]:
    return [{"replica": _name(who), moment: at} for who, at in sorted(moments.items())]


def _listed(sum_of_them: str, each: Iterable[str]) -> str:
    """1 of 3 in use: gw-1 for 4 s more."""
    named = list(each)
    more = f" and {len(named) - MOST_NAMED} more" if len(named) > MOST_NAMED else ""
    return f"{sum_of_them}: {', '.join(named[:MOST_NAMED])}{more}" if named else sum_of_them
