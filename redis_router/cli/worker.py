"""`redis-router worker`: a HealthChecker as a process of its own, until it is told to end; or one run of it."""

import argparse
import json
import signal

from redis_router.cli.arguments import Commands, of_redis
from redis_router.cli.terminal import say
from redis_router.errors import RedisUnavailable
from redis_router.runtime.alarm import Flag
from redis_router.runtime.log import log
from redis_router.store.connect import connect
from redis_router.worker.checker import HealthChecker
from redis_router.worker.endpoints import Endpoints

_HOUR = 3600.0


def add(commands: Commands) -> None:
    """Declare the command."""
    worker = commands.add_parser(
        "worker", parents=[of_redis()], help="move due circuits to half-open and probe providers"
    )
    add = worker.add_argument
    add("--interval", type=float, default=10.0, help="seconds between probes of a provider (default: 10)")
    add("--lease", type=float, default=15.0, help="seconds until a dead leader is replaced (default: 15)")
    add(
        "--probe-env",
        action="append",
        default=[],
        metavar="NAME",
        help="an environment variable that the headers of probes may hold as ${NAME}; may be given several times",
    )
    add("--probe-timeout", type=float, default=5.0, help="seconds for all of a probe (default: 5)")
    add("--metrics-port", type=int, default=9464, help="port of /metrics, /healthz, /readyz (default: 9464)")
    add("--metrics-host", default="127.0.0.1", help="address to bind, such as :: (default: 127.0.0.1)")
    add("--name", default=None, help="this worker's name in logs and in the lease (default: host and pid)")
    add(
        "--once",
        action="store_true",
        help="one run, then exit, for cron: moves due circuits; marks nobody unavailable",
    )
    add("--json", action="store_true", help="with --once: what it did, as JSON")
    worker.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 at its end."""
    connect(arguments.redis).close()  # a worker needs a server, and memory:// is none
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
        _once(checker, as_json=arguments.json)
    else:
        _serve(checker, arguments)
    return 0


def _once(checker: HealthChecker, *, as_json: bool) -> None:
    try:
        done = checker.run_once()
    finally:
        checker.stop()
    if as_json:
        probed = {name: why or "passes" for name, why in done.probed.items()}
        say(json.dumps({"leader": done.leader, "half_opened": list(done.half_opened), "probed": probed}, indent=2))
        return
    failed = [f"{name} ({why})" for name, why in done.probed.items() if why is not None]
    moved = f"moved to half_open: {', '.join(done.half_opened) or 'none'}"
    log.info("%s; probes failed: %s", moved, ", ".join(failed) or "none")
    if not done.leader:
        log.info("another worker leads: nothing to do here")


def _serve(checker: HealthChecker, arguments: argparse.Namespace) -> None:
    ends = _set_by_a_signal()
    try:
        checker.reach()
    except RedisUnavailable:  # why: the line says it that tells of each time when Redis is away
        log.error("cannot reach %s: is it running, is --redis right? Trying on", checker.where)
    endpoints = Endpoints(arguments.metrics_host, arguments.metrics_port, checker)
    checker.start()
    log.info("worker %s, metrics at %s/metrics", checker.worker, endpoints.url)
    while not ends.wait(_HOUR):
        pass
    log.info("worker %s ends", checker.worker)
    checker.stop()
    endpoints.close()


def _set_by_a_signal() -> Flag:
    """By the first SIGTERM or SIGINT; a second one kills."""
    ends = Flag()

    def first(number: int, frame: object) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, signal.SIG_DFL)
        ends.set()

    for each in (signal.SIGTERM, signal.SIGINT):
        signal.signal(each, first)
    return ends
