"""`redis-router watch`: the fleet as it is at this moment, until Ctrl-C."""

import argparse
import logging
import os
import sys
import time
from contextlib import closing

from redis_router.cli.arguments import Commands, duration, of_redis, opened_store
from redis_router.cli.terminal import EndedBySignals
from redis_router.errors import RouterError
from redis_router.operate.feed import Feed

TICK = 0.1
"""Seconds after which a change is on the screen at the latest."""


def add(commands: Commands) -> None:
    """Declare the command."""
    watch = commands.add_parser(
        "watch", parents=[of_redis()], help="show the fleet live, the worst first, until Ctrl-C"
    )
    watch.add_argument("providers", nargs="*", metavar="PROVIDER", help="a provider or provider/model (default: all)")
    watch.add_argument(
        "--interval",
        type=duration,
        default=1.0,
        metavar="TIME",
        help="how often the picture is drawn where nothing changes, such as 5s (default: 1s)",
    )
    watch.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Until Ctrl-C, exit code 130."""
    try:
        from redis_router.cli.screen import Screen
    except ImportError as error:
        raise RouterError(f"watch needs more ({error}): pip install 'redis-llm-router[watch]'") from None
    if not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        raise RouterError("watch draws on a terminal, and this is none: take `status`, or `events --follow`")
    logging.disable()  # a line in between would tear the picture; what is wrong stands on it
    with EndedBySignals() as signals, opened_store(arguments) as store, closing(Feed(store)) as feed:
        feed.start()
        with Screen(store.where, arguments.providers) as screen:
            drawn, drawn_at = None, float("-inf")
            while True:
                feed.watch()
                now = feed.number, feed.error
                if now != drawn or time.monotonic() - drawn_at >= arguments.interval:
                    screen.draw(feed.fleet())
                    drawn, drawn_at = now, time.monotonic()
                signals.rest(TICK)
