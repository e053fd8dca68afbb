"""What a replica's background is made of; made once, each after those that it needs."""

from dataclasses import dataclass

from redis_router.options import Options
from redis_router.replica.demand import Demand
from redis_router.replica.link import Link
from redis_router.replica.outbox import Outbox
from redis_router.replica.permits import Permits
from redis_router.replica.presence import Present
from redis_router.replica.push import PushChannel
from redis_router.replica.records import Records
from redis_router.replica.registration import Registration
from redis_router.replica.served import Served
from redis_router.replica.view import View
from redis_router.replica.waiters import Waiters
from redis_router.routing.strategies import looking, resolve
from redis_router.routing.table import Tables
from redis_router.runtime.alarm import Flag
from redis_router.store.contract import Store
from redis_router.telemetry.listeners import Listener
from redis_router.telemetry.metrics import Metrics


@dataclass(frozen=True, slots=True)
class Parts:
    """One replica's. None of them knows of this whole."""

    store: Store
    metrics: Metrics
    options: Options
    listener: Listener
    waiters: Waiters
    served: Served
    records: Records
    view: View
    outbox: Outbox
    permits: Permits
    registration: Registration
    demand: Demand
    link: Link
    push: PushChannel
    present: Present
    leaves: Flag
    """Set when the replica leaves: to listen is the first thing that ends."""

    @classmethod
    def make(cls, store: Store, metrics: Metrics, options: Options, listener: Listener) -> "Parts":
        """For one router, by its options."""
        waiters, served, leaves = Waiters(), Served(options.observe), Flag()
        records = Records(served.providers.keys())
        strategy = looking(resolve(options.strategy), records.now_ms)
        tables = Tables(strategy, records.now_ms, options.least_bad, options.panics, options.max_ejection_percent)
        outbox = Outbox(metrics, options.buffer_limit, options.result_ttl, options.flush_interval)
        return cls(
            store=store,
            metrics=metrics,
            options=options,
            listener=listener,
            waiters=waiters,
            served=served,
            records=records,
            view=View(tables, metrics, listener, waiters, served, store.writer),
            outbox=outbox,
            permits=Permits(outbox, metrics, store.session, options.permit_ttl),
            registration=Registration(served, records, options.circuit_version, options.observe),
            demand=Demand(),
            link=Link(store.where, metrics),
            present=Present(),
            push=PushChannel(store, records, leaves, options.refresh_interval),
            leaves=leaves,
        )
