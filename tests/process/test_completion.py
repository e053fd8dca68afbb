"""What the Tab key offers, in the shells that are here."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from redis_router import CircuitConfig, Provider
from tests.support.terminal import Terminal


@pytest.fixture
def fleet(one_real):
    """Options for a fleet of openai, two azures, and claude with a circuit for each model."""
    store = one_real.store("gw")
    for name in ("openai", "azure", "eu:azure"):
        store.register(Provider(name, ("gpt-4o",)), CircuitConfig())
    for part in Provider("claude", ("haiku", "sonnet"), circuit_per_model=True).parts():
        store.register(part, CircuitConfig())
    return f"--redis {one_real.url} --namespace {one_real.namespace}"


@pytest.fixture
def path(tmp_path):
    """A PATH on which `redis-router` is the one under test."""
    program = tmp_path / "redis-router"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m redis_router "$@"\n')
    program.chmod(0o755)
    return f"{tmp_path}:{os.environ['PATH']}"


def offered(line):
    """What is offered for the last word of a line."""
    typed = "".join(f"{word}\n" for word in line.split(" "))
    command = [sys.executable, "-m", "redis_router", "completion", "bash", "--words"]
    asked = subprocess.run(command, input=typed, capture_output=True, text=True, check=True, timeout=60)
    assert asked.stderr == ""
    return asked.stdout.split()


class TestOffers:
    def test_commands_and_options(self):
        """Those of the parser; of a command of a command, too."""
        assert {"drain", "doctor", "config"} <= set(offered(""))
        assert offered("dra") == ["drain"]
        assert offered("drain openai --for") == ["--for", "--for-ever"]
        assert offered("config ") == ["apply", "diff", "show"]
        assert "--all" in offered("config show --")
        assert offered("completion ") == ["bash", "fish", "zsh"]
        assert "--words" not in offered("completion bash --")
        assert offered("drain openai --reason ") == offered("nonsense x") == []
        assert offered("config diff fl") == ["@files"]

    def test_names_of_the_fleet(self, fleet):
        """Of providers and their records, where the line says where Redis is; each once."""
        assert offered(f"drain {fleet} ") == ["azure", "claude", "claude/haiku", "claude/sonnet", "eu:azure", "openai"]
        assert offered(f"drain {fleet} azure claude/") == ["claude/haiku", "claude/sonnet"]
        assert offered(f"drain azure {fleet.replace(' ', '=', 1)} a") == []
        assert offered(f"config show {fleet} o") == ["openai"]

    def test_nothing_that_a_shell_would_run(self, fleet, one_real):
        """Whatever stands in Redis: what is offered goes into a command line as it is."""
        evil = ("$(reboot)", "`id`", "a b", "a;id", "@files", "a\nrm -rf .", "\x1b]0;x\x07", "-y", "a'", "*", "\u202ea")
        for number, name in enumerate(evil):
            said = {"models": ["m"], "provider": name}
            one_real.client().hset(one_real.keys.providers, f"p{number}", json.dumps(said))
            one_real.client().hset(one_real.keys.providers, name, json.dumps({**said, "provider": "openai"}))
        names = {"azure", "claude", "claude/haiku", "claude/sonnet", "eu:azure", "openai"}
        assert set(offered(f"drain {fleet} ")) == names | {f"p{number}" for number in range(len(evil))}

    @pytest.mark.parametrize("url", ["redis://127.0.0.1:1", "nonsense://", "redis://[", ""])
    def test_nothing_where_redis_is_away(self, url):
        """And no word of complaint."""
        assert offered(f"drain --redis {url} ") == []


class TestBash:
    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("redis-router dra", ["drain"]),
            ("redis-router drain FLEET op", ["openai"]),
            ("redis-router drain FLEET claude/s", ["claude/sonnet"]),
            ("redis-router drain FLEET eu:", ["azure"]),
        ],
    )
    def test_what_the_function_answers(self, fleet, path, line, expected):
        """Given what bash gives it; it begins a word after each colon."""
        line = line.replace("FLEET", fleet)
        words = line.replace("eu:", "eu : ").split(" ") if line.endswith(":") else line.split(" ")
        script = f"""
            source <(redis-router completion bash)
            COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
            COMP_LINE='{line}' COMP_POINT={len(line)}
            _redis_router; printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        said = subprocess.run(
            ["bash", "-c", script], capture_output=True, text=True, timeout=60, env={**os.environ, "PATH": path}
        )
        assert (said.stdout.split(), said.stderr) == (expected, "")


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], "source <(redis-router completion bash)"),
    "zsh": (["zsh", "-f", "-i"], "autoload -U compinit; compinit -D -u; source <(redis-router completion zsh)"),
    "fish": (["fish", "--no-config", "-i"], "redis-router completion fish | source"),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_tab_key(fleet, path, tmp_path, shell):
    """In a real shell on a terminal: a command, an option, a name, a file."""
    command, begin = SHELLS[shell]
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    (tmp_path / "fleet.toml").touch()
    env = {"PATH": path, "HOME": str(tmp_path), "INPUTRC": "/dev/null"}
    with Terminal(command, columns=200, env=env) as terminal:
        terminal.type(f"cd {tmp_path}; {begin}; echo rea''dy\n")
        terminal.until(lambda text: "\nready" in text, "the shell has begun")
        for typed, becomes in (
            ("redis-router dra\t", "redis-router drain "),
            (f"redis-router drain {fleet} --rea\t", "--reason "),
            (f"redis-router drain {fleet} claude/so\t", "claude/sonnet"),
            ("redis-router config diff fl\t", "fleet.toml"),
        ):
            terminal.type("\x0c" if shell == "zsh" else "\x15")
            terminal.type("\x15" + typed)
            terminal.until(lambda text, becomes=becomes: becomes.strip() in text.replace("\n", ""), f"{typed!r}")
