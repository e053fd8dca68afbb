"""`redis-router config`: the fleet's thresholds as a file, against a real server."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from redis_router import RECOMMENDED, CircuitConfig, Provider
from tests.process.test_acting import done
from tests.process.test_cli import run
from tests.support.terminal import Terminal


@pytest.fixture
def store(one_real):
    """openai: the recommended thresholds but one; azure: the original's; claude: a circuit for each model."""
    store = one_real.store("gw")
    store.register(Provider("openai", ("gpt-4o",), weight=2.0), replace(RECOMMENDED, open_timeout=10.0))
    store.register(Provider("azure", ("gpt-4o",)), CircuitConfig())
    for part in Provider("claude", ("haiku", "sonnet"), circuit_per_model=True).parts():
        store.register(part, RECOMMENDED)
    return store


@pytest.fixture
def fleet(store):
    """The thresholds and weight of each record."""
    return lambda: {name: (each.config, each.weight) for name, each in store.snapshot().records.items()}


@pytest.fixture
def file(tmp_path):
    """Writes a file, and gives its name."""

    def write(text: str) -> str:
        (tmp_path / "fleet.toml").write_text(text)
        return str(tmp_path / "fleet.toml")

    return write


SHOWN = """\
[azure]
preset = "original"
weight = 1

["claude/haiku"]
preset = "recommended"
weight = 1

["claude/sonnet"]
preset = "recommended"
weight = 1

[openai]
preset = "recommended"
weight = 2
open_timeout = 10
"""


class TestShow:
    def test_what_differs_from_a_preset(self, base, store):
        """Of all, or of those that are named; also as JSON, and each threshold where that is asked for."""
        assert done("config", "show", *base) == SHOWN
        assert done("config", "show", "openai", *base) == SHOWN[SHOWN.index("[openai]") :]
        assert done("config", "show", "claude", *base).count("weight") == 2
        (table,) = json.loads(done("config", "show", "azure", "--all", "--json", *base)).values()
        assert (table["open_timeout"], table["window"], "preset" in table) == (30.0, 0.0, False)

    def test_what_it_prints_changes_nothing(self, base, fleet, file):
        """Neither does all of it."""
        before = fleet()
        for options in ((), ("--all",)):
            name = file(done("config", "show", *options, *base))
            assert done("config", "diff", name, *base) == "nothing to change\n"
            assert done("config", "apply", name, *base) == "nothing to change\n"
        assert fleet() == before

    def test_an_unreadable_record(self, base, one_real, store):
        """The others are shown; the exit code tells."""
        one_real.client().hset(one_real.keys.health("azure"), "weight", "much")
        code, out, err = run("config", "show", *base)
        assert (code, "azure" in out, "azure" in err, "[openai]" in out) == (1, False, True, True)


CHANGES = """\
# a busy week
[openai]
open_timeout = 20
weight = 0.5

[claude]  # all of its models
consecutive_failure_limit = 9

["claude/sonnet"]
slow_start = 30
"""
DIFFERENCES = """\
claude/haiku: consecutive_failure_limit 5 -> 9
claude/sonnet: slow_start 0 -> 30
openai: weight 2 -> 0.5
openai: open_timeout 10 -> 20
"""


class TestApply:
    def test_a_difference(self, base, fleet, file):
        """Is told, with exit code 1, and changes nothing; from the standard input, too."""
        before = fleet()
        assert run("config", "diff", file(CHANGES), *base) == (1, DIFFERENCES, "")
        with open(file(CHANGES)) as stdin:
            code, out, _ = run("config", "diff", "-", "--json", *base, stdin=stdin)
        assert (code, len(json.loads(out))) == (1, 4)
        assert json.loads(out)[3] == {"provider": "openai", "field": "open_timeout", "old": 10.0, "new": 20.0}
        assert fleet() == before

    def test_it_is_applied_with_who_and_why(self, base, fleet, file):
        """To whom it names, and to nobody else."""
        before = fleet()
        said = done("config", "apply", file(CHANGES), "--yes", "--by", "alice", "--reason", "a busy week", *base)
        assert said == DIFFERENCES
        config = replace(RECOMMENDED, open_timeout=20.0)
        sonnet, haiku = replace(RECOMMENDED, slow_start=30.0), replace(RECOMMENDED, consecutive_failure_limit=9)
        changed = {"openai": (config, 0.5), "claude/sonnet": (sonnet, 1.0), "claude/haiku": (haiku, 1.0)}
        assert fleet() == before | changed
        lines = done("events", "openai", *base).splitlines()[-2:]
        assert "open_timeout_ms 10000 -> 20000 (a busy week)  by alice" in lines[0]
        assert "weight 2 -> 0.5 (a busy week)  by alice" in lines[1]
        assert run("config", "diff", file(CHANGES), *base)[0] == 0

    def test_without_a_terminal_it_takes_a_yes(self, base, fleet, file):
        """Nothing is done, and it says what would do it."""
        before = fleet()
        code, out, err = run("config", "apply", file(CHANGES), *base, stdin=subprocess.DEVNULL)
        assert (code, out, "--yes" in err) == (2, DIFFERENCES, True)
        assert fleet() == before

    @pytest.mark.parametrize("meanwhile", ["another setting", "gone"])
    def test_what_changed_while_somebody_thought_about_it(self, base, store, fleet, file, meanwhile):
        """Another operator's change of another setting would be undone unseen: it is refused, and nothing is done."""
        name = file("[openai]\nopen_timeout = 20\n[azure]\nweight = 3\n")
        command = [sys.executable, "-m", "redis_router", "config", "apply", name, *base]
        with Terminal(command) as terminal:
            terminal.until(lambda text: "Go on? [y/N]" in text)
            if meanwhile == "gone":
                store.deregister("azure")
            else:
                store.update("openai", replace(fleet()["openai"][0], min_reporters=3).to_fields())
            before = fleet()
            terminal.type("y\n")
            assert terminal.ends() == 2
        said = "changed meanwhile, so nothing was done" if meanwhile == "another setting" else "so nothing was done"
        assert said in terminal.text
        assert fleet() == before

    @pytest.mark.parametrize(
        ("wrong", "said"),
        [
            ("[azure]\nopen_timeout = 0", "provider 'azure': open_timeout is 0: give a finite number"),
            ("[azure]\nopen_timeout = true", "provider 'azure': open_timeout is True"),
            ("[azure]\nwindow_failure_rate_threshold = 0.5", "give window=10.0"),
            ('[azure]\nweight = "much"', "provider 'azure': weight is 'much'"),
            ("[azure]\nopen_timout = 3", "'open_timout' is no setting: give one of preset, weight, failure_rate"),
            ('[azure]\npreset = "best"', "preset is 'best': give 'recommended' or 'original'"),
            ("[azur]\nweight = 1", "'azur'"),
            ('["*"]\nweight = 1', "names no provider"),
            ("weight = 1", "weight stands in no table"),
            ("[azure", "this is no TOML"),
        ],
    )
    def test_one_bad_value_refuses_the_whole_file(self, base, fleet, file, wrong, said):
        """Named with its provider, field, value and remedy; what stands before it is not applied either."""
        before, text = fleet(), f"[openai]\nweight = 9\n{wrong}\n"
        if wrong == "weight = 1":
            text = f"{wrong}\n[openai]\nweight = 9\n"
        code, out, err = run("config", "apply", file(text), "--yes", *base)
        assert (code, out, said in err, "nothing was done" in err) == (2, "", True, True), err
        assert fleet() == before

    def test_all_that_is_wrong_is_told_at_once(self, base, fleet, file):
        """A line for each."""
        code, _, err = run(
            "config", "diff", file("[azure]\nweight = -1\n[openai]\nwindow = -2\nwindwo = 3\n[who]\n"), *base
        )
        assert (code, err.count("fleet.toml: ")) == (2, 4)

    def test_no_such_file(self, base):
        """By its name."""
        code, _, err = run("config", "diff", "/no/such.toml", *base)
        assert (code, err) == (2, "redis-router: cannot read /no/such.toml: No such file or directory\n")
