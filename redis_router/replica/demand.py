"""Which providers' trials this replica has calls for: those in use here lately, or that could stand in for one."""

import time
from collections.abc import Iterable, Mapping, Sequence

from redis_router.provider import ANY_MODEL

DEMAND_SECONDS = 60.0
"""A replica claims permits for a provider if its models were in use here within this time."""


class Demand:
    """By provider and by model, and when."""

    def __init__(self) -> None:
        self._used: dict[str, float] = {}
        self._asked: dict[str, float] = {}  # only models that a provider is registered for

    def used(self, providers: Iterable[str]) -> None:
        """Results of these providers were recorded."""
        self._used.update(dict.fromkeys(providers, time.monotonic()))

    def asked(self, model: str) -> bool:
        """A call for this model found nobody but trials; was it long since the last one?"""
        now = time.monotonic()
        is_news = now - self._asked.get(model, -DEMAND_SECONDS) >= DEMAND_SECONDS
        self._asked[model] = now
        return is_news

    def forget(self, provider: str) -> None:
        """This provider is no more."""
        self._used.pop(provider, None)

    def among(self, trials: Iterable[str], models: Mapping[str, Sequence[str]]) -> set[str]:
        """Those of these providers that are wanted; `models` are those that each is for."""
        names = set(trials)
        if not names:
            return set()
        since = time.monotonic() - DEMAND_SECONDS
        asked = {model for model, at in list(self._asked.items()) if at > since}
        for name, at in list(self._used.items()):
            if at > since:
                asked.update(models.get(name, ()))
        if ANY_MODEL in asked:
            return names
        return {name for name in names if asked and _serves_one_of(asked, models.get(name, ()))}


def _serves_one_of(asked: set[str], models: Sequence[str]) -> bool:
    return ANY_MODEL in models or not asked.isdisjoint(models)
