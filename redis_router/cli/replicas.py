"""`redis-router replicas`: which gateways and workers are there, and whose view of the circuits differs."""

import argparse
import json
from collections.abc import Sequence

from redis_router.cli.arguments import Commands, of_redis, opened_store
from redis_router.cli.terminal import columns, printable, say
from redis_router.operate import fleet
from redis_router.operate.words import lasted
from redis_router.replicas import Replica, compared

_HEAD = ("NAME", "ROLE", "VIEW", "LAST SEEN", "SINCE", "VERSION", "HOST", "PID", "")


def add(commands: Commands) -> None:
    """Declare the command."""
    replicas = commands.add_parser(
        "replicas", parents=[of_redis()], help="show which gateways and workers are there, and whose view differs"
    )
    replicas.add_argument("--json", action="store_true", help="all fields, as JSON")
    replicas.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Exit code 0, or 1 where a view differs."""
    with opened_store(arguments) as store:
        said = store.presences()
        snapshot = store.snapshot()
    found = compared(said, snapshot)
    say(as_json(found, snapshot.now_ms) if arguments.json else as_table(found, snapshot.now_ms))
    return 1 if any(each.differs for each in found) else 0


def as_json(found: Sequence[Replica], now_ms: int) -> str:
    """Every field of each, and Redis's clock."""
    return json.dumps({"now_ms": now_ms, "replicas": [fleet.as_json(each) for each in found]}, indent=2)


def as_table(found: Sequence[Replica], now_ms: int) -> str:
    """A line for each, and the sums."""
    if not found:
        return "nobody is there: check --namespace; gateways and workers of an older version do not say that they are"
    rows = [_HEAD, *(_row(each, now_ms) for each in found)]
    return "\n".join([*columns(rows), "", fleet.summary(found)])


def _row(replica: Replica, now_ms: int) -> Sequence[str]:
    return tuple(
        map(
            printable,
            (
                replica.name,
                replica.role,
                fleet.state(replica),
                f"{lasted(replica.silent_ms)} ago",
                lasted(max(0, now_ms - replica.since_ms)),
                replica.version or "?",
                replica.host,
                str(replica.pid),
                fleet.view(replica, now_ms),
            ),
        )
    )
