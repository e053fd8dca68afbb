"""The users for people in docs/operations.md: each command of the table as each of them, on every real server."""

import argparse
import re
import shlex

import pytest

from redis_router import CircuitConfig, Provider, cli
from redis_router.store.connect import connect
from tests.conftest import server
from tests.process.test_cli import run
from tests.support.documents import rows, section

PAGE = section("docs/operations.md", "Users for people")
USERS = dict(re.findall(r"^ACL SETUSER (\w+) on >password (.+)$", PAGE, re.MULTILINE))
TABLE = [
    (command, *row[1:])
    for row in rows(PAGE)
    for command in re.findall(r"`([^`]+)`", row[0])
]  # fmt: skip
ON = ("drain", "open", "close", "observe", "weight", "ready")
MORE = {"weight": "--to 0.5", "doctor": "--json", "purge": "--unused-for 7d"}
NOT_OF_REDIS = {"demo"}
"""Commands that need no user."""


@pytest.fixture
def as_a(real):
    """Makes a user exactly as documented, but for the names; gives how it calls a command."""
    made = []

    def be(user):
        name = f"{user}{real.namespace}"
        with connect(server(real.name).url) as admin:
            rights = USERS[user].replace("rr:", f"{real.namespace}:")
            admin.execute_command("ACL", "SETUSER", name, "on", ">password", *rights.split())
        made.append(name)
        url = real.url.replace("router:", f"{name}:")
        return lambda command: run(*shlex.split(command), "--redis", url, "--namespace", real.namespace)

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


def complete(command):
    """The command with what it cannot do without."""
    verb = command.split()[0]
    on = "openai " if verb in ON else ""
    return f"{command} {on}{MORE.get(verb, '') if command != 'purge --all --yes' else ''}"


def test_the_table_has_every_command():
    """And no other."""
    (parsers,) = [a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    assert {command.split()[0] for command, *_ in TABLE} == parsers.choices.keys() - NOT_OF_REDIS
    assert list(USERS) == ["viewer", "operator"]


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize(("command", "viewer", "operator"), TABLE, ids=[row[0] for row in TABLE])
def test_a_command_as_a_user(as_a, store, command, viewer, operator, user):
    """It does what it should; or it is refused, with the right that it lacks, and nothing is changed."""
    before = store.snapshot(), store.specs()
    code, out, err = as_a(user)(complete(command))
    if {"viewer": viewer, "operator": operator}[user] == "yes":
        assert code == (1 if command == "doctor" else 0), err
        assert "redis-router: Redis refused" not in err
        if command == "doctor":
            errors = re.findall(r'"check": "(\w+)",\s+"status": "error"', out)
            assert errors == ["permissions"]
            assert "not allowed to look" not in out
        elif command.split()[0] in ON:
            told = store.events("openai")[-1]
            assert store.snapshot(["openai"]).records["openai"].override or told.event != "override"
    else:
        assert code == 2, out
        assert "redis-router: Redis refused the login or the command: " in err
        assert re.search(
            rf"User {user}\w+ has no permissions to run the '\w+' command; check user, password and ACL", err
        )
        assert "Traceback" not in err
        after = store.snapshot(), store.specs()
        assert (after[0].records, after[1]) == (before[0].records, before[1])


def test_an_operator_who_removes(as_a, store, real):
    """With the rights on top that the page names."""
    purge = as_a("operator")
    (more,) = re.findall(r"that takes `([^`]+)`", PAGE)
    with connect(server(real.name).url) as admin:
        admin.execute_command("ACL", "SETUSER", f"operator{real.namespace}", *more.split())
    assert purge("purge --yes")[0] == 0
    assert "old" not in store.specs()
    assert purge("purge --all --yes")[0] == 0
    assert store.specs() == {}
