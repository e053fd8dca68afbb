"""`redis-router`: run a worker, look at the shared state and at what is wrong, clear it up, watch a demo.

Each command is a module here, named for it; `acting` has those by which operators act. `add` declares the arguments,
`run` does it and gives the exit code. A new one is listed in `COMMANDS`. What several of them need is in
`arguments.py`; `terminal.py` prints.
"""

import argparse
from collections.abc import Sequence
from importlib.metadata import version

from redis_router.cli import (
    acting,
    completion,
    config,
    demo,
    doctor,
    events,
    gateway,
    purge,
    replicas,
    status,
    terminal,
    watch,
    worker,
)
from redis_router.cli.arguments import Described
from redis_router.errors import RouterError
from redis_router.runtime.log import log_to_stderr

COMMANDS = (gateway, worker, status, watch, replicas, acting, events, config, doctor, purge, completion, demo)
"""In the order in which `--help` lists them."""


EXIT_CODES = (
    "Exit codes: 0 as it should be; 1 it looked, and not all is as it should be; 2 something to put right"
    " first; 3 drain --wait: calls are still under way; 130 after Ctrl-C."
)


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit code, see `EXIT_CODES`."""
    terminal.prepare()
    try:
        return _run(parser().parse_args(argv))
    except BrokenPipeError:  # the reader of a pipe went away
        return 1
    finally:
        terminal.finish()


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="redis-router",
        description="One circuit breaker for a whole fleet of LLM gateways.",
        epilog=EXIT_CODES,
    )
    root.add_argument("--version", action="version", version=f"redis-router {version('redis-llm-router')}")
    commands = Described(root.add_subparsers(required=True, metavar="command"))
    for command in COMMANDS:
        command.add(commands)
    return root


def _run(arguments: argparse.Namespace) -> int:
    log_to_stderr()
    try:
        code: int = arguments.run(arguments)
        return code
    except RouterError as error:
        terminal.complain(terminal.printable(f"redis-router: {error}", keep="\n"))
        return 2
    except KeyboardInterrupt:
        return 130
