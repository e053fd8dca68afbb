"""docs/gateway-deploy.md: its unit is started, its numbers are those of the command and of the files in deploy."""

import argparse
import configparser
import shlex
from pathlib import Path

import yaml

from redis_router import cli
from redis_router.gateway.service import CLOSE_SECONDS
from redis_router.gateway.settings import LONGEST_DEADLINE
from redis_router.testing.server import redis_server
from tests.docs.test_deploy_gateway import FILE, OPTIONS, POD
from tests.support import eventually
from tests.support.containers import Container
from tests.support.documents import PAGES, rows, section, snippet
from tests.support.gateways import entry

NAME = "docs/gateway-deploy.md"
PAGE = PAGES[NAME]
UNIT = configparser.ConfigParser(interpolation=None)
UNIT.optionxform = str  # type: ignore[method-assign,assignment]
UNIT.read_string(snippet(NAME, "[Service]"))
SERVICE = UNIT["Service"]
ENVIRONMENT = dict(line.split("=", 1) for line in snippet(NAME, "OPENAI_API_KEY=").splitlines())


def defaults() -> dict[str, object]:
    """Of the command's options."""
    (parsers,) = [a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return {option: a.default for a in parsers.choices["gateway"]._actions for option in a.option_strings}


def test_the_unit_starts_a_gateway_and_ends_it(tmp_path):
    """All of its processes answer; SIGTERM to the first of them, as KillMode=mixed does, ends all in order."""
    config = tmp_path / "config.yaml"
    listed = entry("gpt-4o", "openai", "http://127.0.0.1:9")
    listed["litellm_params"]["api_key"] = "os.environ/OPENAI_API_KEY"
    config.write_text(yaml.safe_dump({"model_list": [listed]}))
    program, *arguments = shlex.split(SERVICE["ExecStart"])
    assert SERVICE["KillMode"] == "mixed"
    assert int(SERVICE["TimeoutStopSec"]) > needed()
    with redis_server() as redis:
        env = {**ENVIRONMENT, "REDIS_ROUTER_URL": redis}
        inside = {"/etc/redis-router/config.yaml": str(config)}
        unit = Container([Path(program).name, *arguments], env, inside, 4000, tmp_path / "log")
        try:
            unit.answers("/readyz")
            eventually(lambda: '"redis_up":true' in unit.get("/readyz")[1])
            unit.process.terminate()
            unit.answers("/readyz", 503)
            assert unit.process.wait(60) == 0
        finally:
            unit.kill()
    assert "gateway drains" in unit.log
    assert unit.log.count("gateway ends") == int(arguments[-1]), unit.log


def needed() -> float:
    """Seconds from SIGTERM to the end, at most, by default."""
    given = defaults()
    return float(given["--drain-seconds"]) + float(given["--end-seconds"]) + CLOSE_SECONDS


def test_the_periods_are_those_of_the_command():
    """And their sum is what the page says."""
    table = rows(section(NAME, "Its end, and rolling restarts"))
    told = {row[1].strip("`"): row[2] for row in table}
    given = defaults()
    assert [float(told[name]) for name in ("--drain-seconds", "--end-seconds")] == [
        given["--drain-seconds"],
        given["--end-seconds"],
    ]
    assert told["none"] == f"at most {CLOSE_SECONDS:g}"
    assert f"With the defaults that is {needed():g} s" in PAGE
    assert f"{LONGEST_DEADLINE:,.0f} s would be asked for" in PAGE


def test_the_numbers_of_kubernetes_are_those_of_the_file():
    """Drain, a request's most, and what the pod is given."""
    said = " ".join(section(NAME, "Kubernetes").split())
    assert f"the drain is {OPTIONS['drain-seconds']} s" in said
    assert f"a request lasts {FILE['gateway_settings']['longest_deadline']} s at most" in said
    assert f"the pod is given {POD['terminationGracePeriodSeconds']} s" in said
