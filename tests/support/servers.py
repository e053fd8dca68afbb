"""Real servers that tests and benchmarks start: a master with its replica and three sentinels, a 3+3 cluster; a proxy
before a server; and waiting for what they do."""

import random
import re
import select
import signal
import socket
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from redis_router.testing.server import EmbeddedServer, binaries, free_port

SENTINEL = """
port {port}
bind 127.0.0.1
dir {folder}
sentinel monitor mymaster 127.0.0.1 {master} 2
sentinel down-after-milliseconds mymaster 1000
sentinel failover-timeout mymaster 4000
sentinel parallel-syncs mymaster 1
"""


def eventually(condition: Callable[[], Any], what: str = "the condition", timeout: float = 20.0) -> Any:
    """Wait until `condition()` is true, and return it; a deadline, never a fixed sleep."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout} s"
        time.sleep(0.002)  # between two looks
    return value


def answers(port: int, command: str, *arguments: str) -> str:
    """What a server says, '' where it says nothing or an error."""
    with suppress(redis.RedisError, OSError), redis.Redis(port=port, socket_timeout=1) as client:
        return str(client.execute_command(command, *arguments))
    return ""


def wait_replicated(ports: Iterable[int]) -> None:
    """Wait until the replicas among these servers have all that their masters have now."""
    with ExitStack() as stack:
        clients = {port: stack.enter_context(redis.Redis(port=port)) for port in ports}
        has = {port: client.info("replication") for port, client in clients.items()}
        for port, found in has.items():
            if found["role"] == "slave":
                wanted = has[found["master_port"]]["master_repl_offset"]
                eventually(
                    lambda port=port, wanted=wanted: clients[port].info("replication")["slave_repl_offset"] >= wanted,
                    "it has what its master has",
                )


def end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
    process.kill()
    process.wait()


class Sentinels:
    """`url` for a router; `master` is the server that began as one, `replica` follows it."""

    def __init__(self, master: EmbeddedServer, replica: EmbeddedServer, ports: list[int]) -> None:
        self.master = master
        self.replica = replica
        self.ports = ports
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        self.url = f"redis+sentinel://{hosts}/mymaster/0"

    def master_port(self) -> int:
        """Which port two of the sentinels name now."""
        with redis.Redis(port=self.ports[0], decode_responses=True) as sentinel:
            return int(sentinel.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster")[1])


@contextmanager
def sentinels() -> Iterator[Sentinels]:
    """One master, one replica, three sentinels with a quorum of two."""
    with ExitStack() as stack:
        master = stack.enter_context(EmbeddedServer())
        replica = stack.enter_context(EmbeddedServer(None, "--replicaof", "127.0.0.1", str(master.port)))
        for server in (master, replica):  # a frozen one must be able to end
            stack.callback(lambda server=server: server.process and server.process.send_signal(signal.SIGCONT))
        ports = []
        for _ in range(3):
            folder, port = stack.enter_context(TemporaryDirectory()), free_port()
            conf = Path(folder) / "sentinel.conf"
            conf.write_text(SENTINEL.format(port=port, folder=folder, master=master.port))
            binary = next(iter(binaries().values()))
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
            process = subprocess.Popen([str(binary), str(conf), "--sentinel"], **quiet)
            stack.callback(end, process)
            ports.append(port)
        for port in ports:
            eventually(
                lambda port=port: "OK 3 usable" in answers(port, "SENTINEL", "CKQUORUM", "mymaster"), "a quorum", 30
            )
            eventually(lambda port=port: f"{replica.port}" in answers(port, "SENTINEL", "REPLICAS", "mymaster"))
        eventually(lambda: "master_link_status': 'up" in answers(replica.port, "INFO", "replication"))
        yield Sentinels(master, replica, ports)


class Cluster:
    """Three masters and a replica for each; `url` names all of them."""

    def __init__(self, servers: list[EmbeddedServer]) -> None:
        self.servers = {server.port: server for server in servers}
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in servers)

    def ask(self, port: int, *command: str | int) -> str:
        with redis.Redis(port=port, decode_responses=True) as client:
            return str(client.execute_command(*command))

    def master_of(self, key: str, client: redis.RedisCluster) -> int:
        """The port of the master that holds this key, as the cluster says now."""
        client.nodes_manager.initialize()
        return int(client.get_node_from_key(key).port)

    def kill(self, port: int) -> None:
        end(self.servers[port].process)

    def gave_up(self, port: int) -> bool:
        """Do the others agree that this node failed?"""
        others = (each for each, server in self.servers.items() if server.process and server.process.poll() is None)
        return all(re.search(rf":{port}@\S+ \S*\bfail[, ]", self.ask(other, "CLUSTER", "NODES")) for other in others)

    def healthy(self) -> bool:
        return all(
            "cluster_state:ok" in answers(port, "CLUSTER", "INFO")
            for port, server in self.servers.items()
            if server.process and server.process.poll() is None
        )


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A 3+3 cluster on free ports."""
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0")
    with ExitStack() as stack:
        servers = [stack.enter_context(EmbeddedServer(None, *options)) for _ in range(6)]
        for server in servers:
            stack.callback(lambda server=server: server.process and server.process.send_signal(signal.SIGCONT))
        made = Cluster(servers)
        ports = [server.port for server in servers]
        for number, port in enumerate(ports):
            made.ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for number, port in enumerate(ports[:3]):
            first, last = number * 5461, 16383 if number == 2 else number * 5461 + 5460
            made.ask(port, "CLUSTER", "ADDSLOTSRANGE", first, last)
        for port in ports[1:]:
            made.ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", port)
        for port in ports:
            eventually(lambda port=port: "cluster_known_nodes:6" in answers(port, "CLUSTER", "INFO"), "all met", 30)
        for number, port in enumerate(ports[3:]):
            master = made.ask(ports[number], "CLUSTER", "MYID")
            eventually(
                lambda port=port, master=master: "OK" in answers(port, "CLUSTER", "REPLICATE", master), "it follows", 30
            )
        for port in ports:
            eventually(lambda port=port: "cluster_state:ok" in answers(port, "CLUSTER", "INFO"), "it is up", 30)
        for port in ports[3:]:
            eventually(lambda port=port: "'master_link_status': 'up'" in answers(port, "INFO", "replication"))
        yield made


class Proxy:
    """A TCP proxy between a client and a server that can go deaf, refuse, cut, delay, and lose replies.

    Listens on 127.0.0.1 and a free port; what it does to the bytes is set from outside at any time.

    deaf     connections stand and are taken, nothing gets through: what a hung server or a lost route looks like
    refuse   new connections are closed at once
    delay    seconds added to each reply
    latency  seconds for the way there and for the way back, at least and at most: what is sent meanwhile does not wait
             for what was sent before, it only never overtakes it
    """

    def __init__(self, port: int) -> None:
        self._upstream = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.hears = threading.Event()
        self.hears.set()
        self.refuse = False
        self.delay = 0.0
        self.latency = (0.0, 0.0)
        self.taken = 0
        self.replies = 0
        self.lost = 0
        self._lose = b""
        self._connections: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def go_deaf(self) -> None:
        self.hears.clear()

    def hear(self) -> None:
        self.hears.set()

    def lose_the_reply_to(self, word: bytes) -> None:
        """The next request with this word reaches the server; its connection is cut before the reply comes back."""
        self._lose = word

    def cut(self) -> None:
        """End every connection."""
        for connection in list(self._connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._closed = True
        self.hears.set()
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refuse:
                client.close()
                continue
            self.taken += 1
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._upstream))
        except OSError:
            client.close()
            return
        doomed = threading.Event()
        self._connections |= {client, server}
        there = threading.Thread(target=self._pump, args=(client, server, doomed, True), daemon=True)
        there.start()
        self._pump(server, client, doomed, False)
        there.join()
        self._connections -= {client, server}
        client.close()
        server.close()

    def _pump(self, source: socket.socket, sink: socket.socket, doomed: threading.Event, request: bool) -> None:
        on_the_way: deque[tuple[float, bytes]] = deque()
        with suppress(OSError):
            while True:
                wait = max(0.0, on_the_way[0][0] - time.monotonic()) if on_the_way else None
                if select.select([source], [], [], wait)[0]:
                    data = source.recv(65536)
                    self.hears.wait()
                    if request and self._lose and self._lose in data:
                        self._lose = b""
                        doomed.set()
                    if not data or (not request and doomed.is_set()):
                        self.lost += bool(data)
                        break
                    seconds = random.uniform(*self.latency) + (0.0 if request else self.delay)
                    on_the_way.append((time.monotonic() + seconds, data))
                while on_the_way and on_the_way[0][0] <= time.monotonic():
                    sink.sendall(on_the_way.popleft()[1])
                    self.replies += not request
        for each in (source, sink):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
