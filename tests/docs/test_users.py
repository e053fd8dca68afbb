"""The users for people in docs/operations.md: each command of the table as each of them, on every real server."""

import argparse
import re
import shlex
import sys

import pytest

from redis_router import CircuitConfig, Provider, cli
from redis_router.runtime.names import operator_name
from redis_router.store.connect import connect
from tests.conftest import server
from tests.process.test_cli import run
from tests.support.documents import rows, section
from tests.support.terminal import Terminal

PAGE = section("docs/operations.md", "Users for people")
USERS = dict(re.findall(r"^ACL SETUSER (\w+) on >password (.+)$", PAGE, re.MULTILINE))
TABLE = [
    (command, *row[1:])
    for row in rows(PAGE)
    for command in re.findall(r"`([^`]+)`", row[0])
]  # fmt: skip
ON = ("drain", "open", "close", "observe", "weight", "ready", "reset")
BY_THEMSELVES = [row for row in TABLE if row[0] != "watch"]
MORE = {"weight": "--to 0.5", "reset": "--yes", "doctor": "--json", "purge": "--unused-for 7d"}
NOT_OF_REDIS = {"completion", "demo", "gateway"}
"""Commands that need no user of their own."""
THRESHOLDS = "[openai]\nopen_timeout = 7.0\n"


@pytest.fixture
def as_a(real):
    """Makes a user exactly as documented, but for the names; gives what it adds to a command."""
    made = []

    def be(user):
        name = f"{user}{real.namespace}"
        with connect(server(real.name).url) as admin:
            rights = USERS[user].replace("rr:", f"{real.namespace}:")
            admin.execute_command("ACL", "SETUSER", name, "on", ">password", *rights.split())
        made.append(name)
        url = real.url.replace("router:", f"{name}:")
        return ("--redis", url, "--namespace", real.namespace)

    yield be
    with connect(server(real.name).url) as admin:
        for name in made:
            admin.execute_command("ACL", "DELUSER", name)


@pytest.fixture
def store(real):
    """Two providers, one of which was deregistered long ago."""
    made = real.operator()
    for name in ("openai", "azure"):
        made.register(Provider(name, ("m",)), CircuitConfig())
    made.register(Provider("old", ("m",)), CircuitConfig())
    made.deregister("old")
    tombstone = '{"deregistered": true, "generation": 3, "at_ms": 1000}'
    with connect(server(real.name).url) as admin:
        admin.hset(real.keys.providers, "old", tombstone)
    return made


@pytest.fixture
def complete(tmp_path):
    """A command with what it cannot do without."""
    (tmp_path / "fleet.toml").write_text(THRESHOLDS)
    file = shlex.quote(str(tmp_path / "fleet.toml"))
    more = {**MORE, "purge --all --yes": "", "config diff": file, "config apply": f"{file} --yes"}

    def made(command):
        verb = command.split()[0]
        return f"{command} {'openai ' if verb in ON else ''}{more.get(command, more.get(verb, ''))}"

    return made


def test_the_table_has_every_command():
    """And no other."""
    (parsers,) = [a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert {command.split()[0] for command, *_ in TABLE} == parsers.choices.keys() - NOT_OF_REDIS
    assert list(USERS) == ["viewer", "operator"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(("command", "viewer", "operator"), BY_THEMSELVES, ids=[row[0] for row in BY_THEMSELVES])
def test_a_command_as_a_user(as_a, complete, store, command, viewer, operator, user):
    """It does what it should; or it is refused, with the right that it lacks, and nothing is changed."""
    before = store.snapshot(), store.specs()
    code, out, err = run(*shlex.split(complete(command)), *as_a(user))
    if {"viewer": viewer, "operator": operator}[user] == "yes":
        assert code == (1 if command in ("doctor", "config diff") else 0), err
        assert "redis-router: Redis refused" not in err
        if command == "doctor":
            errors = re.findall(r'"check": "(\w+)",\s+"status": "error"', out)
            assert errors == ["permissions"]
            assert "not allowed to look" not in out
        elif command.split()[0] in ON:
            told = store.events("openai")[-1]
            assert told.by == operator_name() or told.event in ("registered", "transition"), told
        elif command == "config apply":
            assert store.snapshot(["openai"]).records["openai"].config.open_timeout == 7.0
    else:
        assert code == 2, out
        assert "redis-router: Redis refused the login or the command: " in err
        assert re.search(
            rf"User {user}\w+ has no permissions to run the '\w+' command; check user, password and ACL", err
        )
        assert "Traceback" not in err
        after = store.snapshot(), store.specs()
        assert (after[0].records, after[1]) == (before[0].records, before[1])


@pytest.mark.parametrize("user", USERS)
def test_watch_as_a_user(as_a, store, user):
    """It draws on a terminal, follows what happens, and has nothing to complain of."""
    with Terminal([sys.executable, "-m", "redis_router", "watch", *as_a(user)], columns=120) as terminal:
        terminal.until(lambda text: "openai" in text and "azure" in text)
        store.override("openai", "drain", 0, 0, "alice", "")
        shown = terminal.until(lambda text: "drain by alice" in text)
        assert "refused" not in shown
        assert "no permissions" not in shown


def test_an_operator_who_removes(as_a, store, real):
    """With the rights on top that the page names."""
    where = as_a("operator")
    (more,) = re.findall(r"that takes `([^`]+)`", PAGE)
    with connect(server(real.name).url) as admin:
        admin.execute_command("ACL", "SETUSER", f"operator{real.namespace}", *more.split())
    assert run("purge", "--yes", *where)[0] == 0
    assert "old" not in store.specs()
    assert run("purge", "--all", "--yes", *where)[0] == 0
    assert store.specs() == {}
