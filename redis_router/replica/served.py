"""Which providers this replica serves, each with its part for one model where it has a circuit for each."""

import time
from collections.abc import Iterable

from redis_router.circuit.config import CircuitConfig
from redis_router.circuit.overrides import FOR_EVER_MS, Override
from redis_router.circuit.record import ProviderHealth
from redis_router.provider import Provider

RETIRED_SECONDS = 3600.0
"""For so long a provider that was taken out is remembered."""


class Served:
    """By the names of their records. One thread at a time changes it."""

    def __init__(self, observe: bool = False) -> None:
        self._observe = observe
        self.providers: dict[str, Provider] = {}
        self.configs: dict[str, CircuitConfig] = {}
        self.retired: dict[str, float] = {}
        """Providers that were taken out, and when: results of calls still under way are no mistake."""
        self._records_of: dict[str, dict[str, None]] = {}

    def add(self, parts: Iterable[Provider], config: CircuitConfig) -> None:
        """Serve these from now on."""
        for part in parts:
            self.retired.pop(part.name, None)
            self.configs[part.name] = config
            self.providers[part.name] = part
            self._records_of.setdefault(part.whole.name, {})[part.name] = None

    def remove(self, name: str) -> bool:
        """Serve it no more; False where nobody did."""
        now = time.monotonic()
        self.retired[name] = now
        while (oldest := next(iter(self.retired))) and now - self.retired[oldest] > RETIRED_SECONDS:
            del self.retired[oldest]
        part = self.providers.pop(name, None)
        if part is None:
            return False
        self.configs.pop(name, None)
        records = self._records_of[part.whole.name]
        records.pop(name, None)
        if not records:
            del self._records_of[part.whole.name]
        return True

    def take_over(self, parent: "Served") -> None:
        """In a forked child: what the parent served."""
        self.retired = parent.retired
        self.providers.update(parent.providers)
        self.configs.update(parent.configs)
        self._records_of.update(parent._records_of)

    def has_provider(self, name: str) -> bool:
        """Is it served here?"""
        return name in self.providers

    def records_of(self, provider: str) -> list[str]:
        """The names of this provider's records: its own, or one for each model; [] where it is not served."""
        return list(self._records_of.get(provider, ()))

    def new_record(self, name: str) -> ProviderHealth:
        """The record of a provider of which nothing is known yet."""
        word, until_ms = (Override.OBSERVE, FOR_EVER_MS) if self._observe else ("", 0)
        return ProviderHealth(
            name,
            weight=self.providers[name].weight,
            config=self.configs[name],
            override=word,
            override_until_ms=until_ms,
        )
