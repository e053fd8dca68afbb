"""The half-open permits this replica holds: claimed ahead of need, spent by calls, renewed while they run.

`take` is called on the request path and does no I/O. `tend` is called by the engine's thread and does the rest.
"""

import random
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from itertools import count

from redis_router.circuit.outcome import Outcome, Result
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import AccessDenied, RedisRefused, RouterError
from redis_router.replica.local import is_local
from redis_router.store.contract import Store
from redis_router.telemetry.metrics import Metrics

OWN_IN_HAND = 3
"""While Redis is away, so many permits wait in hand at most."""
UNREPORTED = 60.0
"""Seconds for which a permit is renewed whose call `select_provider` handed out and nobody reported yet."""


@dataclass(eq=False, slots=True)
class Permit:
    """The right to one call in half-open, good for `generation`. `until` is None while a call surely runs."""

    provider: str
    token: str
    generation: int
    until: float | None

    @property
    def is_over(self) -> bool:
        """Did it wait for its call too long?"""
        return self.until is not None and time.monotonic() > self.until


class Permits:
    """One replica's permits. At most one per provider waits in hand; a call that takes it makes room for the next.

    `put` takes the results that hand permits back; `on_refused` is told of a record that Redis refuses to use,
    `on_claimed` that there is a permit in hand.
    """

    def __init__(
        self,
        store: Store,
        metrics: Metrics,
        put: Callable[[Result], None],
        on_refused: Callable[[str, str], None],
        on_claimed: Callable[[str], None],
        ttl: float,
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._put = put
        self._on_refused = on_refused
        self._on_claimed = on_claimed
        self._ttl = ttl
        self._tokens = count(1)
        self._in_hand: dict[str, deque[Permit]] = {}
        self._running: dict[str, Permit] = {}
        self._unreported: dict[str, deque[Permit]] = {}
        self._asked: dict[str, str] = {}  # provider -> the token of a claim whose answer may be lost: asked for again
        self._claim_at: dict[str, float] = {}
        self._alone: set[str] = set()  # tokens of our own, given out while Redis was away
        self._renew_at = 0.0
        self._closing = False
        self._serving_alone = False

    def take(self, name: str) -> Permit | None:
        """Spend the permit in hand for this provider, None where there is none."""
        try:
            permit = self._in_hand[name].popleft()  # atomic: one caller gets it
        except (KeyError, IndexError):
            return None
        permit.until = time.monotonic() + UNREPORTED
        self._running[permit.token] = permit
        self._renew_at = 0.0  # it may have waited long: renewed as soon as the thread looks
        return permit

    def await_report(self, permit: Permit) -> None:
        """A permit spent by `select_provider`: the next `record_result` of this provider returns it."""
        self._unreported.setdefault(permit.provider, deque()).append(permit)

    def reported(self, name: str, generation: int) -> Permit | None:
        """The longest unreported permit of this provider and generation, done with; None where there is none.

        Older ones belong to calls that nobody will report: a result of today must not be taken for theirs.
        """
        waiting = self._unreported.get(name)
        while waiting:
            try:
                permit = self.done(waiting.popleft())
            except IndexError:  # another thread took it
                return None
            if permit.generation == generation and time.monotonic() < (permit.until or 0.0):
                return permit
            self.hand_back(permit)
        return None

    def abandon(self, permit: Permit) -> None:
        """The attempt that held it is gone: hand it back, unless its call began."""
        if permit.until is not None:
            self.hand_back(permit)

    def hand_back(self, permit: Permit) -> None:
        """Return a permit without a verdict."""
        if permit.token in self._alone and permit.token not in self._running:
            self._alone.discard(permit.token)  # never used, and unknown to Redis
            return
        self.done(permit)
        self._put(Result(permit.provider, Outcome.IGNORED, 0.0, permit.generation, permit.token))

    def forget(self, name: str) -> None:
        """This provider is no more: what waits for a call, or for its report, goes back."""
        for permit in (*self._in_hand.pop(name, ()), *self._unreported.pop(name, ())):
            self.hand_back(permit)
        self._asked.pop(name, None)
        self._claim_at.pop(name, None)

    def done(self, permit: Permit) -> Permit:
        """The call is over: stop renewing. Its outcome carries the token back."""
        self._running.pop(permit.token, None)
        self._alone.discard(permit.token)
        return permit

    @property
    def idle(self) -> bool:
        """Nothing in hand and nothing running: there is nothing to tend."""
        return not self._running and not any(self._in_hand.values())

    def tend(self, trials: Mapping[str, ProviderHealth], in_demand: Collection[str]) -> None:
        """Give back, renew what runs, claim where there is demand: this one talks to Redis. Raises RouterError.

        `trials` are the providers on trial, by name; where this replica alone made one half-open, permits are its own.
        """
        now = time.monotonic()
        self._serving_alone = False
        self._sort_out(
            lambda permit: (permit.token in self._alone) == is_local(permit) and _is_good(permit, trials, now)
        )
        if self._running and now >= self._renew_at:
            self._renew(now)
        for name, health in trials.items():
            if is_local(health):
                self._serve_own(name, health)
            elif not self._in_hand.get(name) and now >= self._claim_at.get(name, 0.0) and name in in_demand:
                self._claim(name)

    def serve_alone(self, trials: Mapping[str, ProviderHealth]) -> None:
        """While Redis is away: permits of our own, as many at once as a record allows, for this replica alone.

        Calls that began before count. When Redis is back it is asked for those still running, as for any other.
        """
        now = time.monotonic()
        self._serving_alone = True
        self._sort_out(lambda permit: _is_good(permit, trials, now))
        for permit in self._expired(now):
            self.done(permit)
        for name, health in trials.items():
            self._serve_own(name, health)

    def _serve_own(self, name: str, health: ProviderHealth) -> None:
        """A few permits in hand, while fewer than the record allows are out; the next follow when these are spent."""
        hand = self._in_hand.setdefault(name, deque())
        out = {p.token for p in (*list(hand), *list(self._running.values())) if p.provider == name}
        out |= {token for token in list(self._alone) if token.startswith(f"{name}|")}
        free = min(OWN_IN_HAND - len(hand), health.config.half_open_max_probes - len(out))
        for _ in range(0 if self._closing else free):
            token = f"{name}|{self._store.session}:{next(self._tokens)}"
            self._alone.add(token)
            hand.append(Permit(name, token, health.generation, float("inf")))
            self._on_claimed(name)

    def _expired(self, now: float) -> list[Permit]:
        """Running permits whose call nobody will report."""
        running = [(permit, permit.until) for permit in list(self._running.values())]  # another thread clears `until`
        return [permit for permit, until in running if until is not None and now > until]

    def give_back_all(self) -> None:
        """Hand every unspent permit back and claim no more, on the way out."""
        self._closing = True
        self._sort_out(lambda permit: False)

    def _sort_out(self, keep: Callable[[Permit], bool]) -> None:
        for name, hand in list(self._in_hand.items()):
            for _ in range(len(hand)):
                try:
                    permit = hand.popleft()
                except IndexError:  # spent meanwhile
                    break
                if keep(permit):
                    hand.append(permit)
                else:
                    self._return_unused(name, permit)

    def _return_unused(self, name: str, permit: Permit) -> None:
        self.hand_back(permit)
        self._claim_at[name] = time.monotonic() + random.uniform(0.05, 0.2) * self._ttl  # others' turn first

    def _claim(self, name: str) -> None:
        if self._closing:
            return
        # set before the answer: one provider that cannot be asked must not keep the others from their turn
        self._claim_at[name] = (sent := time.monotonic()) + random.uniform(0.02, 0.06) * self._ttl
        token = self._asked.setdefault(name, f"{self._store.session}:{next(self._tokens)}")
        generation, held = self._ask(name, [token])
        del self._asked[name]
        if not held:
            return
        self._claim_at[name] = 0.0
        self._metrics.permit_claimed(name)
        permit = Permit(name, token, generation, sent + self._ttl * 0.5)
        if self._closing or self._serving_alone:  # others were made meanwhile, by a thread that did not wait for this
            self.hand_back(permit)
            return
        self._in_hand.setdefault(name, deque()).append(permit)
        self._on_claimed(name)
        if self._closing:
            self._sort_out(lambda permit: False)

    def _renew(self, now: float) -> None:
        self._renew_at = now + self._ttl / 3
        tokens: dict[str, list[str]] = {}
        for permit in self._expired(now):
            self.done(permit)  # its permit runs out
        for permit in list(self._running.values()):
            if not is_local(permit):
                tokens.setdefault(permit.provider, []).append(permit.token)
        # in another order each time: one provider that cannot be asked must not keep the others from their turn
        for name, held in random.sample(list(tokens.items()), len(tokens)):
            try:
                self._ask(name, held)
            except RouterError:
                self._renew_at = 0.0
                raise

    def _ask(self, name: str, tokens: list[str]) -> tuple[int, list[str]]:
        try:
            return self._store.claim(name, tokens, round(self._ttl * 1000))
        except AccessDenied:
            raise
        except RedisRefused as error:  # this record is unusable: no matter of the connection
            self._on_refused(name, str(error))
            return 0, []


def _is_good(permit: Permit, trials: Mapping[str, ProviderHealth], now: float) -> bool:
    """May this permit, in hand, still be spent?"""
    health = trials.get(permit.provider)
    return health is not None and permit.generation == health.generation and now < (permit.until or 0.0)
