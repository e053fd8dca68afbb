"""How many providers of each model are in service, for the metrics."""

from redis_router.replica.served import Served
from redis_router.routing.table import EMPTY, RoutingTable, is_routable
from redis_router.telemetry.metrics import Metrics


class Models:
    """Counts again only what a newer table has made anew."""

    def __init__(self, metrics: Metrics, served: Served) -> None:
        self._metrics = metrics
        self._served = served
        self._table = EMPTY
        self._routable: dict[str, int] = {}

    def show(self, table: RoutingTable, now_ms: float) -> None:
        """Tell the metrics what this table says of its models. One thread at a time.

        A provider that is called although it should not be, as all are in trouble, does not count.
        """
        if table is self._table:
            return
        known = self._table.selectors
        routable = {
            model: self._routable[model]
            if known.get(model) is selector
            else sum(is_routable(each.health, now_ms) for each in selector.routable)
            for model, selector in table.selectors.items()
        }
        if routable != self._routable:
            self._metrics.models(self._served, routable)
        self._table, self._routable = table, routable
