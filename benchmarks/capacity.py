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
from contextlib import closing
from urllib.parse import urlsplit

from redis.connection import Connection

from benchmarks.measure import Row, quantile, row, server_cpu
from redis_router import CircuitConfig, Outcome, Provider, scripts
from redis_router.connect import connect
from redis_router.model import Result
from redis_router.store import Batch, Store

PROVIDERS = 20
BURST_SECONDS = 0.01


def full_batches(url: str, rounds: int, batches: int) -> list[Row]:
    """Batches of 100 outcomes for 20 providers, pipelined by two clients that packed them beforehand."""
    store = _registered(url, "full")
    rates, costs = [], []
    for number in range(rounds):
        before = server_cpu(store.client)
        clients = [_client(url, "full", f"{number}.{half}", batches, 100) for half in range(2)]
        try:
            for client in clients:
                assert client.stdout is not None
                assert client.stdout.readline() == "ready\n"
            began = time.monotonic()
            for client in clients:
                client.communicate("go\n")
            seconds = time.monotonic() - began
        finally:
            for client in clients:
                client.kill()
                client.communicate()
        outcomes = 2 * batches * 100
        rates.append(outcomes / seconds)
        costs.append((server_cpu(store.client) - before) / outcomes * 1e6)
    applied = sum(h.consecutive_successes for h in store.snapshot().records.values())
    assert applied == rounds * 2 * batches * 100, f"{applied} outcomes were applied"
    return [
        row("server", "outcomes through one server, full batches", "per second", rates, at_least=500_000),
        row("server", "server CPU for each outcome, full batches", "µs", costs, at_most=1.0),
    ]


def scaling(url: str, fleets: tuple[int, ...], seconds: float, rate: int) -> list[Row]:
    """So many replicas, each with `rate` requests/s over 20 providers, flushing as the library does."""
    rows = []
    for replicas in fleets:
        what = f"{replicas:,} replicas at {rate} requests/s"
        figures = _fleet(url, replicas, replicas, seconds, rate)
        units = {
            "outcomes applied": "per second",
            "server CPU": "% of a core",
            "server CPU for each command": "µs",
            "pushed by the server": "KB per second",
            "push, p50 until it is at a replica": "ms",
            "push, p99": "ms",
            "writer late by, at most": "ms",
        }
        rows += [row("scaling", f"{what}: {name}", unit, [figures[name]]) for name, unit in units.items()]
    if fleets[-1] < 100:  # too few to tell the two apart
        return rows
    # the last fleet once more, with nobody listening: what is left of the CPU is the commands'
    deaf = _fleet(url, replicas, 0, seconds, rate)
    command = deaf["server CPU for each command"]
    delivery = (figures["server CPU"] - deaf["server CPU"]) / 100 / figures["deliveries"] * 1e6
    rows += [
        row("scaling", "a command of few outcomes: server CPU", "µs", [command]),
        row("scaling", "a delivery of a push: server CPU", "µs", [delivery]),
        row("scaling", "a delivery of a push: size", "bytes", [figures["size of a delivery"]]),
    ]
    return rows


def _registered(url: str, namespace: str) -> Store:
    store = Store(connect(url), namespace, "benchmark")
    for number in range(PROVIDERS):
        store.register(Provider(f"p{number}", ("m",)), CircuitConfig())
    store.client.execute_command("SCRIPT", "LOAD", scripts.load("record").text)
    return store


def _client(url: str, namespace: str, session: str, batches: int, size: int) -> "subprocess.Popen[str]":
    arguments = [url, namespace, session, str(batches), str(size)]
    command = [sys.executable, "-m", "benchmarks.capacity", "write", *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def write(url: str, namespace: str, session: str, batches: str, size: str) -> None:
    """Pack everything, wait for the word, then keep ten commands in flight until all are answered."""
    store = Store(connect(url), namespace, session)
    packed = list(_packed(store, int(batches), int(size)))
    print("ready", flush=True)
    sys.stdin.readline()
    with _socket(url) as line:
        for at in range(0, len(packed), 10):
            line.sendall(b"".join(packed[at : at + 10]))
            _read_replies(line, len(packed[at : at + 10]))


def _packed(store: Store, batches: int, size: int) -> Iterator[bytes]:
    """The library's own commands, as bytes."""
    sha, packer = scripts.load("record").sha, Connection()
    for number in range(batches):
        name = f"p{number % PROVIDERS}"
        results = [Result(name, Outcome.SUCCESS, 100.0 + n / 7, 1) for n in range(size)]
        arguments = store._record_args(Batch(name, number + 1, results))
        yield b"".join(packer.pack_command("EVALSHA", sha, *arguments))


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
    """This process writes for all replicas, in their rhythm; another one listens for all that listen."""
    namespace = f"scale-{replicas}-{listeners}"
    store = _registered(url, namespace)
    bursts = _bursts(store, replicas, seconds, rate)
    command = [sys.executable, "-m", "benchmarks.capacity", "listen", url, store.keys.channel, str(listeners)]
    listener = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        with closing(connect(url)) as admin, _socket(url) as line:
            before, began, late = server_cpu(admin), time.monotonic(), 0.0
            marked: dict[int, float] = {}
            for number, burst in enumerate(bursts):
                due = began + number * BURST_SECONDS
                time.sleep(max(0.0, due - time.monotonic()))
                late = max(late, time.monotonic() - due)
                for at in range(0, len(burst), 50):
                    line.sendall(b"".join(burst[at : at + 50]))
                    _read_replies(line, len(burst[at : at + 50]))
                if number % 20 == 10:
                    mark = len(marked)
                    marked[mark] = time.monotonic()
                    admin.publish(store.keys.channel, f'{{"event":"mark","number":{mark:06},"filler":"{"x" * 800}"}}')
            passed, cpu = time.monotonic() - began, server_cpu(admin) - before
            time.sleep(1.0)  # what is still under way
            heard = json.loads(listener.communicate("end\n")[0])
    finally:
        listener.kill()
        listener.communicate()
    sent = sum(map(len, bursts)) * _batch(rate)
    delays = [(at - marked[int(mark)]) * 1000 for mark, moments in heard["marks"].items() for at in moments]
    return {
        "outcomes applied": sent / passed,
        "server CPU": cpu / passed * 100,
        "server CPU for each command": cpu / (sent / _batch(rate)) * 1e6,
        "pushed by the server": heard["bytes"] / passed / 1024,
        "deliveries": heard["messages"] / passed,
        "size of a delivery": heard["bytes"] / max(1, heard["messages"]),
        "push, p50 until it is at a replica": quantile(delays or [0.0], 0.5),
        "push, p99": quantile(delays or [0.0], 0.99),
        "writer late by, at most": late * 1000,
    }


def _batch(rate: int) -> int:
    """Outcomes in a command: a replica flushes ten times a second, and a command carries one provider's."""
    return max(1, rate // 10 // PROVIDERS)


def _bursts(store: Store, replicas: int, seconds: float, rate: int) -> list[list[bytes]]:
    """All commands of the run, packed beforehand, by the hundredth of a second in which they are sent."""
    packer, sha, size = Connection(), scripts.load("record").sha, _batch(rate)
    writers = [Store(store.client, store.keys.namespace, f"r{number}") for number in range(replicas)]
    commands = rate * replicas * BURST_SECONDS / size
    bursts, made = [], 0
    for number in range(round(seconds / BURST_SECONDS)):
        burst = []
        while made < (number + 1) * commands:
            # the next replica, and for each replica the next provider
            name = f"p{(made + made // replicas) % PROVIDERS}"
            batch = Batch(name, made + 1, [Result(name, Outcome.SUCCESS, 100.5, 1)] * size)
            arguments = writers[made % replicas]._record_args(batch)
            burst.append(b"".join(packer.pack_command("EVALSHA", sha, *arguments)))
            made += 1
        bursts.append(burst)
    return bursts


def listen(url: str, channel: str, replicas: str) -> None:
    """The push channels of all replicas: count the bytes, note when each mark came in at each of them."""
    lines = [_socket(url) for _ in range(int(replicas))]
    poll, size, messages, marks = selectors.DefaultSelector(), 0, 0, dict[int, list[float]]()
    for line in lines:
        line.sendall(f"SUBSCRIBE {channel}\r\n".encode())
        line.recv(4096)
        poll.register(line, selectors.EVENT_READ)
    poll.register(sys.stdin, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in poll.select():
            if key.fileobj is sys.stdin:
                print(json.dumps({"bytes": size, "messages": messages, "marks": marks}), flush=True)
                return
            said = key.fileobj.recv(1 << 16)  # type: ignore[union-attr]
            size += len(said)
            messages += said.count(b"\r\nmessage\r\n")
            for found in re.finditer(rb'"mark","number":(\d{6})', said):
                marks.setdefault(int(found[1]), []).append(time.monotonic())


if __name__ == "__main__":
    {"write": write, "listen": listen}[sys.argv[1]](*sys.argv[2:])
