"""Probes against real sockets that drip, hang, refuse and set cookies; and names whose look-up hangs."""

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from redis_router import InvalidArgument, Probe
from redis_router.runtime.alarm import Alarm
from redis_router.worker import lookups, prober
from redis_router.worker.options import WorkerOptions
from redis_router.worker.prober import ProbeOutcome, Prober
from tests.support import eventually, target


@pytest.fixture
def probing() -> Iterator:
    """Makes probers, and closes them."""
    made = []

    def maker(timeout=20.0, env=()):
        made.append(Prober(WorkerOptions(probe_timeout=timeout, probe_env=env), Alarm()))
        return made[-1]

    yield maker
    for each in made:
        each.close()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "redis-router-prober"], "the loops end")


@contextmanager
def hung(backlog=512) -> Iterator[int]:
    """The port of a server that accepts, and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as listening:
        yield listening.getsockname()[1]


def result(made, what="a result"):
    return eventually(made.next_result, what)


def asked(made, probe):
    """One probe, and its result."""
    made.start(probe)
    return result(made, f"the result of {probe.url}")


def test_two_hundred_that_hang_delay_nobody(probing):
    """They have the whole timeout, and the one that answers has its result long before."""
    made = probing(timeout=3600.0)
    with hung() as port, target() as provider:
        for number in range(200):
            made.start(Probe(f"http://127.0.0.1:{port}/{number}"))
        found = asked(made, Probe(provider.url))
        assert (found.probe.url, found.outcome) == (provider.url, ProbeOutcome.PASSED)
        assert made.next_result() is None


def test_the_time_of_a_probe_runs_from_its_start(probing, monkeypatch):
    """One that had to wait longer than its timeout for room passes all the same, and tells when it really began."""
    monkeypatch.setattr(prober, "AT_ONCE", 1)
    made = probing(timeout=2.0)
    with hung() as port, target() as provider:
        begun = time.monotonic()
        made.start(Probe(f"http://127.0.0.1:{port}/1"))
        made.start(Probe(f"tcp://127.0.0.1:{port}"))
        made.start(Probe(f"http://127.0.0.1:{port}/2"))
        made.start(Probe(provider.url))
        found = [result(made) for _ in range(4)]
    assert [each.outcome for each in found] == [
        ProbeOutcome.FAILED,
        ProbeOutcome.PASSED,
        ProbeOutcome.FAILED,
        ProbeOutcome.PASSED,
    ]
    assert found[3].began >= begun + 4.0


@pytest.mark.parametrize("how", ["drips", "hangs"])
def test_the_timeout_bounds_the_whole_probe(probing, how):
    """Whatever an endpoint sends meanwhile."""
    made = probing(timeout=0.5)
    with target() as provider, hung() as port:
        provider.drips = True
        url = provider.url if how == "drips" else f"http://127.0.0.1:{port}/"
        found = asked(made, Probe(url))
    assert (found.outcome, found.why) == (ProbeOutcome.FAILED, "no answer within 0.5 s")


def test_nothing_is_kept_between_probes(probing):
    """Neither a cookie nor a connection."""
    requests, ended = [], threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve():
            while True:
                with suppress(OSError):
                    connection, _ = listening.accept()
                    if ended.is_set():
                        connection.close()
                        return
                    with connection:
                        requests.append(connection.recv(65536).decode().lower())
                        connection.sendall(
                            b"HTTP/1.1 200 OK\r\nSet-Cookie: session=abc; Path=/\r\nContent-Length: 0\r\n\r\n"
                        )
                        connection.recv(1)  # until the other side hangs up

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        port = listening.getsockname()[1]
        made = probing()
        for _ in range(3):
            assert asked(made, Probe(f"http://127.0.0.1:{port}/")).outcome is ProbeOutcome.PASSED
        ended.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()
    assert len(requests) == 3
    assert not [text for text in requests if "cookie" in text]
    assert all("user-agent: redis-router-probe" in text for text in requests)


@pytest.mark.parametrize("scheme", ["http", "tcp"])
def test_a_refused_connection_is_named(probing, scheme):
    """In the system's words, whichever library met it."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    found = asked(probing(), Probe(f"{scheme}://127.0.0.1:{port}"))
    assert (found.outcome, found.why) == (ProbeOutcome.FAILED, "Connection refused")


def test_a_failed_connection_gets_one_more_try(probing, monkeypatch):
    """At once, and one only."""
    made, tries = probing(), []

    async def attempt(probe):
        tries.append(probe)
        raise ConnectionRefusedError(111, "no")

    monkeypatch.setattr(made._asker, "_tcp", attempt)
    assert asked(made, Probe("tcp://127.0.0.1:1")).outcome is ProbeOutcome.FAILED
    assert len(tries) == 2


def test_without_httpx_tcp_still_works(probing, monkeypatch):
    """HTTP says what to install."""
    monkeypatch.setitem(sys.modules, "httpx", None)
    made = probing()
    with target() as provider:
        found = asked(made, Probe(provider.url))
        assert found.outcome is ProbeOutcome.IMPOSSIBLE
        assert "redis-llm-router[worker]" in found.why
        assert asked(made, Probe(provider.tcp)).outcome is ProbeOutcome.PASSED


def test_certificates_that_cannot_be_loaded_are_no_result(probing, monkeypatch):
    """The worker's environment is wrong, not the provider."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    found = asked(probing(), Probe("https://127.0.0.1:1/"))
    assert (found.outcome, "certificates" in found.why) == (ProbeOutcome.IMPOSSIBLE, True)


def test_the_names_of_variables_are_a_list():
    """A string would be its letters."""
    with pytest.raises(InvalidArgument, match="probe_env"):
        WorkerOptions(probe_env="OPENAI_API_KEY")


def test_a_shortage_of_this_machine_is_no_result():
    """No file to be had: nobody was asked. A process of its own, for the limit counts for all of it."""
    code = """
import os, resource, socket, threading
from redis_router import Probe
from redis_router.runtime.alarm import Alarm
from redis_router.worker.options import WorkerOptions
from redis_router.worker.prober import Prober

server = socket.create_server(("127.0.0.1", 0), backlog=100)
port = server.getsockname()[1]
prober = Prober(WorkerOptions(probe_timeout=20.0), Alarm())
def said(url):
    prober.start(Probe(url))
    return prober.results.get(timeout=60).outcome.value
assert said(f"tcp://127.0.0.1:{port}") == "passed"
said("http://127.0.0.1:1/")  # loads what it needs
spare = os.open("/dev/null", os.O_RDONLY)
os.close(spare)
resource.setrlimit(resource.RLIMIT_NOFILE, (spare, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
print(said(f"tcp://127.0.0.1:{port}"), said(f"http://127.0.0.1:{port}/"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.stdout.split() == ["not_asked", "not_asked"], done.stderr


class TestNames:
    @pytest.fixture
    def resolver(self, monkeypatch) -> Iterator:
        """Names that end in .hung are looked up until the test ends; says how often each was."""
        ends, looked_up, answers = threading.Event(), [], socket.getaddrinfo

        def getaddrinfo(host, *rest, **options):
            looked_up.append(host := host.decode() if isinstance(host, bytes) else host)
            if host.endswith(".hung"):
                ends.wait(60)
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return answers(host, *rest, **options)

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield looked_up
        ends.set()
        eventually(lambda: not [t for t in threading.enumerate() if t.name == "redis-router-lookup"])

    def test_one_that_hangs_holds_up_no_other(self, probing, resolver):
        """A hundred names of which nothing is heard, and one that is known."""
        made = probing(timeout=3600.0)
        with target() as provider:
            for number in range(100):
                made.start(Probe(f"http://name{number}.hung/"))
            found = asked(made, Probe(provider.url.replace("127.0.0.1", "localhost")))
        assert found.outcome is ProbeOutcome.PASSED

    def test_one_that_hangs_fails_and_is_looked_up_once(self, probing, resolver):
        """All who ask for it wait for the same answer; their time ends."""
        made = probing(timeout=0.3)
        for number in range(5):
            made.start(Probe(f"http://name.hung/{number}"))
        assert {result(made).why for _ in range(5)} == {"no answer within 0.3 s"}
        assert asked(made, Probe("http://name.hung/again")).outcome is ProbeOutcome.FAILED
        assert resolver.count("name.hung") == 1

    def test_too_many_that_hang_are_no_result_on_the_next(self, probing, resolver, monkeypatch):
        """It was not asked. An address needs no look-up."""
        monkeypatch.setattr(lookups, "AT_ONCE", 3)
        made = probing(timeout=0.2)
        for number in range(3):
            assert asked(made, Probe(f"tcp://name{number}.hung:1")).outcome is ProbeOutcome.FAILED
        made._timeout = 20.0
        with target() as provider:
            for url in (provider.url, provider.tcp):
                found = asked(made, Probe(url.replace("127.0.0.1", "localhost")))
                assert found.outcome is ProbeOutcome.NOT_ASKED
                assert "resolver" in found.why
                assert asked(made, Probe(url)).outcome is ProbeOutcome.PASSED

    def test_one_that_is_unknown_fails(self, probing, monkeypatch):
        """In the resolver's words."""

        def getaddrinfo(*question):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        for url in ("http://nobody.invalid/", "tcp://nobody.invalid:1"):
            found = asked(probing(), Probe(url))
            assert (found.outcome, "not known" in found.why) == (ProbeOutcome.FAILED, True)

    def test_the_interpreter_does_not_wait_for_one(self):
        """asyncio's own pool would be joined at exit."""
        code = """
import socket, threading, time
from redis_router import Probe
from redis_router.runtime.alarm import Alarm
from redis_router.worker.options import WorkerOptions
from redis_router.worker.prober import Prober

began = threading.Event()
def getaddrinfo(*question):
    began.set()
    time.sleep(3600)
socket.getaddrinfo = getaddrinfo
prober = Prober(WorkerOptions(probe_timeout=3600.0), Alarm())
prober.start(Probe("http://name.hung/"))
assert began.wait(60)
prober.close()
print("ends")
"""
        done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")
