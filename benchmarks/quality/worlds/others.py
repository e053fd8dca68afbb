"""The original in each replica by itself, an Envoy in front of each replica, and LiteLLM's Router."""

import asyncio
import importlib
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.quality.fleet import EPOCH_MS
from benchmarks.quality.litellm_peer import Cooldowns, LiteLLM
from benchmarks.quality.policies import Original
from benchmarks.quality.world import Answer
from benchmarks.quality.worlds.ground import Ground, Request
from benchmarks.quality.worlds.tries import ByCall, Tries
from redis_router import ProviderHealth


class OneByOne(ByCall):
    """The original's rules, of `benchmarks.quality.policies`; a drained provider is known to all at once."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._rules = Original(ground)  # type: ignore[arg-type]  # it has what a run has

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, object] | None:
        return self._rules.choose(replica, tried | self.ground.drained)

    def done(self, replica: int, ticket: object, answer: Answer, seconds: float) -> None:
        self._rules.done(replica, ticket, answer, seconds)

    def restart(self, replica: int) -> None:
        self._rules._records[replica] = {name: ProviderHealth(name) for name in self.ground.providers}

    def add(self, name: str) -> None:
        for records in self._rules._records:
            records[name] = ProviderHealth(name)

    def states(self) -> dict[str, str]:
        records = self._rules._records
        return {name: _part([not each[name].available for each in records]) for name in self.ground.providers}


def _part(out: list[bool]) -> str:
    """In how many of the replicas it is out."""
    return f"out in {sum(out)}/{len(out)}" if any(out) else ""


# Envoy


@dataclass
class Host:
    """What one Envoy knows of a provider."""

    active: int = 0
    in_a_row: int = 0
    ejected_until: float = 0.0
    ejections: int = 0
    calls: int = 0
    good: int = 0


class Envoy(ByCall):
    """Least request of two drawn, with outlier detection as it is when it is switched on and left at its defaults.

    Five answers of 5xx in a row eject (a time-out is a 504), or a success rate of 1.9 deviations below the mean where
    five hosts have a hundred calls in 10 s; for 30 s times the number of ejections, at most 300 s; 10 % of the hosts,
    at least one. Below half of the hosts in service ejections do not count. A retry goes to another host.
    """

    INTERVAL, BASE, MOST, IN_A_ROW = 10.0, 30.0, 300.0, 5
    MOST_EJECTED, PANIC = 0.1, 0.5

    def __init__(self, ground: Ground) -> None:
        super().__init__(ground)
        self._hosts: list[defaultdict[str, Host]] = [defaultdict(Host) for _ in range(ground.replicas)]
        self._draw = random.Random(f"{ground.seed} envoy")
        ground.world.after(self.INTERVAL, self._tick)

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, object] | None:
        hosts, everybody = self._hosts[replica], self.left(frozenset())
        healthy = [name for name in everybody if not self._is_out(hosts[name])]
        pool = healthy if len(healthy) >= self.PANIC * len(everybody) else everybody
        left = [name for name in pool if name not in tried]
        if not left:
            return None
        two = self._draw.choice(left), self._draw.choice(left)
        host = hosts[name := min(two, key=lambda each: hosts[each].active)]
        host.active += 1
        return name, (name, host)

    def _is_out(self, host: Host) -> bool:
        return host.ejected_until > self.ground.world.now

    def done(self, replica: int, ticket: object, answer: Answer, seconds: float) -> None:
        assert isinstance(ticket, tuple)
        _, host = ticket
        host.active -= 1
        host.calls += 1
        failed = answer.status == 0 or answer.status >= 500
        host.good += not failed
        host.in_a_row = host.in_a_row + 1 if failed else 0
        if host.in_a_row >= self.IN_A_ROW and not self._is_out(host):
            self._eject(self._hosts[replica], host)

    def _eject(self, hosts: dict[str, Host], host: Host) -> None:
        out = sum(map(self._is_out, hosts.values()))
        if out and out / len(hosts) >= self.MOST_EJECTED:
            return
        host.ejections += 1
        host.in_a_row = 0
        host.ejected_until = self.ground.world.now + min(self.MOST, self.BASE * host.ejections)

    def _tick(self) -> None:
        for hosts in self._hosts:
            rates = [each.good / each.calls for each in hosts.values() if each.calls >= 100]
            if len(rates) >= 5:
                mean = sum(rates) / len(rates)
                deviation = (sum((each - mean) ** 2 for each in rates) / len(rates)) ** 0.5
                for host in hosts.values():
                    if host.calls >= 100 and host.good / host.calls < mean - 1.9 * deviation:
                        self._eject(hosts, host)
            for host in hosts.values():
                was_good = host.calls and host.in_a_row == 0 and not self._is_out(host)
                host.ejections = max(0, host.ejections - 1) if was_good else host.ejections
                host.calls = host.good = 0
        self.ground.world.after(self.INTERVAL, self._tick)

    def restart(self, replica: int) -> None:
        self._hosts[replica] = defaultdict(Host)

    def states(self) -> dict[str, str]:
        return {name: _part([self._is_out(hosts[name]) for hosts in self._hosts]) for name in self.ground.providers}


# LiteLLM


class LiteLLMRouter(LiteLLM):
    """The Router itself, driven as in the nine scenarios; it is told the time to the first token of a stream."""

    def __init__(self, ground: Ground, strategy: str) -> None:
        self.ground = ground
        super().__init__(ground, strategy)  # type: ignore[arg-type]  # it has what a run has

    def begin(self, replica: int) -> Request:
        return Tries(self, self.ground, replica)  # type: ignore[arg-type]

    def restart(self, replica: int | None = None) -> None:
        if replica is None:
            super().restart()
            return
        with self._clock():
            self._routers[replica] = self._router()
            self._cooldowns[replica] = Cooldowns(self._routers[replica])
            for name in self.ground.drained:
                self._routers[replica].delete_deployment(id=name)

    def add(self, name: str) -> None:
        from litellm.types.router import Deployment

        with self._clock():
            for router in self._routers:
                router.add_deployment(Deployment(**self._deployment(name)))

    def drain(self, name: str) -> None:
        for router in self._routers:
            router.delete_deployment(id=name)

    def states(self) -> dict[str, str]:
        return {}

    def close(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:
            self._loop.run_until_complete(asyncio.wait(tasks))
        self._loop.close()


class LiteLLMRules(ByCall):
    """Strategies whose Router needs a whole call around it, by what its documentation says, with its cooldowns.

    least-busy: fewest calls in flight in this process; usage-based-routing: fewest tokens, here calls, in this minute.
    A cooldown of 5 s follows a 429, a 401, or a minute in which over half of the calls, five or more, failed.
    """

    COOLDOWN, LEAST, PART = 5.0, 5, 0.5

    def __init__(self, ground: Ground, strategy: str) -> None:
        super().__init__(ground)
        self._is_busy = strategy == "least-busy"
        self._state = [Deployments() for _ in range(ground.replicas)]

    def choose(self, replica: int, tried: frozenset[str]) -> tuple[str, object] | None:
        state, now = self._state[replica], self.ground.world.now
        left = [name for name in self.left(frozenset()) if state.until[name] <= now]  # it may ask the same again
        if not left:
            return None
        by = state.in_flight if self._is_busy else state.minute(now)
        least = min(by[name] for name in left)
        name = random.choice([each for each in left if by[each] == least])
        state.in_flight[name] += 1
        return name, (name, state)

    def done(self, replica: int, ticket: object, answer: Answer, seconds: float) -> None:
        assert isinstance(ticket, tuple)
        name, state = ticket
        state.in_flight[name] -= 1
        now = self.ground.world.now
        if answer.status == 200:
            state.minute(now)[name] += 1
        ends = state.ends[name]
        ends.append((now, answer.status != 200))
        while ends[0][0] < now - 60.0:
            ends.popleft()
        failed = sum(bad for _, bad in ends)
        many = len(ends) >= self.LEAST and failed / len(ends) > self.PART
        if answer.status in (429, 401) or (answer.status != 200 and many):
            state.until[name] = now + self.COOLDOWN

    def restart(self, replica: int) -> None:
        self._state[replica] = Deployments()

    def states(self) -> dict[str, str]:
        now = self.ground.world.now
        return {name: _part([each.until[name] > now for each in self._state]) for name in self.ground.providers}


class Deployments:
    """What one process knows."""

    def __init__(self) -> None:
        self.until: defaultdict[str, float] = defaultdict(float)
        self.in_flight: Counter[str] = Counter()
        self.ends: defaultdict[str, deque[tuple[float, bool]]] = defaultdict(deque)
        self._minute = -1, Counter[str]()

    def minute(self, now: float) -> Counter[str]:
        """Calls that ended well in this minute."""
        number = int((EPOCH_MS / 1000 + now) // 60)
        if self._minute[0] != number:
            self._minute = number, Counter()
        return self._minute[1]


def litellm(strategy: str) -> Callable[[Ground], LiteLLMRouter | LiteLLMRules]:
    """A player, for `Ground.play`."""
    if strategy in ("least-busy", "usage-based-routing"):
        return lambda ground: LiteLLMRules(ground, strategy)
    importlib.import_module("litellm")  # now, as it draws from the stream that a world seeds
    return lambda ground: LiteLLMRouter(ground, strategy)
