"""The file of `redis-router config`: what `show` prints, `apply` takes as it was."""

from hypothesis import assume, given
from hypothesis import strategies as st

from redis_router import RECOMMENDED, CircuitConfig, InvalidArgument
from redis_router.cli.settings import PRESETS, THRESHOLDS, Settings, differences, read, shown, wanted, written

seconds = st.floats(0.001, 600_000)
seconds_or_off = st.one_of(st.just(0.0), seconds)
rates = st.one_of(st.sampled_from([0, 0.0, 0.1, 0.5, 1, 1.0]), st.floats(0, 1))
counts = st.integers(0, 1_000_000)
values = {
    "failure_rate_threshold": rates,
    "consecutive_failure_limit": st.integers(1, 1_000_000),
    "half_open_success_threshold": st.integers(1, 1_000_000),
    "half_open_max_probes": st.integers(1, 1000),
    "open_timeout": seconds,
    "minimum_calls": counts,
    "window": seconds_or_off,
    "window_failure_rate_threshold": rates,
    "slow_call_duration_threshold": seconds_or_off,
    "slow_call_rate_threshold": rates,
    "open_timeout_multiplier": st.one_of(st.just(0.0), st.floats(1, 100)),
    "open_timeout_max": seconds_or_off,
    "open_timeout_jitter": rates,
    "min_reporters": counts,
    "slow_start": seconds_or_off,
}
weights = st.one_of(st.sampled_from([0, 1.0, 2]), st.floats(1e-6, 1e6))
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,63}", fullmatch=True)


@st.composite
def settings(draw):
    """As a record has them: of any thresholds that go together."""
    base = draw(st.sampled_from([*PRESETS.values()]))
    given_ = {name: draw(values[name]) for name in draw(st.sets(st.sampled_from(THRESHOLDS)))}
    try:
        config = CircuitConfig(**{name: getattr(base, name) for name in THRESHOLDS} | given_)
    except InvalidArgument:
        assume(False)
    return Settings(CircuitConfig.from_fields(config.to_fields()), float(draw(weights)))


def test_every_threshold_is_in_it():
    """A new one is drawn here, too."""
    assert set(values) == set(THRESHOLDS)


@given(fleet=st.dictionaries(names, settings(), min_size=1, max_size=4), other=settings(), whole=st.booleans())
def test_what_is_shown_is_what_is_taken(fleet, other, whole):
    """Whatever the record has by then; and to those that have it, nothing changes."""
    tables, wrong = read(written({name: shown(each, whole=whole) for name, each in fleet.items()}))
    assert wrong == []
    assert tables.keys() == fleet.keys()
    for name, each in fleet.items():
        assert wanted(tables[name], other) == each
        assert differences(name, each, wanted(tables[name], each)) == []


@given(now=settings())
def test_what_a_table_does_not_name_stays(now):
    """With a preset, the other thresholds are the preset's; the weight stays."""
    assert wanted({}, now) == now
    assert wanted({"weight": 3}, now) == Settings(now.config, 3.0)
    assert wanted({"preset": "recommended"}, now) == Settings(RECOMMENDED, now.weight)
