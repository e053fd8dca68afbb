"""`redis-router`: run a worker, look at the shared state, watch a demo."""

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib.metadata import version

from redis_router import status
from redis_router.checks import check_name
from redis_router.connect import connect, where
from redis_router.endpoints import Endpoints
from redis_router.errors import RedisUnavailable, RouterError
from redis_router.store import Store
from redis_router.worker import HealthChecker

log = logging.getLogger("redis_router")


def main(argv: Sequence[str] | None = None) -> int:
    """The command's exit code: 0 as it should be, 1 a demo that went wrong, 2 something to put right first."""
    arguments = parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    for chatty in ("httpx", "httpcore"):  # a line for each probe
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        code: int = arguments.run(arguments)
        return code
    except RouterError as error:
        print(f"redis-router: {error}", file=sys.stderr)
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
        help="redis://, redis+sentinel://, redis+cluster://, rediss… with TLS, unix:// (default: $REDIS_ROUTER_URL, or redis://localhost:6379/0)",
    )
    shared.add_argument("--namespace", default="rr", help="first part of every key (default: rr)")

    worker = commands.add_parser("worker", parents=[shared], help="move due circuits to half-open and probe providers")
    worker.add_argument(
        "--interval", type=float, default=10.0, help="seconds between probes of a provider (default: 10)"
    )
    worker.add_argument(
        "--lease", type=float, default=15.0, help="seconds until a dead leader is replaced (default: 15)"
    )
    worker.add_argument("--probe-timeout", type=float, default=5.0, help="seconds for a probe (default: 5)")
    worker.add_argument(
        "--metrics-port", type=int, default=9464, help="port of /metrics, /healthz, /readyz (default: 9464)"
    )
    worker.add_argument("--metrics-host", default="127.0.0.1", help="address to bind (default: 127.0.0.1)")
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
    log.info(
        "worker %s, metrics at http://%s:%d/metrics",
        checker.worker,
        arguments.metrics_host,
        endpoints.port,
    )
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
        snapshot = Store(client, check_name("namespace", arguments.namespace), "status").snapshot()
    except RedisUnavailable as error:
        raise RedisUnavailable(f"{error}; is Redis running at {where(client)}, is --redis right?") from None
    print(status.as_json(snapshot) if arguments.json else status.as_table(snapshot))
    return 0


def _demo(arguments: argparse.Namespace) -> int:
    try:
        from redis_router.demo.play import play
    except ImportError as error:
        raise RouterError(f"the demo needs more ({error}): pip install 'redis-llm-router[demo]'") from None
    dumb = not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb")
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, _leave)  # so that the demo ends its processes
    try:
        return play(plain=arguments.plain or dumb)
    except BrokenPipeError:  # the reader of a pipe went away
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - the interpreter flushes it at exit
        return 1


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
