"""What the leader remembers of each provider and of each probe: pure bookkeeping. Moments are monotonic.

A record says how a provider is; here stands what Redis does not hold: whose turn it is, and probe results in a row.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from redis_router.probe import Probe
from redis_router.worker.prober import ProbeOutcome, ProbeResult
from redis_router.worker.schedule import Schedule


@dataclass(slots=True, eq=False)
class SharedProbe:
    """One probe: made once for all providers that have it, and its result counts for each of them."""

    probe: Probe
    providers: dict["ProviderState", None] = field(default_factory=dict)
    """In the order in which they came."""
    running: bool = False
    began: float = float("-inf")
    """When the last one began that said something about the providers."""
    outcome: ProbeOutcome | None = None
    impossible: str = ""
    """Why this worker cannot make it."""

    def passed_since(self, moment: float) -> bool:
        """Did one that began then or later pass, and none fail after it?"""
        return self.outcome is ProbeOutcome.PASSED and self.began >= moment

    def is_worth_making(self, moment: float) -> bool:
        """Before its turn, for a circuit that is due since that moment?"""
        return not self.running and self.began < moment and self.outcome in (None, ProbeOutcome.PASSED)


@dataclass(slots=True, eq=False)
class ProviderState:
    """One provider: its probe's results in a row, and when its circuit may be moved after a try that moved nothing."""

    name: str
    shared: SharedProbe | None = None
    passes: int = 0
    fails: int = 0
    retry_at: float = 0.0

    @property
    def probe(self) -> Probe | None:
        """Its probe, None where it has none."""
        return None if self.shared is None else self.shared.probe

    def count(self, passed: bool) -> None:
        """One more in a row, or the first of another row."""
        self.passes, self.fails = (self.passes + 1, 0) if passed else (0, self.fails + 1)


class Providers:
    """All of them, and whose turn it is: of circuits to be moved, probes to be made, overrides that end."""

    def __init__(self) -> None:
        self.by_name: dict[str, ProviderState] = {}
        self.circuits: Schedule[ProviderState] = Schedule()
        self.probes: Schedule[SharedProbe] = Schedule()
        self.overrides: Schedule[ProviderState] = Schedule()
        self.running = 0
        """So many probes are being made."""
        self._shared: dict[Probe, SharedProbe] = {}

    def of(self, name: str, probe: Probe | None) -> ProviderState:
        """The provider, which has this probe now. With another one than before it has no results in a row yet."""
        provider = self.by_name.get(name)
        if provider is None:
            provider = self.by_name[name] = ProviderState(name)
        if provider.probe != probe:
            self._leave(provider)
            provider.passes = provider.fails = 0
            if probe is not None:
                self._join(provider, probe)
        return provider

    def forget(self, name: str) -> None:
        """There is no such provider any more."""
        provider = self.by_name.pop(name, None)
        if provider is not None:
            self.circuits.drop(provider)
            self.overrides.drop(provider)
            self._leave(provider)

    def _join(self, provider: ProviderState, probe: Probe) -> None:
        shared = self._shared.get(probe)
        if shared is None:
            shared = self._shared[probe] = SharedProbe(probe)
            self.probes.put(shared, 0.0)
        shared.providers[provider] = None
        provider.shared = shared

    def _leave(self, provider: ProviderState) -> None:
        shared, provider.shared = provider.shared, None
        if shared is not None:
            shared.providers.pop(provider)
            self._drop_if_idle(shared)

    def _drop_if_idle(self, shared: SharedProbe) -> None:
        if not shared.providers and not shared.running:
            del self._shared[shared.probe]
            self.probes.drop(shared)

    # Probes

    def all_probes(self) -> Iterator[SharedProbe]:
        """Those that this worker can make, and is not making."""
        return (each for each in self._shared.values() if not each.running and not each.impossible)

    def begun(self, shared: SharedProbe) -> None:
        """It is being made."""
        shared.running = True
        self.running += 1
        self.probes.drop(shared)

    def ended(self, result: ProbeResult, next_at: float) -> SharedProbe:
        """The probe of this result, whose next turn comes then. It may have no provider any more."""
        shared = self._shared[result.probe]
        shared.running = False
        self.running -= 1
        shared.outcome = result.outcome
        if result.outcome is ProbeOutcome.IMPOSSIBLE:
            shared.impossible = result.why
        else:
            self.probes.put(shared, next_at)
        if result.outcome.is_final:
            shared.began = result.began
        self._drop_if_idle(shared)
        return shared
