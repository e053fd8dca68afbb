"""What follows from facts, where two threads meet."""

import threading

from prometheus_client import CollectorRegistry

from redis_router import Provider, Router
from redis_router.testing import memory
from tests.support import eventually

P = Provider("p", models=("m",))


def test_who_is_registered_again_while_it_is_forgotten_is_joined(monkeypatch):
    """Just between the look whether it is gone, and the forgetting."""
    with memory() as url, Router(url, registry=CollectorRegistry()) as router:
        router.register_provider(P)
        assert router.flush()
        again = threading.Thread(target=router.register_provider, args=(P,))
        engine = router._engine

        def carries(name: str) -> bool:
            if not again.ident:
                again.start()
                again.join(0.3)  # as long as it may take where nobody holds it up
            return False

        monkeypatch.setattr(engine.outbox, "carries", carries)
        router.deregister_provider("p", everywhere=True)
        eventually(lambda: again.ident and not again.is_alive(), "it is registered again")
        eventually(lambda: "p" in engine.store.snapshot().records, "its record is joined")
