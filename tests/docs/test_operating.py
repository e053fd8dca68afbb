"""docs/operating.md: overrides and the log of what happened, as an operator would type it."""

from importlib.metadata import version

from redis_router import Provider, Router
from redis_router.runtime.names import operator_name
from tests.support import eventually
from tests.support.documents import snippet

ACT = snippet("docs/operating.md", "operator.drain")
BEGIN = snippet("docs/operating.md", "observe=True")
LOOK = snippet("docs/operating.md", "operator.events")
RESET = snippet("docs/operating.md", "operator.reset")
WHO = snippet("docs/operating.md", "operator.replicas")
NAMES = ("openai", "azure", "anthropic")


def played(backend, text, **scope):
    """The lines as printed, on a Redis of the test's own."""
    place = f'"{backend.url}", namespace="{backend.namespace}"'
    exec(text.replace('"redis://localhost:6379/0"', place), scope)
    return scope


def test_an_operator_acts_looks_and_begins(backend, capsys):
    """Every snippet; where the user may not read logs, the last one is left to the other stores."""
    if backend.url is None:
        return
    fleet = played(backend, BEGIN, Router=Router)["router"]
    with fleet:
        for name in NAMES:
            fleet.register_provider(Provider(name, ("m",)))
        fleet.start()
        assert fleet.flush()
        assert {health.override for health in fleet.get_health_status().values()} == {"observe"}
        scope = played(backend, ACT)
        health = scope["operator"].status().records
        assert [health[name].override for name in NAMES] == ["", "observe", "force_closed"]
        assert (health["azure"].weight_override, health["anthropic"].override_by) == (0.2, operator_name())
        played(backend, RESET, **scope)
        eventually(lambda: scope["operator"].replicas())
        capsys.readouterr()
        played(backend, WHO, **scope)
        assert f"{fleet.replica} gateway {version('redis-llm-router')} in_step " in capsys.readouterr().out
        if backend.name == "memory":
            played(backend, LOOK, **scope)
            said = capsys.readouterr().out
            assert "'to': 'drain', " in said
            assert "'reason': 'moved to another region'" in said
