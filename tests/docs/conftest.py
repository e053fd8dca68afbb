"""Snippets run as a user runs them: a file of its own, an interpreter of its own, a real server."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import uvicorn

from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from tests.support import eventually
from tests.support.documents import ROOT

URL = "redis://localhost:6379/0"
"""Of the documents."""
THEIRS = ("https://api.openai.com/v1", "https://example.openai.azure.com/openai/v1")
"""Where the documents' providers are."""


def patient(url: str) -> str:
    """With more patience for Redis than by default: on a machine that is busy with tests a router would begin alone."""
    return f"{url}?socket_timeout=20&socket_connect_timeout=20"


@pytest.fixture
def as_a_user(tmp_path, one_real) -> Callable[..., str]:
    """Runs a snippet on a real server; only the addresses are ours. Gives what it printed to stdout."""

    def run(code: str, *urls: str, fails: bool = False) -> str:
        code = code.replace(URL, patient(one_real.url))
        for theirs, ours in zip(THEIRS, urls, strict=False):
            code = code.replace(theirs, ours)
        (tmp_path / "snippet.py").write_text(code)
        env = {**os.environ, "OPENAI_API_KEY": "none", "AZURE_API_KEY": "none", "PYTHONPATH": str(ROOT)}
        env |= {"OPENAI_BASE_URL": urls[0]} if urls else {}
        command = [sys.executable, "-W", "error", str(tmp_path / "snippet.py")]
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        finally:
            forget(one_real.url)
        assert bool(done.returncode) is fails, done.stderr
        assert "deciding alone" not in done.stderr, done.stderr
        return done.stderr if fails else done.stdout

    return run


def forget(url: str) -> None:
    """Take away what a snippet left in the namespace that is the default."""
    with connect(url) as client:
        store = RedisStore(client, "rr", "test")
        for name, spec in store.specs().items():
            if not spec.deregistered:
                store.deregister(name)


@contextmanager
def served(app: Any) -> Iterator[str]:
    """An ASGI application over real HTTP; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
        thread.start()
        try:
            eventually(lambda: server.started)
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()
