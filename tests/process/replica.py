"""A gateway replica as a process of its own: does what it is told on stdin, one JSON object a line, and answers so.

Run as `python -m tests.process.replica URL NAMESPACE OPTIONS`, OPTIONS being JSON for CircuitConfig and Router.
"""

import json
import sys
import threading
import time

from redis_router import CircuitConfig, NoProviderAvailable, Provider, Router, Transition
from redis_router.replica import presence, push
from redis_router.store.connect import connect

push.PING_INTERVAL = 5.0  # on a busy machine Redis must not seem away: then each replica has trials of its own

presence.SAID_EVERY = 0.5  # who waits for a word waits for less than ten seconds

GAUGE = """
local now = redis.call('HINCRBY', KEYS[1], 'now', ARGV[1])
if tonumber(ARGV[1]) > 0 then redis.call('HINCRBY', KEYS[1], 'calls', 1) end
if now > tonumber(redis.call('HGET', KEYS[1], 'most') or 0) then redis.call('HSET', KEYS[1], 'most', now) end
"""
"""How many calls are in flight at the provider, counted where all replicas meet."""


class Replica:
    """One router, the transitions it saw, the calls it makes, and what was wrong with them."""

    def __init__(self, url: str, namespace: str, circuit: dict, options: dict) -> None:
        self.seen: list[str] = []
        self.found_wrong: list[str] = []
        patient = f"{url}?socket_timeout=20&socket_connect_timeout=20"  # on a busy machine Redis must not seem away
        self.router = Router(
            patient, namespace=namespace, circuit=CircuitConfig(**circuit), on_transition=self.saw, **options
        )
        self.router.register_provider(Provider("openai", ("m",)))
        self.router.start()
        self.redis = connect(
            url.replace("router:password@", "") + "?socket_timeout=20"
        )  # the gauge is ours, not the router's
        self.gauge = self.redis.register_script(GAUGE)
        self.gauge_key = f"{namespace}:gauge"
        self.stop = threading.Event()

    def saw(self, change: Transition) -> None:
        self.seen.append(str(change.to_state))

    def fail(self, times: int) -> bool:
        """Failures in a row."""
        for _ in range(times):
            self.router.record_result("openai", success=False, latency_ms=1.0)
        return True

    def state(self) -> str:
        return str(self.router.get_circuit_state("openai"))

    def transitions(self) -> list[str]:
        return self.seen

    def wrong(self) -> list[str]:
        return self.found_wrong

    def hammer(self, threads: int, seconds_per_call: float) -> bool:
        """Call for as long as this process lives, from many threads; every call is a success."""
        for _ in range(threads):
            threading.Thread(target=self._hammer, args=(seconds_per_call,), daemon=True).start()
        return True

    def _hammer(self, seconds_per_call: float) -> None:
        while not self.stop.is_set():
            try:
                with self.router.attempt("m") as attempt:
                    if not attempt.permit:
                        self.found_wrong.append("a half-open call without a permit")
                    if not self.router.redis_up:
                        self.found_wrong.append("Redis seemed away: this replica's own permits keep no fleet's limit")
                    self.gauge(keys=[self.gauge_key], args=[1])
                    self.stop.wait(seconds_per_call)
                    self.gauge(keys=[self.gauge_key], args=[-1])
            except NoProviderAvailable:
                time.sleep(0.004)

    def hang(self) -> str:
        """Begin a half-open call and never end it; its permit."""
        while True:
            try:
                return self.router.attempt("m").__enter__().permit or ""
            except NoProviderAvailable:
                time.sleep(0.002)

    def close(self) -> bool:
        self.stop.set()
        self.router.close()
        return True


def main() -> None:
    url, namespace, text = sys.argv[1:]
    settings = json.loads(text)
    replica = Replica(url, namespace, settings.get("circuit", {}), settings.get("router", {}))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(replica, command[0])(*command[1:])), flush=True)


if __name__ == "__main__":
    main()
