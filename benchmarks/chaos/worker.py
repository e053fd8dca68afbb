"""One worker of the soak: `redis-router worker`, through the proxies. `PROXIES` is what `net.reach_through` takes."""

import os
import sys

from benchmarks.chaos import net
from redis_router.cli import main

if __name__ == "__main__":
    net.reach_through(os.environ["PROXIES"])
    sys.exit(main(["worker", *sys.argv[1:]]))
