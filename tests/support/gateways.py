"""The ready gateway, as an operator starts it."""

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import httpx
import yaml

KEY = "sk-rr-of-the-tests"


class GatewayProcess:
    """`redis-router gateway`, on a free port, its log read line by line.

    before  the command that starts it
    out     where its standard output goes
    """

    def __init__(
        self,
        config: Path,
        *options: str,
        env: dict[str, str] | None = None,
        before: Sequence[str] = (),
        out: IO[str] | None = None,
    ) -> None:
        self.config = config
        command = [sys.executable, "-m", "redis_router", "gateway", "-c", str(config), "--port", "0", *options]
        self.process = subprocess.Popen(
            [*before, *command],
            stderr=subprocess.PIPE,
            stdout=out or subprocess.DEVNULL,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self.log: list[str] = []
        self.port = 0
        self._reader: threading.Thread | None = None
        self.http = httpx.Client(timeout=20, trust_env=False)

    def wait_ready(self, seconds: float = 20.0) -> "GatewayProcess":
        """Until it answers."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"gateway at http://[\d.]+:(\d+)/v1", line):
                self.port = int(found[1])
                break
        else:
            raise AssertionError(f"the gateway ended with {self.process.wait()}: {''.join(self.log)}")
        self._reader = threading.Thread(target=self.log.extend, args=(self.process.stderr,), daemon=True)
        self._reader.start()
        until = time.monotonic() + seconds
        while True:
            try:
                if self.http.get(f"{self.url}/readyz").status_code == 200:
                    return self
            except httpx.TransportError:
                assert time.monotonic() < until, "".join(self.log)
                time.sleep(0.05)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, path: str = "/v1/chat/completions", *, key: str | None = KEY, **options: Any) -> httpx.Response:
        """POST, or GET where there is no body."""
        headers: dict[Any, Any] = {} if key is None else {"authorization": f"Bearer {key}"}
        headers |= options.pop("headers", {})
        method = "POST" if {"json", "content"} & options.keys() else "GET"
        return self.http.request(method, self.url + path, headers=headers, **options)

    def end(self, seconds: float = 20.0) -> int:
        """As an operator ends it; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        finally:
            self.http.close()
            self.process.kill()
            self.process.wait()
            if self._reader is not None:
                self._reader.join(20)  # whom it started may write for a moment longer
            if self.process.stderr is not None:
                self.process.stderr.close()


def entry(model: str, name: str, url: str, *, api: str = "openai", weight: float = 1.0) -> dict[str, Any]:
    """Of a `model_list`."""
    base = url if api == "anthropic" else f"{url}/v1"
    return {
        "model_name": model,
        "litellm_params": {"model": f"{api}/{model}", "api_base": base, "api_key": f"key-of-{name}", "weight": weight},
        "model_info": {"id": name},
    }


def write(path: Path, entries: list[dict[str, Any]], **settings: Any) -> Path:
    """A file with that `model_list`."""
    path.write_text(yaml.safe_dump({"model_list": entries, **settings}))
    return path
