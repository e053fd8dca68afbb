"""Bad input is refused with the name, the value and the remedy, before anything is stored."""

import dataclasses
import math
import pickle

import pytest

from redis_router import CircuitConfig, CircuitState, InvalidArgument, Provider, ProviderHealth, RouterError

NAN, INF = math.nan, math.inf


@pytest.mark.parametrize("name", ["", " ", "a b", "a{b}", "}", "a\n", "-x", "x" * 65, "ünï", None, 7, b"x"])
def test_provider_names_that_cannot_be_keys_are_refused(name):
    """Braces would move the cluster hash tag, blanks and newlines break logs: neither gets in."""
    with pytest.raises(InvalidArgument, match="provider name"):
        Provider(name, models=("m",))


@pytest.mark.parametrize("models", ["gpt-4o", b"m", (), None, 3, ("",), (" ",), ("a\nb",), (None,), ("x" * 257,)])
def test_models_must_be_names(models):
    """Above all a bare string, which would become one model a letter."""
    with pytest.raises(InvalidArgument, match="model"):
        Provider("p", models=models)


def test_models_are_trimmed_and_counted_once():
    """As in the original; any iterable will do."""
    assert Provider("p", models=[" a ", "a", "*"]).models == ("a", "*")


@pytest.mark.parametrize("weight", [-1, 1e-300, NAN, INF, -INF, "2", None, True, False, 1e9])
def test_weights_are_finite_and_within_reason(weight):
    """The error says how to take a provider out of service."""
    with pytest.raises(InvalidArgument, match="or 0, for no calls at all"):
        Provider("p", models=("m",), weight=weight)


@pytest.mark.parametrize(
    "probe",
    [
        "",
        "localhost",
        "ftp://h/",
        "http://",
        "tcp://host",
        "tcp://h:port",
        "http://[::1",
        5,
        "tcp://h:99999",
        "http://h/a b",
        "http://user:secret@h/",
    ],
)
def test_probe_urls_are_checked(probe):
    """A probe that can never pass would take the provider out for ever."""
    with pytest.raises(InvalidArgument, match="http://host/path") as caught:
        Provider("p", models=("m",), probe=probe)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "probe", ["http://h/healthz", "https://h:8443/x?y=1", "tcp://h:80", "tcp://[::1]:80", "none", None]
)
def test_good_probe_urls_pass(probe):
    """HTTP, TLS and TCP."""
    assert Provider("p", models=("m",), probe=probe).probe == probe


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("failure_rate_threshold", -0.1), ("failure_rate_threshold", 1.1), ("failure_rate_threshold", NAN),
        ("failure_rate_threshold", "0.5"), ("consecutive_failure_limit", 0), ("consecutive_failure_limit", 2.5),
        ("consecutive_failure_limit", True), ("half_open_success_threshold", 0), ("half_open_max_probes", 0),
        ("half_open_max_probes", -1), ("open_timeout", 0), ("open_timeout", NAN), ("open_timeout", INF),
        ("open_timeout", 1e9), ("open_timeout", None),
    ],
)  # fmt: skip
def test_thresholds_are_checked(field, value):
    """Each names its field and its value."""
    with pytest.raises(InvalidArgument, match=field):
        CircuitConfig(**{field: value})


def test_defaults_are_the_originals():
    """0.5, 5, 3 and 30 s."""
    assert CircuitConfig() == CircuitConfig(0.5, 5, 3, 3, 30.0)


def test_health_goes_through_redis_and_back():
    """Every field, whatever its value, reads back as the same record."""
    config = CircuitConfig(0.25, 1, 2, 3, 0.004, 4, 5.5, 0.5, 6.0, 0.7, 1.5, 80.0, 0.1, 2, 9.0)
    health = ProviderHealth(
        "p", CircuitState.HALF_OPEN, "failure_rate", True, "http_503", False, "circuit", "HTTP 500", 17, 18, 32,
        1 / 3, 0.1, 2.5, 1, 2, 3, 4, "1 2", "0 1", "0 0", 2, 1.25, 5, 6, 7, 8,
        19, 8.5, 0.7, 33, 20, 20, 20, 21.5, 22, 23, 24.5, 25.5, 26.5, 27.5, 28.5, 29.5, 30.5,
        "drain", 29, 30, "alice", "why", 1.5, 30, 31, "bob", "because", config, 3, "ab12", 9, 10,
    )  # fmt: skip
    fields = health.to_fields()
    assert ProviderHealth.from_fields("p", fields) == health
    names = {field.name for field in dataclasses.fields(ProviderHealth)} - {"name", "config"}
    assert names | set(health.config.to_fields()) | {"schema"} == set(fields)


def test_values_are_frozen_and_travel():
    """Shared between threads, so nobody may change them; picklable, so a process pool may have them."""
    provider = Provider("p", ("m",))
    with pytest.raises(dataclasses.FrozenInstanceError):
        provider.name = "q"
    assert pickle.loads(pickle.dumps(provider)) == provider


def test_a_provider_is_generic_in_its_client():
    """Also when it is made with the client's type."""
    assert Provider[str]("p", ("m",), client="it") == Provider("p", ("m",))
    assert pickle.loads(pickle.dumps(Provider[str]("p", ("m",)))) == Provider("p", ("m",))


def test_a_client_never_shows():
    """Whatever secrets a client holds, a provider's repr leaves them out."""
    assert "secret" not in repr(Provider("p", ("m",), client="secret"))


def test_every_error_is_a_router_error_with_a_code():
    """One except clause catches the family."""
    from redis_router import errors

    family = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert all(issubclass(e, RouterError) for e in family)
    assert len({e.code for e in family}) == len(family)
