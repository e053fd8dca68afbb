"""docs/configuration.md: every option is there, and the snippets run."""

import dataclasses
import inspect
import re

from redis_router import RECOMMENDED, CircuitConfig, Probe, Router
from redis_router.options import Options
from tests.support.documents import section, snippet

MEMORY = snippet("docs/configuration.md", "memory://")
PROBE = snippet("docs/configuration.md", "probe=Probe(")


def documented(heading):
    """The first column of a table, and what it says of defaults."""
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section("docs/configuration.md", heading), re.MULTILINE))


def test_options_are_the_constructors():
    """Every one, and no other."""
    assert documented("Options").keys() == inspect.signature(Router).parameters.keys() - {"redis"}


def test_thresholds_are_the_constructors():
    """Every one, and no other."""
    table = documented("Thresholds")
    table.pop("CircuitConfig", None)
    assert list(table) == [field.name for field in dataclasses.fields(CircuitConfig)]


def test_defaults_are_those_of_the_code():
    """Numbers and words, without their units."""
    told = {**documented("Options"), **documented("Thresholds")}
    fields = [*dataclasses.fields(Options), *dataclasses.fields(CircuitConfig)]
    for field in fields:
        if field.name != "circuit":
            said = told[field.name].split(" ")[0].replace(",", "").strip('`"')
            assert said == (str(field.default) if isinstance(field.default, str | bool) else f"{field.default:g}"), (
                field.name
            )


def test_the_preset_is_that_of_the_code():
    """Each threshold, without its unit."""
    found = re.findall(
        r"^\| `(\w+)` \| [^|]+ \| ([\d.]+)", section("docs/configuration.md", "Thresholds"), re.MULTILINE
    )
    assert {name: float(text) for name, text in found} == dataclasses.asdict(RECOMMENDED)
    assert Options().circuit is RECOMMENDED
    assert "| `circuit` | `RECOMMENDED` |" in section("docs/configuration.md", "Options")


def test_routers_of_one_process_share_their_memory(as_a_user):
    """As printed."""
    assert as_a_user(MEMORY) == ""


def test_a_probe_with_a_secret_of_the_workers():
    """It names the variable, not the secret."""
    scope = {}
    exec(PROBE, scope)
    found = scope["provider"].probe
    assert isinstance(found, Probe)
    assert found.headers == {"Authorization": "Bearer ${OPENAI_API_KEY}"}
