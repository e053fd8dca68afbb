"""Processes: replicas that take commands, and workers as an operator starts them."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from typing import Any
from urllib.error import HTTPError


class ReplicaProcess:
    """A `tests.process.replica`; each call is one line there and one line back."""

    def __init__(self, url: str, namespace: str, circuit: dict[str, Any], router: dict[str, Any]) -> None:
        settings = json.dumps({"circuit": circuit, "router": router})
        command = [sys.executable, "-m", "tests.process.replica", url, namespace, settings]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def wait_ready(self) -> "ReplicaProcess":
        assert self._read() == "ready"
        return self

    def __call__(self, *command: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the replica ended with {self.process.wait()}"
        return json.loads(line)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


class WorkerProcess:
    """`redis-router worker`, on a free port, its log read line by line."""

    def __init__(self, url: str, namespace: str, *options: str, env: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "redis_router", "worker", "--redis", url, "--namespace", namespace]
        self.process = subprocess.Popen(
            [*command, "--metrics-port", "0", *options],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.log: list[str] = []
        self.port = 0

    def wait_ready(self) -> "WorkerProcess":
        """Until it said where its metrics are."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"http://[\d.]+:(\d+)/metrics", line):
                self.port = int(found[1])
                return self
        raise AssertionError(f"the worker ended with {self.process.wait()}: {''.join(self.log)}")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode().strip()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode().strip()

    @property
    def leads(self) -> bool:
        return self.get("/readyz") == (200, "leader")

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
