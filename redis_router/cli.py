"""`redis-router`: run a worker, look at the shared state, watch a demo."""

import argparse
import logging
import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version

from redis_router.checks import check_name
from redis_router.errors import RedisUnavailable, RouterError
from redis_router.runtime.log import log
from redis_router.runtime.names import operator_name
from redis_router.store.connect import connect, where
from redis_router.store.redis import Store
from redis_router.worker import purge, status, terminal
from redis_router.worker.checker import HealthChecker
from redis_router.worker.endpoints import Endpoints
from redis_router.worker.terminal import complain, printable, say


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit code: 0 as it should be, 2 something to put right first.

    1 where a demo went wrong, or a record cannot be read.
    """
    terminal.prepare()
    try:
        return _run(parser().parse_args(argv))
    except BrokenPipeError:  # the reader of a pipe went away
        return 1
    finally:
        terminal.finish()


def _run(arguments: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore"):  # a line for each probe
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        code: int = arguments.run(arguments)
        return code
    except RouterError as error:
        complain(printable(f"redis-router: {error}", keep="\n"))
        return 2
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="redis-router", description="One circuit breaker for a whole fleet of LLM gateways."
    )
    root.add_argument("--version", action="version", version=f"redis-router {version('redis-llm-router')}")
    commands = root.add_subparsers(required=True, metavar="command")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument(
        "--redis",
        metavar="URL",
        default=os.environ.get("REDIS_ROUTER_URL", "redis://localhost:6379/0"),
        help="redis://, redis+sentinel://, redis+cluster://, rediss:// (TLS), unix:// (default: $REDIS_ROUTER_URL, or redis://localhost:6379/0)",
    )
    shared.add_argument("--namespace", default="rr", help="first part of every key (default: rr)")

    worker = commands.add_parser("worker", parents=[shared], help="move due circuits to half-open and probe providers")
    worker.add_argument(
        "--interval", type=float, default=10.0, help="seconds between probes of a provider (default: 10)"
    )
    worker.add_argument(
        "--lease", type=float, default=15.0, help="seconds until a dead leader is replaced (default: 15)"
    )
    worker.add_argument(
        "--probe-env",
        action="append",
        default=[],
        metavar="NAME",
        help="an environment variable that the headers of probes may hold as ${NAME}; may be given several times",
    )
    worker.add_argument("--probe-timeout", type=float, default=5.0, help="seconds for all of a probe (default: 5)")
    worker.add_argument(
        "--metrics-port", type=int, default=9464, help="port of /metrics, /healthz, /readyz (default: 9464)"
    )
    worker.add_argument("--metrics-host", default="127.0.0.1", help="address to bind, such as :: (default: 127.0.0.1)")
    worker.add_argument(
        "--name", default=None, help="this worker's name in logs and in the lease (default: host and pid)"
    )
    worker.add_argument(
        "--once",
        action="store_true",
        help="one pass, then exit, for cron: moves due circuits, marks nothing",
    )
    worker.set_defaults(run=_worker)

    look = commands.add_parser("status", parents=[shared], help="show every provider's circuit, and who leads")
    look.add_argument("--json", action="store_true", help="all fields, as JSON")
    look.set_defaults(run=_status)

    clean = commands.add_parser("purge", parents=[shared], help="list, and remove, what no replica uses any more")
    clean.add_argument(
        "--unused-for", type=_duration, default="7d", metavar="TIME", help="such as 12h or 7d (default: 7d)"
    )
    clean.add_argument("--all", action="store_true", help="every key of the namespace: to uninstall")
    clean.add_argument("--yes", action="store_true", help="remove what is listed")
    clean.set_defaults(run=_purge)

    demo = commands.add_parser("demo", help="a whole fleet on an embedded server, for half a minute")
    demo.add_argument("--plain", action="store_true", help="plain lines, as when the output is no terminal")
    demo.set_defaults(run=_demo)
    return root


def _worker(arguments: argparse.Namespace) -> int:
    checker = HealthChecker(
        arguments.redis,
        arguments.namespace,
        arguments.interval,
        arguments.lease,
        probe_timeout=arguments.probe_timeout,
        probe_env=arguments.probe_env,
        worker=arguments.name,
    )
    if arguments.once:
        done = checker.run_once()
        checker.stop()
        failed = [f"{name} ({why})" for name, why in done.probed.items() if why is not None]
        moved = f"moved to half_open: {', '.join(done.half_opened) or 'none'}"
        log.info("%s; probes failed: %s", moved, ", ".join(failed) or "none")
        if not done.leader:
            log.info("another worker leads: nothing to do here")
        return 0
    stop = _until_signalled()
    client = connect(arguments.redis)
    try:
        Store(client, arguments.namespace, checker.worker).leader()
    except RedisUnavailable as error:
        log.error(
            "cannot reach Redis at %s: is it running, is --redis right? Trying on. %s",
            where(client),
            error,
        )
    client.close()
    endpoints = Endpoints(
        arguments.metrics_host,
        arguments.metrics_port,
        healthz=lambda: (checker.alive, "alive" if checker.alive else "stuck"),
        readyz=lambda: (checker.redis_up, _role(checker)),
    )
    checker.start()
    log.info("worker %s, metrics at %s/metrics", checker.worker, endpoints.url)
    stop.wait()
    log.info("worker %s ends", checker.worker)
    checker.stop()
    endpoints.close()
    return 0


def _role(checker: HealthChecker) -> str:
    if not checker.redis_up:
        return "Redis is not reachable"
    return "leader" if checker.is_leader else "standby"


def _until_signalled() -> threading.Event:
    """Set by the first SIGTERM or SIGINT; a second one kills."""
    stop = threading.Event()

    def first(number: int, frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        stop.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, first)
    return stop


def _status(arguments: argparse.Namespace) -> int:
    client = connect(arguments.redis)
    try:
        snapshot = Store(client, check_name("namespace", arguments.namespace), operator_name()).snapshot()
    except RedisUnavailable as error:
        raise RedisUnavailable(f"{error}; is Redis running at {where(client)}, is --redis right?") from None
    say(status.as_json(snapshot) if arguments.json else status.as_table(snapshot))
    return 1 if snapshot.unreadable else 0


def _purge(arguments: argparse.Namespace) -> int:
    store = Store(connect(arguments.redis), check_name("namespace", arguments.namespace), operator_name())
    if arguments.all:
        for line in purge.in_use(store):
            complain(f"{printable(line)}: stop it first, or what is removed comes back")
        keys = purge.all_keys(store)
        _list(keys, arguments.yes)
        store.delete(keys if arguments.yes else ())
        return 0
    found = purge.leftovers(store, arguments.unused_for * 1000)
    _list([str(leftover) for leftover in found], arguments.yes)
    for leftover in found if arguments.yes else ():
        purge.remove(store, leftover)
    return 0


def _list(lines: Sequence[str], removes: bool) -> None:
    say("\n".join(map(printable, lines)) or "nothing to remove")
    if lines:
        say(f"removing {len(lines)}" if removes else f"{len(lines)} to remove: once more with --yes")


def _duration(text: str) -> float:
    """Seconds: 30m, 12h, 7d."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([mhd])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: give a number and m, h or d, such as 12h")
    seconds = float(found[1]) * {"m": 60, "h": 3600, "d": 86400}[found[2]]
    if seconds * 1000 < purge.LEAST_UNUSED_MS:
        raise argparse.ArgumentTypeError(f"{text} is too short: replicas say every five minutes what they serve; 15m")
    return seconds


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from redis_router.demo.play import play
    except ImportError as error:
        raise RouterError(f"the demo needs more ({error}): pip install 'redis-llm-router[demo]'") from None
    dumb = not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb")
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _leave)  # so that the demo ends its processes
    return play(plain=arguments.plain or dumb)


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
