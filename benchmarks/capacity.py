"""What one server carries: outcomes a second, its CPU for each, and how that grows with the number of replicas.

Replicas are simulated: many to a process, each with its own session, a push channel of its own and the library's own
commands, but without the Python that would make them. So the server is measured, and not the machine's other core.
"""

import json
import re
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from urllib.parse import urlsplit

from redis.connection import Connection

from benchmarks.measure import Row, quantile, row, server_cpu
from redis_router import CircuitConfig, Outcome, Provider
from redis_router.circuit.outcome import Result
from redis_router.store import scripts
from redis_router.store.connect import connect
from redis_router.store.messages import Reply
from redis_router.store.redis import Batch, RedisStore

PROVIDERS = 20
FULL = 100
BURST_SECONDS = 0.01
PACKER = Connection()
COMMAND = "a command of one outcome, each on a connection of its own: server CPU"
DELIVERY = "a delivery of a push to one replica: server CPU"
SIZE = "a delivery of a push to one replica: size"


def full_batches(url: str, rounds: int, batches: int) -> list[Row]:
    """Batches of 100 outcomes for 20 providers, pipelined by two clients at once that packed them beforehand."""
    rows = []
    for failing in (0, 5):
        store = _registered(url, f"full-{failing}")
        rates, costs = [], []
        for number in range(rounds):
            before = server_cpu(store.client)
            rates.append(_two_clients(url, store.keys.namespace, str(number), batches, failing))
            costs.append((server_cpu(store.client) - before) / (2 * batches * FULL) * 1e6)
        if not failing:
            applied = sum(health.consecutive_successes for health in store.snapshot().records.values())
            assert applied == rounds * 2 * batches * FULL, f"{applied} outcomes were applied"
        what = f"full batches, {failing} % failures" if failing else "full batches of successes"
        least, most = (None, None) if failing else (500_000, 1.0)
        rows += [
            row("server", f"{what}: outcomes through one server", "per second", rates, at_least=least),
            row("server", f"{what}: server CPU for an outcome", "µs", costs, at_most=most),
        ]
    return rows


def _two_clients(url: str, namespace: str, session: str, batches: int, failing: int) -> float:
    """Outcomes a second, from the first command of either to the last reply of either."""
    clients = []
    try:
        for half in "ab":
            arguments = ["write", url, namespace, session + half, str(batches), str(failing)]
            command = [sys.executable, "-m", "benchmarks.capacity", *arguments]
            clients.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for client in clients:
            assert client.stdout is not None
            assert client.stdout.readline() == "ready\n"
        for client in clients:
            assert client.stdin is not None
            client.stdin.write("go\n")
            client.stdin.flush()
        moments = [tuple(map(float, client.communicate()[0].split())) for client in clients]
    finally:
        for client in clients:
            client.kill()
            client.communicate()
    began, ended = min(first for first, _ in moments), max(last for _, last in moments)
    return 2 * batches * FULL / (ended - began)


def scaling(url: str, fleets: tuple[int, ...], seconds: float, rate: int) -> list[Row]:
    """So many replicas, each with `rate` requests/s over 20 providers, flushing as the library does."""
    rows = []
    for replicas in fleets:
        figures = _fleet(url, replicas, replicas, seconds, rate)
        units = {
            "outcomes applied": "per second",
            "server CPU": "% of a core",
            "pushed": "KB per second",
            "a transition, until it is at a replica: p50": "ms",
            "a transition, until it is at a replica: p99": "ms",
            "the writer was late by, at most": "ms",
        }
        rows += [
            row("scaling", f"{replicas:,} replicas: {name}", unit, [figures[name]]) for name, unit in units.items()
        ]
    if fleets[-1] < 100:  # too few to tell commands and deliveries apart
        return rows
    # the last fleet once more, with nobody listening: what is left of the CPU is the commands'
    deaf = _fleet(url, replicas, 0, seconds, rate)
    command = deaf["server CPU"] / 100 / deaf["commands"] * 1e6
    delivery = (figures["server CPU"] - deaf["server CPU"]) / 100 / figures["deliveries"] * 1e6
    return [
        *rows,
        row("scaling", COMMAND, "µs", [command]),
        row("scaling", DELIVERY, "µs", [delivery]),
        row("scaling", SIZE, "bytes", [figures["size of a delivery"]]),
    ]


def _registered(url: str, namespace: str, trips: int = 0) -> RedisStore:
    store = RedisStore(connect(url), namespace, "benchmark")
    for number in range(PROVIDERS):
        store.register(Provider(f"p{number}", ("m",)), CircuitConfig(failure_rate_threshold=1.0))
    for number in range(trips):
        store.register(Provider(f"trip{number}", ("m",)), CircuitConfig(consecutive_failure_limit=1))
    store.client.execute_command("SCRIPT", "LOAD", scripts.load("record").text)
    return store


def write(url: str, namespace: str, session: str, batches: str, failing: str) -> None:
    """Pack everything, wait for the word, then keep ten commands in flight until all are answered."""
    store = RedisStore(connect(url), namespace, session)
    packed = list(_packed(store, int(batches), int(failing)))
    with _socket(url) as line:
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        for at in range(0, len(packed), 10):
            line.sendall(b"".join(packed[at : at + 10]))
            _read_replies(line, len(packed[at : at + 10]))
        print(began, time.monotonic(), flush=True)


def _packed(store: RedisStore, batches: int, failing: int) -> Iterator[bytes]:
    """The library's own commands, as bytes; so many per cent of the outcomes are failures, spread evenly."""
    every = 100 // failing if failing else FULL + 1
    outcomes = [Outcome.SUCCESS if n % every else Outcome.FAILURE for n in range(1, FULL + 1)]
    for number in range(batches):
        name = f"p{number % PROVIDERS}"
        results = [Result(name, outcome, 100.0 + n / 7, 1) for n, outcome in enumerate(outcomes)]
        yield _command(store, Batch(name, number + 1, results))


def _command(store: RedisStore, batch: Batch) -> bytes:
    return b"".join(PACKER.pack_command("EVALSHA", scripts.load("record").sha, *store._record_args(batch)))


def _socket(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=60)


def _read_replies(line: socket.socket, number: int) -> None:
    """A reply of `record` is an array of 23 bulk strings, so 47 lines."""
    lines = 0
    while lines < 47 * number:
        data = line.recv(1 << 18)
        assert data, "the server hung up"
        assert data[:1] != b"-", data
        lines += data.count(b"\r\n")


def _fleet(url: str, replicas: int, listeners: int, seconds: float, rate: int) -> dict[str, float]:
    """This process writes for all replicas, in their rhythm, over up to 200 connections; another one listens for all
    that listen. A fifth of a second apart, a circuit opens."""
    trips = int(seconds * 5)
    store = _registered(url, f"scale-{replicas}-{listeners}", trips)
    bursts = _bursts(store, replicas, seconds, rate)
    arguments = ["listen", url, store.keys.channel, str(listeners)]
    command = [sys.executable, "-m", "benchmarks.capacity", *arguments]
    listener = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        with ExitStack() as stack:
            lines = [stack.enter_context(_socket(url)) for _ in range(min(replicas, 200))]
            admin = stack.enter_context(closing(connect(url)))
            assert listener.stdout is not None
            assert listener.stdout.readline() == "ready\n"
            before, began, late = server_cpu(admin), time.monotonic(), 0.0
            tripped: dict[str, float] = {}
            for number, burst in enumerate(bursts):
                due = began + number * BURST_SECONDS
                time.sleep(max(0.0, due - time.monotonic()))
                late = max(late, time.monotonic() - due)
                for at in range(0, len(burst), len(lines)):
                    wave = list(zip(lines, burst[at : at + len(lines)], strict=False))
                    for line, data in wave:
                        line.sendall(data)
                    for line, _ in wave:
                        _read_replies(line, 1)
                if number % 20 == 10:
                    name = f"trip{len(tripped)}"
                    tripped[name] = time.monotonic()
                    (reply,) = store.record([Batch(name, 1, [Result(name, Outcome.FAILURE, 1.0, 1)])])
                    assert isinstance(reply, Reply)
                    assert reply.transitions, f"{name} did not open"
            passed, cpu = time.monotonic() - began, server_cpu(admin) - before
            applied = sum(health.consecutive_successes for health in store.snapshot().records.values())
            time.sleep(1.0)  # what is still under way
            heard = json.loads(listener.communicate("end\n")[0])
    finally:
        listener.kill()
        listener.communicate()
    commands = sum(map(len, bursts))
    assert applied == commands * _batch(rate), f"{applied} outcomes were applied"
    assert listeners == 0 or len(heard["trips"]) == len(tripped), "a transition was not pushed"
    delays = [(at - tripped[name]) * 1000 for name, moments in heard["trips"].items() for at in moments]
    return {
        "commands": commands / passed,
        "outcomes applied": applied / passed,
        "server CPU": cpu / passed * 100,
        "pushed": heard["bytes"] / passed / 1000,
        "deliveries": heard["messages"] / passed,
        "size of a delivery": heard["bytes"] / max(1, heard["messages"]),
        "a transition, until it is at a replica: p50": quantile(delays or [0.0], 0.5),
        "a transition, until it is at a replica: p99": quantile(delays or [0.0], 0.99),
        "the writer was late by, at most": late * 1000,
    }


def _batch(rate: int) -> int:
    """Outcomes in a command: a replica flushes ten times a second, and a command carries one provider's."""
    return max(1, rate // 10 // PROVIDERS)


def _bursts(store: RedisStore, replicas: int, seconds: float, rate: int) -> list[list[bytes]]:
    """All commands of the run, packed beforehand, by the hundredth of a second in which they are sent."""
    size = _batch(rate)
    writers = [RedisStore(store.client, store.keys.namespace, f"r{number}") for number in range(replicas)]
    commands = rate * replicas * BURST_SECONDS / size
    bursts, made = [], 0
    for number in range(round(seconds / BURST_SECONDS)):
        burst = []
        while made < (number + 1) * commands:
            # the next replica, and for each replica the next provider
            name = f"p{(made + made // replicas) % PROVIDERS}"
            batch = Batch(name, made + 1, [Result(name, Outcome.SUCCESS, 100.5, 1)] * size)
            burst.append(_command(writers[made % replicas], batch))
            made += 1
        bursts.append(burst)
    return bursts


def listen(url: str, channel: str, replicas: str) -> None:
    """The push channels of all replicas: count the bytes, note when each transition came in at each of them."""
    lines = [_socket(url) for _ in range(int(replicas))]
    poll, size, messages, trips = selectors.DefaultSelector(), 0, 0, dict[str, list[float]]()
    for line in lines:
        line.sendall(f"SUBSCRIBE {channel}\r\n".encode())
        line.recv(4096)
        poll.register(line, selectors.EVENT_READ)
    poll.register(sys.stdin, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in poll.select():
            if key.fileobj is sys.stdin:
                print(json.dumps({"bytes": size, "messages": messages, "trips": trips}), flush=True)
                return
            said = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
            size += len(said)
            messages += said.count(b"\r\nmessage\r\n")
            for found in re.finditer(rb'"transition","provider":"(trip\d+)"', said):
                trips.setdefault(found[1].decode(), []).append(time.monotonic())


if __name__ == "__main__":
    {"write": write, "listen": listen}[sys.argv[1]](*sys.argv[2:])
