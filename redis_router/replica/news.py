"""What happened to a circuit, in the log: aloud by the process that caused it, one step lower by those who heard it."""

import logging
from collections import deque

from redis_router.circuit.generations import is_local
from redis_router.circuit.overrides import FOR_EVER_MS, LETS_IN
from redis_router.circuit.record import ProviderHealth, Transition
from redis_router.replica.alone import Alone
from redis_router.runtime.log import log


class News:
    """Lines wait for a thread that holds no lock: a log handler may take its time, and call the router."""

    def __init__(self, replica: str, alone: Alone) -> None:
        self._replica = replica
        self._alone = alone
        self._unsaid: deque[tuple[int, str]] = deque()

    def is_of_this_replica(self, health: ProviderHealth) -> bool:
        """Did this replica decide that for itself?"""
        return self._alone.decides_on(health.name) or is_local(health.generation)

    def error(self, text: str) -> None:
        """Something that an operator should see to."""
        self._unsaid.append((logging.ERROR, text))

    def warning(self, text: str) -> None:
        """Something that an operator should know."""
        self._unsaid.append((logging.WARNING, text))

    def transition(self, change: Transition, health: ProviderHealth, by: str) -> None:
        """A circuit moved; `by` is the process that caused it, '' where that is unknown."""
        verb = "would be" if health.override in LETS_IN else "is"
        text = f"{change.provider} {verb} {change.to_state} ({change.reason}), was {change.from_state}"
        self._note(health, by, logging.WARNING, text)

    def cooldown(self, health: ProviderHealth, by: str, now_ms: float) -> None:
        """A provider wants no calls for a while."""
        seconds = health.cooling_for_ms(now_ms) / 1000
        if seconds > 0:
            self._note(health, by, logging.INFO, f"{health.name} is rate limited: no calls for {seconds:.1f} s")

    def override(self, old: ProviderHealth, new: ProviderHealth, by: str, now_ms: float) -> None:
        """An operator said something for a time, or that ended."""
        for kind, before, after in zip(("override", "weight override"), _said(old), _said(new), strict=True):
            word, until_ms, who, reason = after
            if word == before[0]:
                continue
            if word:  # no replica caused it
                left = "for ever" if until_ms >= FOR_EVER_MS else f"for {max(0.0, until_ms - now_ms) / 1000:.0f} s"
                text = f"{new.name}: {kind} {word} {left}, by {who}: {reason or 'no reason given'}"
            else:
                text = f"{new.name}: {kind} {before[0]} ended" + (f", by {by}" if by else "")
            self._unsaid.append((logging.INFO, text))

    def _note(self, health: ProviderHealth, by: str, level: int, text: str) -> None:
        caused_here = self.is_of_this_replica(health) or by == self._replica
        self._unsaid.append((level if caused_here else level - 10, f"{text}; {self._seen_by(health, by)}"))

    def _seen_by(self, health: ProviderHealth, by: str) -> str:
        if self._alone.on_all:
            return f"decided by {self._replica} alone, while Redis is away"
        if self._alone.decides_on(health.name):
            return f"decided by {self._replica} alone, as its record cannot be used"
        if is_local(health.generation):
            return f"for {self._replica} alone, as fewer than min_reporters={health.config.min_reporters} complain"
        return f"seen by {by}" if by else "read from Redis"

    def say(self) -> None:
        """Log what was noted."""
        while self._unsaid:
            try:
                level, text = self._unsaid.popleft()
            except IndexError:  # another thread said it
                return
            log.log(level, "%s", text)


def _said(health: ProviderHealth) -> tuple[tuple[str, int, str, str], ...]:
    """What operators said of its state and of its weight: the word, until when, who and why."""
    weight = f"{health.weight_override:g}" if health.weight_override_until_ms else ""
    return (
        (health.override, health.override_until_ms, health.override_by, health.override_reason),
        (weight, health.weight_override_until_ms, health.weight_override_by, health.weight_override_reason),
    )
