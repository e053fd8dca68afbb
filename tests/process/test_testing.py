"""`redis_router.testing` as users have it: the example of its docstring, and a server that outlives nobody."""

import os
import re
import subprocess
import sys
import textwrap

import pytest
import redis

import redis_router.testing
from redis_router import RouterError
from redis_router.testing import redis_server, server
from tests.support import eventually


def test_the_example_runs(one_real, tmp_path):
    """As it stands in the docstring, by pytest."""
    blocks = re.findall(r"(?:^    .*\n|^\n)+", redis_router.testing.__doc__, re.MULTILINE)
    (tmp_path / "test_gateway.py").write_text("".join(map(textwrap.dedent, blocks)))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "."]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_a_server_of_ones_own(one_real):
    """On 127.0.0.1, empty, with the options that were given; gone with the block."""
    with redis_server("--maxmemory", "10mb") as url:
        assert url.startswith("redis://127.0.0.1:")
        with redis.Redis.from_url(url) as client:
            assert client.dbsize() == 0
            assert client.config_get("maxmemory") == {"maxmemory": "10485760"}
    with redis.Redis.from_url(url) as client, pytest.raises(redis.ConnectionError):
        client.ping()


def test_a_test_that_is_killed_leaves_no_server(one_real):
    """SIGKILL: nothing of ours can run any more, but the guard."""
    code = (
        "import time\n"
        "from redis_router.testing import server\n"
        "with server.EmbeddedServer() as started:\n"
        "    print(started.url, started.folder, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as test:
        url, folder = test.stdout.readline().split()
        assert os.path.isdir(folder)
        test.kill()

    def answers():
        try:
            with redis.Redis.from_url(url) as client:
                return client.ping()
        except redis.ConnectionError:
            return False

    eventually(lambda: not answers(), "the server ended")
    eventually(lambda: not os.path.exists(folder), "its folder is gone")


def test_no_server_at_all(monkeypatch, tmp_path):
    """The error says what to install."""
    monkeypatch.setattr(server, "binaries", dict)
    with pytest.raises(RouterError, match=r"pip install 'redis-llm-router\[testing\]'"), redis_server():
        pass


def test_a_server_that_is_none(monkeypatch, tmp_path):
    """The error names it, and the variable."""
    monkeypatch.setenv(server.VARIABLE, str(tmp_path / "nothing"))
    with pytest.raises(RouterError, match=r"nothing: .*is REDIS_ROUTER_SERVER right"), redis_server():
        pass


def test_it_is_not_imported_with_the_library():
    """`import redis_router` is for production."""
    code = "import sys, redis_router; assert 'redis_router.testing' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
