"""`redis-router demo`: a whole fleet on this machine, on an embedded server."""

import argparse
import os
import sys

from redis_router.cli.arguments import Commands
from redis_router.cli.terminal import EndedBySignals
from redis_router.errors import RouterError


def add(commands: Commands) -> None:
    """Declare the command."""
    demo = commands.add_parser("demo", help="a whole fleet on an embedded server, for half a minute")
    demo.add_argument("--plain", action="store_true", help="plain lines, as when the output is no terminal")
    demo.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 where all went as told, 1 where not."""
    try:
        from redis_router.demo.play import play
    except ImportError as error:
        raise RouterError(f"the demo needs more ({error}): pip install 'redis-llm-router[demo]'") from None
    dumb = not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb")
    with EndedBySignals():  # so that the demo ends its processes
        return play(plain=arguments.plain or dumb)
