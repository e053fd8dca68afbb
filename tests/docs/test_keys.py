"""docs/keys.md: every key and every field that Redis holds, and no other."""

import re

from redis_router import CircuitConfig, Provider
from redis_router.circuit.config import CONFIG_FIELDS
from redis_router.store.keys import Keys
from redis_router.store.messages import text
from tests.support.documents import PAGES, section

FIELDS = dict(re.findall(r"^\| `(\w+)`( \*)? \|", section("docs/keys.md", "The record"), re.MULTILINE))
THRESHOLDS = dict(re.findall(r"`(\w+)`( \*)?[,.]", section("docs/keys.md", "The record").partition("follow by")[2]))


def stored_in(backend, redis_client):
    """The record of openai as `HGETALL` shows it."""
    found = redis_client.hgetall(backend.keys.health("openai"))
    return {text(name): text(value) for name, value in found.items()}


def test_a_new_record_has_the_fields_without_a_star(backend, redis_client):
    """In Redis itself."""
    backend.store().register(Provider("openai", ("gpt-4o",)), CircuitConfig())
    stored = stored_in(backend, redis_client)
    always = [name for name, star in {**FIELDS, **THRESHOLDS}.items() if not star]
    assert sorted(stored) == sorted(always)


def test_every_field_is_in_the_tables(backend):
    """Those of a record, and what the scripts note for themselves."""
    backend.store().register(Provider("openai", ("gpt-4o",)), CircuitConfig())
    health = backend.record()
    assert FIELDS.keys() - {"last_push_ms"} == health.to_fields().keys() - set(CONFIG_FIELDS)
    assert list(THRESHOLDS) == list(CONFIG_FIELDS)


def test_every_key_is_in_the_table():
    """As keys.py spells them."""
    keys = Keys("rr")
    spelled = {keys.providers, keys.seen, keys.replicas, keys.leader, keys.told, keys.channel}
    spelled |= {make("openai") for make in (keys.health, keys.permits, keys.reporters, keys.in_flight, keys.events)}
    spelled |= {keys.seq("openai", "<session>"), f"{keys.seq('openai', '<session>')}:half_open"}
    told = set(re.findall(r"^\| `(rr:[^`]+)` \|", PAGES["docs/keys.md"], re.MULTILINE))
    assert told == spelled
