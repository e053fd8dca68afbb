"""Sets of real servers: a master with its replica and three sentinels; a 3+3 cluster. Tests use them too."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import redis

from redis_router.demo.server import EmbeddedServer, binaries, free_port

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
    """Wait until `condition()` is true, and return it; a deadline, never a fixed sleep. Tests use it, too."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what} did not come true within {timeout} s"
        time.sleep(0.002)
    return value


def answers(port: int, command: str, *arguments: str) -> str:
    """What a server says, '' where it says nothing or an error."""
    with suppress(redis.RedisError, OSError), redis.Redis(port=port, socket_timeout=1) as client:
        return str(client.execute_command(command, *arguments))
    return ""


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
