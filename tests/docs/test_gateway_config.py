"""docs/gateway-config.md: its file loads, and its tables are the code's."""

import re
import subprocess

import pytest

from redis_router.gateway.config import BadConfig, load
from redis_router.gateway.config.hosts import HOSTS, REFUSED
from redis_router.gateway.config.known import GENERAL, KNOWN, LITELLM, OUR_KEYS, PARAMS, ROUTER, TOP
from redis_router.gateway.keys import hashed, new_key
from redis_router.gateway.settings import Settings
from tests.support.documents import rows, section, snippet

PAGE = "docs/gateway-config.md"
FILE = snippet(PAGE, "model_list:")
HASH = snippet(PAGE, "sha256sum")
ENVIRON = {
    "OPENAI_API_KEY": "of-openai",
    "AZURE_API_KEY": "of-azure",
    "ANTHROPIC_API_KEY": "of-anthropic",
    "BATCH_JOBS_SHA256": hashed("batch"),
}
SMALL = "model_list:\n  - model_name: a\n    litellm_params:\n      model: openai/gpt-4o\n"
QUOTED = re.compile(r"`([^`]+)`")


@pytest.fixture
def read(tmp_path):
    """A text as the gateway reads it."""

    def loaded(text):
        (tmp_path / "config.yaml").write_text(text)
        return load(tmp_path / "config.yaml", ENVIRON)

    return loaded


def test_the_whole_file_is_what_it_seems(read):
    """Providers, models, keys and times; nothing of it is without effect."""
    found = read(FILE)
    settings = found.settings
    assert found.notes == ()
    assert [(each.name, each.models, each.weight) for each in settings.providers] == [
        ("openai/gpt-4o", ("gpt-4o",), 1.0),
        ("azure-eu", ("gpt-4o",), 2.0),
        ("vllm", ("llama",), 1.0),
        ("anthropic/claude-sonnet-4-5", ("claude",), 1.0),
    ]
    assert settings.apis == {"gpt-4o": "openai", "llama": "openai", "claude": "anthropic"}
    assert settings.fallbacks == {"gpt-4o": ("llama",)}
    assert [key.name for key in settings.keys] == ["alice", "batch-jobs"]
    assert (settings.deadline, settings.first_token_timeout) == (60.0, 10.0)
    assert settings.forward_headers == {"x-tenant"}


def test_the_names_without_an_id(read):
    """The page's two examples."""
    names = [each.name for each in read(FILE.replace("    model_info: {id: azure-eu}", "   ")).settings.providers]
    assert names[:2] == ["openai/gpt-4o", "azure/gpt-4o-eu@example.openai.azure.com"]
    assert all(f"`{name}`" in section(PAGE, "model_list") for name in names[:2])


def test_the_prefixes_are_the_codes():
    """Each with its base URL and its variables."""
    said = {
        prefix.strip("`/"): (None if "api_base" in base else base, tuple(QUOTED.findall(keys)))
        for prefix, base, keys in rows(section(PAGE, "Prefixes"))
    }
    assert said == {prefix: (host.base, host.keys) for prefix, host in HOSTS.items()}
    after = section(PAGE, "Prefixes").partition("are refused")[2]
    assert {each.rstrip("/") for each in QUOTED.findall(after)} == set(REFUSED)


def test_the_keys_of_an_entry_are_those_that_are_read():
    """No more, no fewer."""
    keys = {key.strip("`") for key, *_ in rows(section(PAGE, "model_list").partition("### ")[0])}
    assert keys == {"model_name", "model_info.id", *(f"{PARAMS}.{key}" for key in KNOWN[PARAMS].used)}


def test_our_keys_and_their_defaults(read):
    """Each default is what a file without it has."""
    table = {
        key.strip("`"): default for key, default, *_ in rows(section(PAGE, "gateway_settings").partition("### ")[0])
    }
    assert set(table) == OUR_KEYS
    settings = read(SMALL).settings
    assert (float(table["deadline"]), float(table["longest_deadline"].partition(",")[0])) == (
        settings.deadline,
        settings.longest_deadline,
    )
    assert int(table["max_body_mb"]) << 20 == settings.max_body
    assert table["strategy"].strip("`") == settings.strategy
    assert (settings.keys, settings.allow_anyone, settings.forward_headers) == ((), False, frozenset())
    assert (settings.first_token_timeout, settings.max_attempts) == (None, None)


def test_litellms_settings_become_what_the_page_says(read):
    """Each of them, alone, changes that one field."""
    table = dict(rows(section(PAGE, "LiteLLM's settings").partition("### ")[0]))
    assert {key.strip("`") for key in table} == {
        f"{name}.{key}" for name in (LITELLM, ROUTER, GENERAL) for key in KNOWN[name].used
    }
    for key, becomes in table.items():
        name, _, setting = key.strip("`").partition(".")
        field = becomes.split("`")[1] if becomes.startswith("`") else None
        if field is not None:
            settings = read(f"{SMALL}{name}:\n  {setting}: 7\n").settings
            assert (
                getattr(settings, field)
                == (8 if field == "max_attempts" else 7.0)
                != getattr(read(SMALL).settings, field, Settings)
            )


def words(heading):
    """The keys in the first column of a section's table."""
    return {key.rpartition(".")[2] for first, *_ in rows(section(PAGE, heading)) for key in QUOTED.findall(first)}


def test_what_has_no_effect_is_noted(read):
    """In the section where LiteLLM has it."""
    places = ["      {}: 1\n", *(f"{name}:\n  {{}}: 1\n" for name in (LITELLM, ROUTER, GENERAL)), "{}: 1\n"]
    for key in words("Without effect") - {"model_info", "id"}:
        assert any(is_noted(read, SMALL + place.format(key)) for place in places), key
    assert is_noted(read, SMALL + "    model_info: {mode: chat}\n")


def is_noted(read, text):
    """Is it read, with one note?"""
    try:
        return len(read(text).notes) == 1
    except BadConfig:
        return False


def test_what_is_refused_is_that():
    """All of the code's, and nothing else."""
    codes = {key for known in (*KNOWN.values(), TOP) for key in known.refused}
    assert words("Refused") - {"master_key", "gateway_settings"} == codes


def test_the_hash_of_a_key_that_one_has():
    """As the shell makes it."""
    key = new_key()
    printed = subprocess.run(["sh", "-c", HASH], env={"KEY": key}, capture_output=True, text=True, check=True).stdout
    assert printed.split()[0] == hashed(key)


def test_the_bounds_of_the_file(read, tmp_path):
    """1 MiB, one document, no tags, nothing twice."""
    for bad in (SMALL + "#" * (1 << 20), SMALL + "---\n", SMALL + "a: !include b\n", SMALL + SMALL):
        with pytest.raises(BadConfig):
            read(bad)
