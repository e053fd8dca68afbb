"""What tests and benchmarks share: `servers` (real servers, a proxy), `fleet` (replicas and what they see), `http`
(providers that answer over HTTP), `processes` (replicas and workers of their own).

Here is what nearly every test needs.
"""

from tests.support.fleet import TRACES, metric, recorded, result
from tests.support.http import Target, target
from tests.support.servers import eventually

__all__ = ["TRACES", "Target", "eventually", "metric", "recorded", "result", "target"]
