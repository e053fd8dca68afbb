"""What several commands have in common: where Redis is, and a store of the namespace there."""

import argparse
import os
import re
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any, Protocol

from redis_router.checks import check_name
from redis_router.errors import RedisUnavailable
from redis_router.overriding import Operator
from redis_router.runtime.names import operator_name
from redis_router.store.connect import connect
from redis_router.store.contract import Store
from redis_router.store.opening import open_store


class Commands(Protocol):
    """Where a command declares itself: what `argparse`'s `add_subparsers` gives."""

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """The command's own arguments."""


class Described:
    """As `commands`; the help of each command begins with what the list of commands says of it."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands

    def add_parser(self, name: str, **options: Any) -> argparse.ArgumentParser:
        """Declare a command."""
        text = options["help"]
        described = {"description": f"{text[:1].upper()}{text[1:]}."} | options
        return self._commands.add_parser(name, **described)


def of_redis() -> argparse.ArgumentParser:
    """`--redis` and `--namespace`, for `parents=`."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--redis",
        metavar="URL",
        default=os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"),
        help="redis://, redis+sentinel://, redis+cluster://, rediss:// (TLS), unix:// (default: $REDIS_ROUTER_URL, or"
        " redis://localhost:6379/0)",
    )
    shared.add_argument("--namespace", default="rr", help="first part of every key (default: rr)")
    return shared


def by_operator() -> argparse.ArgumentParser:
    """`--reason` and `--by`, for `parents=`: both go into the record and the log."""
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--reason", default="", metavar="TEXT", help="for people, at most 200 characters")
    shared.add_argument("--by", metavar="NAME", help="who says so (default: user and host)")
    return shared


@contextmanager
def opened_store(arguments: argparse.Namespace) -> Iterator[Store]:
    """The store that these arguments mean, over one connection. Where Redis is away the error says what to check."""
    namespace = check_name("namespace", arguments.namespace)
    with closing(connect(arguments.redis)) as client:
        store = open_store(client, namespace, operator_name())
        try:
            yield store
        except RedisUnavailable as error:
            raise RedisUnavailable(f"{error}; does {store.where} run, is --redis right?") from None


@contextmanager
def opened_operator(arguments: argparse.Namespace, by: str | None = None) -> Iterator[Operator]:
    """An operator, by its name. Where Redis is away the error says what to check."""
    with Operator(arguments.redis, arguments.namespace, by=by) as operator:
        try:
            yield operator
        except RedisUnavailable as error:
            raise RedisUnavailable(f"{error}; does Redis run, is --redis right?") from None


def duration(text: str) -> float:
    """Seconds: 90s, 30m, 12h, 7d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: give a number and s, m, h or d, such as 12h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]
