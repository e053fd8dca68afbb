"""docs/tutorial.md, from its beginning to its end: the files as printed, the commands in their order, what they print.

Three things are ours: the server's address, the worker's port, and a shorter `open_timeout`.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from redis_router.testing.server import EmbeddedServer
from tests.docs.conftest import URL, patient
from tests.support import eventually
from tests.support.documents import ROOT, consoles, section, snippet

PAGE = "docs/tutorial.md"
COMMANDS = consoles(PAGE)
FILES = {
    "first.py": snippet(PAGE, "from redis_router import NoProviderAvailable"),
    "gateway.py": snippet(PAGE, "def tell(change: Transition)"),
    "fallback.py": snippet(PAGE, "fallbacks="),
}
TOLD = snippet(PAGE, "openai: half_open -> closed").splitlines()


def heeds_ctrl_c() -> None:
    """As in a terminal: a suite that a script runs in the background ignores SIGINT, and hands that down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Program:
    """One that runs until it is told to end; the lines that it printed."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as said:
            for line in said:
                self.lines.append(line.rstrip("\n"))

    def end(self) -> None:
        """As Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        self.reader.join()


class Terminals:
    """A folder with the tutorial's files, a server, and the commands of the page, one after the other."""

    def __init__(self, folder: Path, server: EmbeddedServer) -> None:
        self.folder = folder
        self.server = server
        self.left = list(COMMANDS)
        self.running: list[Program] = []
        self.client = connect(patient(server.url))
        self.store = RedisStore(self.client, "rr", "test")
        for name, text in FILES.items():
            (folder / name).write_text(self.ours(text))

    def ours(self, text: str) -> str:
        return text.replace(URL, patient(self.server.url)).replace("open_timeout=5.0", "open_timeout=0.5")

    def next(self, expected: str) -> tuple[list[str], str]:
        """The next command of the page, which is this one, as a list; and what the page says that it prints."""
        command, output = self.left.pop(0)
        assert command == expected
        return self.translated(shlex.split(self.ours(command))), output

    def translated(self, words: list[str]) -> list[str]:
        if words[0] == "python":
            return [sys.executable, *words[1:]]
        if words[0] == "redis-router":
            where = [] if words[1] == "demo" else ["--redis", patient(self.server.url)]
            port = ["--metrics-port", "0"] if words[1] == "worker" else []
            return [sys.executable, "-m", "redis_router", *words[1:], *where, *port]
        return words

    def skip(self, expected: str) -> None:
        """What a test must not do again: install, start a server."""
        self.next(expected)

    def run(self, expected: str) -> tuple[str, str]:
        """A command that ends by itself: what it printed, and what the page says."""
        command, output = self.next(expected)
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout, output

    def start(self, expected: str) -> Program:
        """A command that goes on until Ctrl-C."""
        command, _ = self.next(expected)
        process = subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heeds_ctrl_c,
        )
        self.running.append(Program(process))
        return self.running[-1]

    def redis_cli(self, expected: str) -> tuple[Any, str]:
        """What the server answers; its command line is not installed everywhere."""
        command, output = self.next(expected)
        assert command[0] == "redis-cli"
        return self.client.execute_command(*command[1:]), output

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def terminals(tmp_path) -> Iterator[Terminals]:
    """With a server of the tutorial's own, and programs that are ended."""
    with EmbeddedServer() as server:
        made = Terminals(tmp_path, server)
        yield made
        for program in made.running:
            if program.process.poll() is None:
                program.process.kill()
            program.process.wait()
            program.reader.join()
        made.client.close()


def without_numbers(text: str) -> str:
    """Times differ from run to run."""
    return re.sub(r"\d+:\d+:\d+Z", "T", re.sub(r"in \d+(\.\d+)? s", "in N s", text))


def states(program: Program) -> list[str]:
    """The transitions of openai that a gateway told, without their reasons."""
    return [line.split(" (")[0] for line in program.lines if line.startswith("openai: ")]


def is_back(program: Program) -> bool:
    """Did it tell of the way back to closed?"""
    return "openai: half_open -> closed" in states(program)


def test_from_the_first_line_to_the_last(terminals):
    """Each command in its order, so that none is left."""
    _without_redis(terminals)
    gateways = _share_the_circuit(terminals)
    worker = _recover(terminals, gateways)
    _operate_and_clean_up(terminals, [*gateways, worker])
    assert terminals.left == []


def _without_redis(terminals: Terminals) -> None:
    terminals.skip("pip install -e .")
    said, told = terminals.run("python first.py")
    assert without_numbers(said) == without_numbers(told)
    gateway = terminals.start("python gateway.py memory://")
    terminals.run("touch openai-is-down")
    eventually(lambda: has_printed(gateway, TOLD[2]), "a trial call failed", 40)
    terminals.run("rm openai-is-down")
    eventually(lambda: is_back(gateway), "openai is back", 40)
    gateway.end()
    # print and the log write at once, so that a line of the log may follow before the line's end
    printed = [line for line in gateway.lines if line.startswith("openai: ")]
    assert {line.partition(")")[0] + ")" for line in printed} == set(TOLD)
    said, told = terminals.run("python fallback.py")
    assert said == told


def has_printed(program: Program, line: str) -> bool:
    """Did it print this? The log writes at the same time, so that a line of it may stand before, or behind."""
    return any(line in each for each in program.lines)


def _share_the_circuit(terminals: Terminals) -> list[Program]:
    terminals.skip("redis-server")
    gateways = [terminals.start(f"python gateway.py {URL}") for _ in range(2)]
    store = terminals.store
    eventually(lambda: (found := store.snapshot().records.get("azure")) and found.last_result_ms, "calls are made", 40)
    command, _ = terminals.next("redis-cli SUBSCRIBE rr:events")
    with terminals.client.pubsub() as channel:
        channel.subscribe(command[2])
        terminals.run("touch openai-is-down")
        eventually(lambda: all(has_printed(each, TOLD[0]) for each in gateways), "both know", 40)
        news = iter(lambda: channel.get_message(timeout=5), None)
        assert any('"open"' in message["data"] for message in news if message["type"] == "message")
    found, told = terminals.redis_cli("redis-cli HGET 'rr:{openai}:health' circuit_state")
    assert found in (told.strip(), "half_open")  # a trial may be under way
    found, _ = terminals.redis_cli("redis-cli HGETALL 'rr:{openai}:health'")
    assert found
    said, told = terminals.run("redis-router status")
    assert said.splitlines()[0] == told.splitlines()[0]
    assert [line.split()[:1] for line in said.splitlines()] == [line.split()[:1] for line in told.splitlines()]
    return gateways


def _recover(terminals: Terminals, gateways: list[Program]) -> Program:
    terminals.skip("pip install -e '.[worker]'")
    worker = terminals.start("redis-router worker")
    eventually(lambda: any("leads" in line for line in worker.lines), "it says that it leads", 40)
    terminals.run("rm openai-is-down")
    eventually(lambda: all(is_back(each) for each in gateways), "both know", 40)
    return worker


def _operate_and_clean_up(terminals: Terminals, programs: list[Program]) -> None:
    for name, override in (("drain", "drain"), ("ready", "")):
        (command,) = [command for command, _ in COMMANDS if command.startswith(f"redis-router {name} ")]
        said, told = terminals.run(command)
        assert said == told
        assert terminals.store.snapshot(["openai"]).records["openai"].override == override
    for program in programs:
        program.end()
    terminals.run("redis-router purge --all --yes")
    assert terminals.client.keys("*") == []


def test_the_log_line_of_the_page(terminals):
    """What the router logs where nobody set up logging."""
    (line,) = re.findall(r"`(openai is open[^`]*)…`", section(PAGE, "Trip a circuit by hand"))
    command = [sys.executable, "first.py"]
    done = subprocess.run(
        command, cwd=terminals.folder, env=terminals.environment, capture_output=True, text=True, timeout=60
    )
    assert line in done.stderr
