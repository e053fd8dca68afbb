"""The half-open permits this replica holds: claimed ahead of need, spent by calls, renewed while they run.

`take` is called on the request path and does no I/O. `tend` claims, renews and gives back: in Redis for circuits of the
fleet's, by the thread that talks to it; in this replica's own store for those that it decides on alone.
"""

import random
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count

from redis_router.circuit.generations import is_local
from redis_router.circuit.outcome import Outcome, Result
from redis_router.circuit.record import ProviderHealth
from redis_router.errors import AccessDenied, RedisRefused, RouterError
from redis_router.replica.facts import Claimed, Fact, Unclaimable
from redis_router.replica.outbox import Outbox
from redis_router.store.contract import Store
from redis_router.telemetry.metrics import Metrics

OWN_IN_HAND = 3
"""Of a circuit that this replica decides on alone, so many permits wait in hand at most."""
UNREPORTED = 60.0
"""Seconds for which a permit is renewed whose call `select_provider` handed out and nobody reported yet."""


@dataclass(eq=False, slots=True)
class Permit:
    """The right to one call in half-open, good for `generation`. `until` is None while a call surely runs."""

    provider: str
    token: str
    generation: int
    until: float | None
    store: Store = field(repr=False)
    """Where it was claimed."""

    @property
    def is_over(self) -> bool:
        """Did it wait for its call too long?"""
        return self.until is not None and time.monotonic() > self.until

    def is_good_for(self, health: ProviderHealth | None, store: Store) -> bool:
        """May it, in hand, still be spent on a trial that `store` decides on?"""
        claimed_there = self.store is store or not store.is_shared  # what Redis gave counts when it is away, too
        return health is not None and self.generation == health.generation and claimed_there and not self.is_over


@dataclass(slots=True)
class _Hand:
    """One provider's permits that wait: for a call, and for a report of it."""

    unspent: deque[Permit] = field(default_factory=deque)
    unreported: deque[Permit] = field(default_factory=deque)
    asked: str = ""
    """The token of a claim whose answer may be lost: it is asked for again."""
    claim_at: float = 0.0


class Permits:
    """One replica's permits. A call that takes the one in hand makes room for the next."""

    def __init__(self, outbox: Outbox, metrics: Metrics, session: str, ttl: float) -> None:
        self._outbox = outbox
        self._metrics = metrics
        self._session = session
        self._ttl = ttl
        self._tokens = count(1)
        self._hands: dict[str, _Hand] = {}
        self._running: dict[str, Permit] = {}
        self._renew_at = {True: 0.0, False: 0.0}  # in a store of the fleet's, and in our own
        self._closing = False

    # The request path

    def take(self, name: str) -> Permit | None:
        """Spend the permit in hand for this provider, None where there is none."""
        try:
            permit = self._hands[name].unspent.popleft()  # atomic: one caller gets it
        except (KeyError, IndexError):
            return None
        permit.until = time.monotonic() + UNREPORTED
        self._running[permit.token] = permit
        self._renew_at[permit.store.is_shared] = 0.0  # it may have waited long: renewed as soon as the thread looks
        return permit

    def await_report(self, permit: Permit) -> None:
        """A permit spent by `select_provider`: the next `record_result` of this provider returns it."""
        self._hands.setdefault(permit.provider, _Hand()).unreported.append(permit)

    def reported(self, name: str, generation: int) -> Permit | None:
        """The longest unreported permit of this provider and generation, done with; None where there is none.

        Older ones belong to calls that nobody will report: a result of today must not be taken for theirs.
        """
        hand = self._hands.get(name)
        while hand is not None and hand.unreported:
            try:
                permit = self.done(hand.unreported.popleft())
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
        self.done(permit)
        self._outbox.put(Result(permit.provider, Outcome.IGNORED, 0.0, permit.generation, permit.token))

    def done(self, permit: Permit) -> Permit:
        """The call is over: stop renewing. Its outcome carries the token back."""
        self._running.pop(permit.token, None)
        return permit

    # The background

    @property
    def idle(self) -> bool:
        """Nothing in hand and nothing running: there is nothing to tend."""
        return not self._running and not any(hand.unspent for hand in list(self._hands.values()))

    def forget(self, name: str) -> None:
        """This provider is no more: what waits for a call, or for its report, goes back."""
        self._let_go(self._hands.pop(name, _Hand()))

    def _let_go(self, hand: _Hand) -> None:
        for waiting in (hand.unspent, hand.unreported):
            while waiting:
                try:
                    self.hand_back(waiting.popleft())
                except IndexError:  # another thread took it
                    break

    def returned(self, name: str) -> None:
        """A permit of ours went back to the store: the next may be claimed at once."""
        if (hand := self._hands.get(name)) is not None:
            hand.claim_at = 0.0

    def give_back_all(self) -> None:
        """Hand every unspent permit back and claim no more, on the way out."""
        self._closing = True
        for name in list(self._hands):
            self._sort_out(name, None, None)

    def tend(self, store: Store, trials: Mapping[str, ProviderHealth], in_demand: Collection[str]) -> Iterator[Fact]:
        """Give back what is not good any more, renew what runs, claim where there is demand. Raises RouterError.

        `trials` are the half-open circuits that `store` decides on, by provider.
        """
        now = time.monotonic()
        for name, hand in list(self._hands.items()):
            if name in trials or any(permit.store is store for permit in list(hand.unspent)):
                self._sort_out(name, trials.get(name), store)
        if self._running and now >= self._renew_at[store.is_shared]:
            yield from self._renew(store, trials, now)
        for name in trials:
            hand = self._hands.setdefault(name, _Hand())
            wanted = (1 if store.is_shared else OWN_IN_HAND) - len(hand.unspent)
            may_ask = not self._closing and (now >= hand.claim_at or not store.is_shared)
            if wanted > 0 and may_ask and name in in_demand:
                yield from self._claim(store, name, hand, wanted)

    def _sort_out(self, name: str, health: ProviderHealth | None, store: Store | None) -> None:
        hand = self._hands[name]
        for _ in range(len(hand.unspent)):
            try:
                permit = hand.unspent.popleft()
            except IndexError:  # spent meanwhile
                break
            if store is not None and permit.is_good_for(health, store):
                hand.unspent.append(permit)
            else:
                self.hand_back(permit)
                hand.claim_at = time.monotonic() + random.uniform(0.05, 0.2) * self._ttl  # others' turn first

    def _claim(self, store: Store, name: str, hand: _Hand, wanted: int) -> Iterator[Fact]:
        sent = time.monotonic()
        if store.is_shared:  # before the answer: one that cannot be asked must not keep the others from their turn
            hand.claim_at = sent + random.uniform(0.02, 0.06) * self._ttl
        for _ in range(wanted):
            token = hand.asked = hand.asked or f"{self._session}:{next(self._tokens)}"
            try:
                generation, held = store.claim(name, [token], self._ttl_ms)
            except AccessDenied:
                raise
            except RedisRefused as error:  # this record is unusable: no matter of the connection
                yield Unclaimable(name, str(error))
                return
            hand.asked = ""
            if not held:
                return
            hand.claim_at = 0.0
            permit = Permit(name, token, generation, sent + self._ttl * 0.5, store)
            if self._closing:
                self.hand_back(permit)
                return
            if store.is_shared:
                self._metrics.permit_claimed(name)
            hand.unspent.append(permit)
            if self._closing:
                self._sort_out(name, None, None)
            elif self._hands.get(name) is not hand:  # the provider was taken out while the answer was under way
                self._let_go(hand)
                return
            yield Claimed(name)

    @property
    def _ttl_ms(self) -> int:
        return round(self._ttl * 1000)

    def _renew(self, store: Store, trials: Mapping[str, ProviderHealth], now: float) -> Iterator[Fact]:
        """What Redis knows by now as running, it is asked for; calls that began elsewhere count from then on."""
        self._renew_at[store.is_shared] = now + self._ttl / 3
        tokens: dict[str, list[str]] = {}
        for permit in list(self._running.values()):
            until = permit.until  # another thread clears it
            if until is not None and now > until:
                self.done(permit)  # a call that nobody will report: its permit runs out
            elif permit.provider in trials if not store.is_shared else not is_local(permit.generation):
                tokens.setdefault(permit.provider, []).append(permit.token)
        # in another order each time: one provider that cannot be asked must not keep the others from their turn
        for name, held in random.sample(list(tokens.items()), len(tokens)):
            try:
                store.claim(name, held, self._ttl_ms)
            except AccessDenied:
                self._renew_at[store.is_shared] = 0.0
                raise
            except RedisRefused as error:
                yield Unclaimable(name, str(error))
            except RouterError:
                self._renew_at[store.is_shared] = 0.0
                raise
