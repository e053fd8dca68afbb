"""`redis-router worker`: a HealthChecker as a process of its own, until it is told to end; or one run of it."""

import argparse
import json
import os
import re
import signal

from redis_router.checks import is_this_machine
from redis_router.cli.arguments import Commands, of_redis
from redis_router.cli.terminal import say
from redis_router.errors import InvalidArgument, RedisUnavailable
from redis_router.operate.guard import check_token
from redis_router.operate.service import Service
from redis_router.operate.wsgi import WsgiPage
from redis_router.runtime.alarm import Flag
from redis_router.runtime.log import log
from redis_router.store.connect import connect
from redis_router.worker.checker import HealthChecker
from redis_router.worker.endpoints import Endpoints
from redis_router.worker.webhook import Webhook

_HOUR = 3600.0
AUTO, OPEN, OFF = "auto", "open", "off"
"""Of `--page`."""


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
    add(
        "--webhook-url-env", metavar="NAME", help="the environment variable with the URL that transitions are POSTed to"
    )
    add("--webhook-secret-env", metavar="NAME", help="that with the secret by which these messages are signed")
    add("--metrics-port", type=int, default=9464, help="port of /metrics, /healthz, /readyz (default: 9464)")
    add("--metrics-host", default="127.0.0.1", help="address to bind, such as :: (default: 127.0.0.1)")
    _add_page(worker)
    add("--name", default=None, help="this worker's name in logs and in the lease (default: host and pid)")
    add(
        "--once",
        action="store_true",
        help="one run, then exit, for cron: moves due circuits; marks nobody unavailable",
    )
    add("--json", action="store_true", help="with --once: what it did, as JSON")
    worker.set_defaults(run=run)


def _add_page(worker: argparse.ArgumentParser) -> None:
    add = worker.add_argument
    add(
        "--page",
        choices=(AUTO, OPEN, OFF),
        default=AUTO,
        help="the page beside the metrics. auto: whoever reaches 127.0.0.1 may look; on another address it takes the"
        " token. open: whoever reaches it may look. off: there is none (default: auto)",
    )
    add(
        "--page-token-env",
        metavar="NAME",
        help="the environment variable with the token; who has that may act on the page: drain, open, close, ...",
    )
    add(
        "--page-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which the page is reached, beside localhost, addresses, and names without a dot; may be"
        " given several times",
    )


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0 at its end."""
    connect(arguments.redis).close()  # a worker needs a server, and memory:// is none
    token = _token(arguments.page_token_env)
    checker = HealthChecker(
        arguments.redis,
        arguments.namespace,
        arguments.interval,
        arguments.lease,
        probe_timeout=arguments.probe_timeout,
        probe_env=arguments.probe_env,
        webhook=_webhook(arguments),
        worker=arguments.name,
    )
    if arguments.once:
        _once(checker, as_json=arguments.json)
    else:
        _serve(checker, arguments, _page(arguments, token))
    return 0


def _webhook(arguments: argparse.Namespace) -> Webhook | None:
    """From the environment: an argument list can be read by everybody on the machine."""
    if arguments.webhook_url_env is None:
        if arguments.webhook_secret_env is not None:
            raise InvalidArgument("--webhook-secret-env goes with --webhook-url-env")
        return None
    secret = _of_env("--webhook-secret-env", arguments.webhook_secret_env) if arguments.webhook_secret_env else ""
    return Webhook(_of_env("--webhook-url-env", arguments.webhook_url_env), secret)


def _of_env(option: str, name: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):  # not shown: it may be the secret itself
        raise InvalidArgument(f"{option} takes the name of an environment variable, such as WEBHOOK_URL")
    value = os.environ.get(name, "").strip()
    if not value:
        raise InvalidArgument(f"{option} {name}: the environment has no such variable, or it is empty")
    return value


def _token(name: str | None) -> str | None:
    """What that variable holds. Raises InvalidArgument."""
    return None if name is None else check_token(_of_env("--page-token-env", name), f"the token in ${name}")


def _page(arguments: argparse.Namespace, token: str | None) -> Service | None:
    """None where it is off, or where it would show itself to a network that nobody opened it to."""
    is_open = arguments.page == OPEN or (arguments.page == AUTO and is_this_machine(arguments.metrics_host))
    if arguments.page == OFF or (token is None and not is_open):
        return None
    return Service(arguments.redis, arguments.namespace, token=token, open_to_look=is_open, hosts=arguments.page_host)


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


def _serve(checker: HealthChecker, arguments: argparse.Namespace, page: Service | None) -> None:
    ends = _set_by_a_signal()
    try:
        checker.reach()
    except RedisUnavailable:  # why: the line says it that tells of each time when Redis is away
        log.error("cannot reach %s: is it running, is --redis right? Trying on", checker.where)
    served = None if page is None else WsgiPage(page)
    endpoints = Endpoints(arguments.metrics_host, arguments.metrics_port, checker, served)
    checker.start()
    if page is not None:
        page.start()
    shown = f"page at {endpoints.url}/" if page is not None else "no page: see --page"
    log.info("worker %s, metrics at %s/metrics, %s", checker.worker, endpoints.url, shown)
    while not ends.wait(_HOUR):
        pass
    log.info("worker %s ends", checker.worker)
    if page is not None:
        page.close()
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
