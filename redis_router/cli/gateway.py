"""`redis-router gateway`: an OpenAI- and Anthropic-compatible gateway, from one file."""

import argparse
import json
import os
from contextlib import closing, suppress
from importlib.util import find_spec

from redis_router.checks import check_name
from redis_router.cli.arguments import Commands
from redis_router.cli.terminal import complain, counted, printable, say
from redis_router.errors import InvalidArgument, RedisUnavailable, RouterError
from redis_router.runtime.log import log
from redis_router.runtime.names import operator_name
from redis_router.store.opening import open_store, open_target

_MEMORY = "memory://"
_LONGEST_END = 86_400


def add(commands: Commands) -> None:
    """Declare the command."""
    gateway = commands.add_parser("gateway", help="serve the models of a file, in LiteLLM's keys, as one API")
    add = gateway.add_argument
    add("-c", "--config", metavar="FILE", help="the file: model_list and more, see docs/gateway-config.md")
    add("--check", action="store_true", help="read the file, say what is wrong with it, and end")
    add("--new-key", metavar="NAME", help="make a key, print it once and the lines for the file, and end")
    add(
        "--redis",
        metavar="URL",
        default=os.environ.get("REDIS_ROUTER_URL", _MEMORY),
        help="one fleet with every gateway that has the same (default: $REDIS_ROUTER_URL, or memory://, alone)",
    )
    add("--namespace", default="rr", help="first part of every key (default: rr)")
    add("--host", default="127.0.0.1", help="address to bind, such as 0.0.0.0 (default: 127.0.0.1)")
    add("--port", type=int, default=4000, help="0 takes a free one (default: 4000)")
    add("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    add(
        "--no-worker",
        action="store_true",
        help="take no part in the election of the fleet's worker, where `redis-router worker` runs",
    )
    add(
        "--drain-seconds",
        type=float,
        default=5.0,
        metavar="S",
        help="after SIGTERM, /readyz says 503 for so long before it stops listening (default: 5)",
    )
    add("--end-seconds", type=float, default=60.0, metavar="S", help="then, for answers under way (default: 60)")
    add("--otel", action="store_true", help="spans of OpenTelemetry, see docs/tracing.md")
    gateway.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 at its end."""
    try:
        from redis_router.gateway import config, keys, serving
        from redis_router.gateway.settings import Serving
    except ImportError as error:
        raise RouterError(f"the gateway needs more ({error}): pip install 'redis-llm-router[gateway]'") from None
    if arguments.new_key is not None:
        name, key = check_name("name", arguments.new_key), keys.new_key()
        _show_key(name, key, keys.hashed(key))
        return 0
    if arguments.config is None:
        raise InvalidArgument("say which file: redis-router gateway -c config.yaml")
    loaded = config.load(arguments.config)
    settings = loaded.settings
    for note in loaded.notes:
        log.warning("in the file: %s", printable(note))
    if arguments.check:
        counts = {"provider": settings.providers, "model": settings.apis, "key": settings.keys}
        say(f"{arguments.config}: {', '.join(counted(len(found), thing) for thing, found in counts.items())}")
        return 0
    told = Serving(
        config=os.path.abspath(arguments.config),
        redis=arguments.redis,
        namespace=check_name("namespace", arguments.namespace),
        host=arguments.host,
        port=arguments.port,
        workers=arguments.workers,
        works=not arguments.no_worker,
        drain_seconds=arguments.drain_seconds,
        end_seconds=arguments.end_seconds,
        traces=arguments.otel,
    )
    _must_be_meant(arguments, open_to_all=settings.is_open and not told.is_for_this_machine)
    _must_be_let_in(told.redis, told.namespace)
    serving.serve(told)
    return 0


def _show_key(name: str, key: str, sha256: str) -> None:
    complain("The key, which is shown this once:")
    say(key)
    complain(f"For the file:\ngateway_settings:\n  keys:\n    - {json.dumps({'name': name, 'sha256': sha256})}")


def _must_be_meant(arguments: argparse.Namespace, *, open_to_all: bool) -> None:
    if arguments.workers < 1:
        raise InvalidArgument(f"--workers is {arguments.workers}: give at least 1")
    for name, seconds in (("drain", arguments.drain_seconds), ("end", arguments.end_seconds)):
        if not 0 <= seconds <= _LONGEST_END:
            raise InvalidArgument(f"--{name}-seconds is {seconds:g}: give seconds, from 0 up to {_LONGEST_END}")
    if open_to_all:
        raise InvalidArgument(
            f"--host {arguments.host} is reached from elsewhere, and the file names no keys: make one with --new-key,"
            " or set gateway_settings: allow_anyone: true"
        )
    if arguments.otel and find_spec("opentelemetry") is None:
        raise InvalidArgument("--otel needs OpenTelemetry: pip install 'redis-llm-router[otel]'")
    if arguments.redis.startswith(_MEMORY):
        alone = " and each of its processes has circuits of its own" if arguments.workers > 1 else ""
        log.warning("no --redis: this gateway shares its circuits with no other%s", alone)


def _must_be_let_in(redis: str, namespace: str) -> None:
    """Raises RedisRefused for a wrong password. That Redis is away is no reason not to serve."""
    with closing(open_target(redis)) as client, suppress(RedisUnavailable):
        open_store(client, namespace, operator_name()).specs()
