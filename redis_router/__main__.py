"""`python -m redis_router` is `redis-router`."""

import sys

from redis_router.cli import main

sys.exit(main())
