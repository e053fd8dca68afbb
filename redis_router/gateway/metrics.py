"""What /metrics shows of the gateway, beside what the router shows of its providers."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram

_PREFIX = "redis_router_gateway_"
_BUCKETS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Metrics:
    """One for each process, in prometheus_client's default registry."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._requests = Counter(
            _PREFIX + "requests_total",
            "Requests answered, by path, status and the name of the key",
            ("path", "status", "key"),
            registry=registry,
        )
        self._seconds = Histogram(
            _PREFIX + "request_seconds",
            "From the first byte of a request to the last of its answer",
            ("path",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._in_flight = Gauge(
            _PREFIX + "requests_in_flight", "Requests under way", multiprocess_mode="livesum", registry=registry
        )
        self._reloads = Counter(
            _PREFIX + "config_reloads_total",
            "The file was read again, by how that went",
            ("result",),
            registry=registry,
        )
        self._is_current = Gauge(
            _PREFIX + "config_last_reload_successful",
            "1 where the file as it stands is in force, 0 where it was refused",
            multiprocess_mode="livemin",
            registry=registry,
        )
        self._is_current.set(1)
        for result in ("ok", "refused"):  # from 0 on, so that the first one is an increase
            self._reloads.labels(result)

    def begun(self) -> None:
        """A request came."""
        self._in_flight.inc()

    def ended(self, path: str, status: int, key: str, seconds: float) -> None:
        """It was answered; 499 where the client hung up, 0 where the gateway ended before."""
        self._in_flight.dec()
        self._requests.labels(path, str(status), key).inc()
        self._seconds.labels(path).observe(seconds)

    def reloaded(self, result: str) -> None:
        """`ok` or `refused`."""
        self._reloads.labels(result).inc()
        self._is_current.set(result == "ok")
