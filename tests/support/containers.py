"""What a container of docker-compose.yml or of Kubernetes starts, as a process of this machine: no engine is needed."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from redis_router.testing.server import free_port
from tests.support import eventually

PROGRAMS = {"redis-router": [sys.executable, "-m", "redis_router"], "python": [sys.executable]}
"""Of the image, and what they are here."""


class Container:
    """A process with the arguments of a container, and the environment that it is given and no more.

    inside  the container's words for addresses and folders, and ours in their place
    port    that it listens on in the container; here it is another one, `url`
    """

    def __init__(self, argv: list[str], env: dict[str, str], inside: dict[str, str], port: int, log: Path) -> None:
        program, *arguments = argv
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._log = log
        replaced = {**inside, "0.0.0.0": "127.0.0.1"}
        command = [*PROGRAMS[program], *(_with_port(each, port, self.port) for each in arguments)]
        for theirs, ours in replaced.items():
            command = [each.replace(theirs, ours) for each in command]
            env = {name: value.replace(theirs, ours) for name, value in env.items()}
        base = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "TMPDIR") if name in os.environ}
        with log.open("w") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=file, env={**base, "PYTHONUNBUFFERED": "1", **env}
            )

    @property
    def log(self) -> str:
        """All that it wrote."""
        return self._log.read_text()

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 where nobody listens."""
        try:
            answer = httpx.get(self.url + path, timeout=10, trust_env=False)
        except httpx.TransportError:
            return 0, ""
        return answer.status_code, answer.text

    def answers(self, path: str, status: int = 200) -> None:
        """Wait until it does."""

        def does() -> bool:
            assert self.process.poll() is None, self.log
            return self.get(path)[0] == status

        eventually(does, f"{path} says {status}: {self.log}", 60)

    def end(self, seconds: float = 30.0) -> int:
        """As the engine ends it: SIGTERM, and SIGKILL for whom the time was too short."""
        self.process.terminate()
        try:
            return self.process.wait(seconds)
        finally:
            self.kill()

    def kill(self) -> None:
        """At once."""
        self.process.kill()
        self.process.wait()


def _with_port(argument: str, theirs: int, ours: int) -> str:
    """`8000` and `--port=8000`."""
    end = argument.rpartition("=")[2]
    return argument[: len(argument) - len(end)] + str(ours) if end == str(theirs) else argument
