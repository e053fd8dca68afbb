"""docs/testing.md: the server to play with; tests/process/test_testing.py runs the example of the reference."""

import re
import subprocess
import sys

from redis_router.store.connect import connect
from redis_router.store.redis import RedisStore
from tests.docs.conftest import patient
from tests.support.documents import snippet

SERVER = snippet("docs/testing.md", "redis_server() as url")


def test_a_server_to_play_with():
    """Until Enter: what it prints is where it is."""
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as playing:
        url = re.fullmatch(r"export REDIS_ROUTER_URL=(\S+)\n", playing.stdout.readline())[1]
        with connect(patient(url)) as client:
            assert RedisStore(client, "rr", "test").specs() == {}
        playing.communicate("\n", timeout=60)
    assert playing.returncode == 0
