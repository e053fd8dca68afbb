"""What /metrics shows, where one process serves it, and where several write into files."""

import os
from pathlib import Path

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, CollectorRegistry, generate_latest, make_wsgi_app
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

__all__ = ["CONTENT_TYPE_LATEST", "generate_latest", "in_files", "make_wsgi_app", "scrape_registry"]


def in_files() -> bool:
    """Do several processes write their metrics into files, so that any of them can show all?"""
    return bool(os.environ.get("PROMETHEUS_MULTIPROC_DIR"))


def scrape_registry() -> CollectorRegistry:
    """What /metrics should show: `generate_latest(scrape_registry())`.

    prometheus_client's default registry or, with PROMETHEUS_MULTIPROC_DIR, the metrics of all processes that write
    there, without the gauges of those that ended. Make it anew for each scrape.
    """
    if not in_files():
        return REGISTRY
    for path in Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob("gauge_live*.db"):
        pid = path.stem.rpartition("_")[2]
        if pid.isdecimal() and not _is_alive(int(pid)):
            mark_process_dead(int(pid))  # type: ignore[no-untyped-call]
    registry = CollectorRegistry()
    MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
