"""What exceptions and responses mean, and when a provider may be called again."""

import asyncio
import socket
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http import HTTPStatus
from types import SimpleNamespace
from unittest.mock import Mock

import pytest

from redis_router import InvalidArgument, NoProviderAvailable, Outcome, RouterError, Verdict, classify
from redis_router.request.classify import IGNORED, Verdicts, Waited
from redis_router.request.retry_after import nothing_left, retry_after

NOW = 1_795_000_000.0


class Raised(Exception):
    """An exception with these attributes."""

    def __init__(self, **attributes):
        super().__init__("raised")
        vars(self).update(attributes)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Verdict(Outcome.SUCCESS)),
        (302, Verdict(Outcome.SUCCESS)),
        (400, Verdict(Outcome.IGNORED)),
        (401, Verdict(Outcome.FAILURE, "unauthorized")),
        (402, Verdict(Outcome.FAILURE, "payment_required")),
        (403, Verdict(Outcome.FAILURE, "forbidden")),
        (404, Verdict(Outcome.IGNORED)),
        (408, Verdict(Outcome.FAILURE, "http_408")),
        (409, Verdict(Outcome.IGNORED)),
        (422, Verdict(Outcome.IGNORED)),
        (429, Verdict(Outcome.RATE_LIMITED)),
        (500, Verdict(Outcome.FAILURE, "http_500")),
        (529, Verdict(Outcome.FAILURE, "http_529")),
        (HTTPStatus.BAD_GATEWAY, Verdict(Outcome.FAILURE, "http_502")),
    ],
)
@pytest.mark.parametrize("name", ["status_code", "status"])
def test_by_status(status, expected, name):
    """Of a response; and of an exception that has it, or whose response has it, even one that counts as false."""

    class Response(SimpleNamespace):
        def __bool__(self):  # as requests has it for errors
            return status < 400

    response = Response(**{name: status}, headers={})
    assert classify(response) == expected
    if status >= 400:
        assert classify(Raised(**{name: status})) == expected
        assert classify(Raised(response=response)) == expected


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError(), Verdict(Outcome.FAILURE, "connection")),
        (socket.gaierror("no such host"), Verdict(Outcome.FAILURE, "connection")),
        (TimeoutError("timed out"), Verdict(Outcome.FAILURE, "timeout")),
        (ValueError("no JSON"), Verdict(Outcome.FAILURE, "error")),
        (KeyboardInterrupt(), Verdict(Outcome.IGNORED)),
        (asyncio.CancelledError(), Verdict(Outcome.IGNORED)),
        (Raised(status_code=200, body={"type": "error", "error": {"type": "overloaded_error"}}),
         Verdict(Outcome.FAILURE, "overloaded")),
        (Raised(status_code=200, body={"error": {"type": "rate_limit_error"}}), Verdict(Outcome.RATE_LIMITED)),
        (Raised(body={"code": "rate_limit_exceeded"}), Verdict(Outcome.RATE_LIMITED)),
        (Raised(body={"type": "invalid_request_error"}), Verdict(Outcome.IGNORED)),
        (Raised(code="insufficient_quota"), Verdict(Outcome.FAILURE, "payment_required")),
        (Raised(status_code=200), Verdict(Outcome.FAILURE, "error")),
        (Raised(status_code=True, status="down", code=7), Verdict(Outcome.FAILURE, "error")),
    ],
)  # fmt: skip
def test_by_kind(error, expected):
    """Where there is no status, or one from before the answer went wrong."""
    assert classify(error) == expected


def test_credit_that_is_used_up_is_no_bad_request():
    """It is answered with 400, and down until someone pays."""
    error = Raised(status_code=400)
    error.args = ("Your credit balance is too low to access the API",)
    assert classify(error) == Verdict(Outcome.FAILURE, "payment_required")


def test_attributes_that_cannot_be_read_are_passed_over():
    """httpx raises RuntimeError where an error has no request."""

    class Shy(Exception):
        @property
        def response(self):
            raise RuntimeError("not set")

    assert classify(Shy()) == Verdict(Outcome.FAILURE, "error")


def raised_by(work):
    """What it raises."""
    try:
        asyncio.run(work())
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


async def by_timeout():
    async with asyncio.timeout(0.001):
        await asyncio.sleep(9)


async def by_wait_for():
    await asyncio.wait_for(asyncio.sleep(9), 0.001)


@pytest.mark.parametrize("work", [by_timeout, by_wait_for])
def test_the_callers_own_deadline_is_nobodys_fault(work):
    """A short one benches no provider that others can use."""
    assert classify(raised_by(work)) == Verdict(Outcome.IGNORED)


def test_a_sockets_time_out_is_the_providers():
    """Nothing to do with asyncio's."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        client.settimeout(0.01)
        with pytest.raises(TimeoutError) as caught:
            client.recv(1)
    assert classify(caught.value) == Verdict(Outcome.FAILURE, "timeout")


def http_date(seconds):
    return format_datetime(datetime.fromtimestamp(NOW, UTC) + timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        ({"retry-after": "20"}, 20),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": http_date(30)}, 30),
        ({"retry-after": http_date(30), "date": http_date(10)}, 20),  # by the provider's own clock
        ({"retry-after": http_date(-30)}, 0),
        ({"retry-after-ms": "1500", "retry-after": "2"}, 1.5),
        ({"retry-after-ms": "nan", "retry-after": "2"}, 2),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-reset-requests": "20ms", "x-ratelimit-reset-tokens": "1h2m3.5s"}, 0.02),
        (
            {
                "x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "7",
                "x-ratelimit-reset-tokens": "40s", "x-ratelimit-remaining-tokens": "0",
            },
            40,
        ),
        ({"x-ratelimit-reset": str(int(NOW) + 50)}, 50),
        ({"x-ratelimit-reset": "12"}, 12),
        ({"x-ratelimit-reset": str(int(NOW * 1000) + 9_000)}, 9),
        ({"x-ratelimit-reset": "9" * 400 + "s"}, None),
        ({"retry-after": http_date(30).replace("GMT", "-0000")}, 30),
        ({"anthropic-ratelimit-tokens-reset": datetime.fromtimestamp(NOW + 15, UTC).isoformat()}, 15),
        ({"anthropic-ratelimit-tokens-reset": datetime.fromtimestamp(NOW + 15, UTC).isoformat()[:19] + "Z"}, 15),
        ({"x-ratelimit-reset-tokens": "whenever"}, None),
        ({"x-ratelimit-reset-tokens": ""}, None),
    ],
)  # fmt: skip
def test_when_to_come_back(headers, expected):
    """In seconds, from whatever the provider says."""
    assert retry_after(headers, NOW) == (None if expected is None else pytest.approx(expected, abs=0.01))


def left(remaining, limit="60", reset="60s", of="requests"):
    """What openai says of one limit."""
    said = {"remaining": remaining, "limit": limit, "reset": reset}
    return {f"x-ratelimit-{what}-{of}": value for what, value in said.items() if value is not None}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, None),
        (left("3"), None),
        (left("0"), 1.0),
        (left("0", "1", "8s"), 8.0),
        (left("0") | left("0", "90000", "40s", of="tokens"), 1.0),
        (left("9") | left("0", "90000", "40s", of="tokens"), 0.4),
        (left("0", "-1"), None),  # Azure's word for no limit
        (left("-1", "60"), None),
        (left("0", "0"), None),
        (left("0", None), None),
        (left("0", reset=None), None),
        (left("0", reset="0s"), None),
        (left("0", reset="whenever"), None),
        (left("nan"), None),
        (left("0", "inf"), None),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-reset": datetime.fromtimestamp(NOW + 60, UTC).isoformat(),
            },
            1.2,
        ),
        (
            {
                "anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-reset": datetime.fromtimestamp(NOW - 60, UTC).isoformat(),
            },
            None,
        ),
    ],
)  # fmt: skip
def test_when_the_next_call_fits(headers, expected):
    """After an answer that was the last to fit, as limits fill up steadily."""
    assert nothing_left(headers, NOW) == (None if expected is None else pytest.approx(expected, abs=0.001))


def test_the_moment_of_a_reset_is_by_the_providers_own_clock():
    """Ours may be an hour off."""
    reset = datetime.fromtimestamp(NOW + 60, UTC).isoformat()
    said = {"remaining": "0", "limit": "1", "reset": reset}
    headers = {f"anthropic-ratelimit-requests-{what}": text for what, text in said.items()}
    assert nothing_left(headers | {"date": http_date(0)}) == pytest.approx(60, abs=1)


def test_an_answer_that_was_the_last_to_fit_is_a_success_with_a_cooldown():
    """Bounded as that of a rate limit; without such headers there is none."""
    last = SimpleNamespace(status_code=200, headers=left("0", "1", "8s"))
    assert classify(last) == Verdict(Outcome.SUCCESS, cooldown=8.0)
    verdicts = Verdicts(None, cooldown=5.0, most=3.0)
    assert verdicts(last) == Verdict(Outcome.SUCCESS, cooldown=3.0)
    assert verdicts(SimpleNamespace(status_code=200, headers=left("7"))) == Verdict(Outcome.SUCCESS)


def test_headers_are_found_beside_the_status():
    """However they are spelled."""
    response = SimpleNamespace(status_code=429, headers={"Retry-After": "7"})
    assert classify(Raised(response=response)) == classify(response) == Verdict(Outcome.RATE_LIMITED, cooldown=7.0)
    assert classify(Raised(status_code=429, headers={"RETRY-AFTER-MS": "250"})).cooldown == 0.25


def test_a_judge_keeps_its_bounds():
    """Not for ever, and never less than nothing."""
    verdicts = Verdicts(None, cooldown=5.0, most=300.0)
    limited = [Raised(status_code=429, headers=h) for h in ({}, {"retry-after": "1e9"}, {"retry-after": "0"})]
    assert [verdicts(each).cooldown for each in limited] == [5.0, 300.0, 0.0]


@pytest.mark.parametrize("said", ["no verdict", Verdict("sideways"), Verdict(Outcome.FAILURE, None), 7])
def test_a_classifier_that_talks_nonsense_counts_as_a_failure(said, caplog):
    """The call's own error is what matters, so it is logged and not raised."""
    verdicts = Verdicts(lambda error: said, 5.0, 300.0)
    assert verdicts(ValueError()) == Verdict(Outcome.FAILURE, "error")
    assert "classifier failed on ValueError" in caplog.text


@pytest.mark.parametrize(
    ("said", "made"),
    [
        (Verdict(Outcome.IGNORED, "bad request!"), Verdict(Outcome.IGNORED, "bad_request_")),
        (Verdict(Outcome.FAILURE, "x" * 99), Verdict(Outcome.FAILURE, "x" * 40)),
        (Verdict(Outcome.RATE_LIMITED, cooldown=-0.1), Verdict(Outcome.RATE_LIMITED, cooldown=0.0)),
        (Verdict(Outcome.RATE_LIMITED, cooldown=float("inf")), Verdict(Outcome.RATE_LIMITED, cooldown=300.0)),
        (Verdict(Outcome.RATE_LIMITED, cooldown=float("nan")), Verdict(Outcome.RATE_LIMITED, cooldown=5.0)),
        (Outcome.SUCCESS, Verdict(Outcome.SUCCESS)),
    ],
)
def test_a_classifiers_outcome_counts_whatever_its_words(said, made):
    """A reason that does not fit must not turn a bad request into an outage."""
    assert Verdicts(lambda error: said, 5.0, 300.0)(ValueError()) == made


def test_what_we_raise_is_no_failure():
    """A router that is asked inside an attempt has no provider for another model."""
    assert classify(NoProviderAvailable("m", {})) == classify(RouterError()) == Verdict(Outcome.IGNORED)
    assert classify(SystemExit(429)) == Verdict(Outcome.IGNORED)


def test_a_mock_is_understood():
    """Users test their gateways with them."""
    assert classify(Mock(status_code=429)).outcome is Outcome.RATE_LIMITED
    assert classify(Mock(spec=["status_code"], status_code=200)).outcome is Outcome.SUCCESS


@pytest.mark.parametrize("options", [("word", 5.0, 300.0), (None, -1.0, 300.0), (None, 5.0, float("inf"))])
def test_bad_settings_are_refused(options):
    """Before anything runs."""
    with pytest.raises(InvalidArgument):
        Verdicts(*options)


class ConnectTimeout(Exception):
    """As httpx has it."""


class APITimeoutError(Exception):
    """As openai has it."""


def behind(error, cause):
    error.__cause__ = cause
    return error


async def own_deadline():
    """What `asyncio.timeout` raises."""
    try:
        async with asyncio.timeout(0):
            await asyncio.sleep(1)
    except TimeoutError as error:
        return error


OWN = asyncio.run(own_deadline())
COUNTED, NOT_COUNTED = Verdict(Outcome.FAILURE, "timeout"), Verdict(Outcome.IGNORED, "timeout")


@pytest.mark.parametrize(
    ("error", "waited", "expected"),
    [
        (APITimeoutError(), Waited(1.0), COUNTED),  # nothing is known of the provider
        (APITimeoutError(), Waited(1.0, usual=1.9), COUNTED),
        (APITimeoutError(), Waited(1.0, usual=2.1), NOT_COUNTED),
        (APITimeoutError(), Waited(1.0, share=30.0, usual=1.0), COUNTED),
        (ConnectTimeout(), Waited(0.1, usual=9.0), COUNTED),
        (behind(APITimeoutError(), ConnectTimeout()), Waited(0.1, usual=9.0), COUNTED),
        (OWN, Waited(1.0), IGNORED),
        (OWN, Waited(1.0, share=1.2), IGNORED),
        (OWN, Waited(1.0, share=1.0), COUNTED),
        (OWN, Waited(1.0, share=1.0, usual=2.1), NOT_COUNTED),
        (Raised(status_code=400), Waited(9.0, share=1.0), IGNORED),
        (Raised(status_code=408), Waited(0.1, usual=9.0), Verdict(Outcome.FAILURE, "http_408")),
    ],
)
def test_what_a_time_out_says(error, waited, expected):
    """By who ended the call, what it was given, and what answers take."""
    assert Verdicts(None, 5.0, 300.0)(error, waited) == expected


def test_a_classifier_of_ones_own_has_the_last_word_on_time_outs():
    """Whatever was waited for."""
    verdicts = Verdicts(lambda said: Outcome.SUCCESS, 5.0, 300.0)
    assert verdicts(APITimeoutError(), Waited(1.0, share=1.0)).outcome is Outcome.SUCCESS


def limited(**headers):
    return Raised(status_code=429, headers=headers)


def group(*errors):
    return BaseExceptionGroup("of a TaskGroup", errors)


BAD_REQUEST, DOWN = Raised(status_code=400), Raised(status_code=503)
CANCELLED = asyncio.CancelledError()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (group(limited()), Verdict(Outcome.RATE_LIMITED)),
        (group(group(group(limited(**{"retry-after": "7"})))), Verdict(Outcome.RATE_LIMITED, cooldown=7.0)),
        (group(limited(**{"retry-after": "7"}), limited(), limited(**{"retry-after": "9"})),
         Verdict(Outcome.RATE_LIMITED, cooldown=9.0)),
        (group(BAD_REQUEST, group(BAD_REQUEST)), IGNORED),
        (group(DOWN, ConnectionResetError()), Verdict(Outcome.FAILURE, "http_503")),
        (group(BAD_REQUEST, limited(), group(DOWN)), Verdict(Outcome.FAILURE, "http_503")),
        (group(BAD_REQUEST, limited()), Verdict(Outcome.RATE_LIMITED)),
        (group(NoProviderAvailable("m", {}), RouterError()), IGNORED),
        (group(TimeoutError("late")), Verdict(Outcome.FAILURE, "timeout")),
        (group(CANCELLED), IGNORED),
        (group(CANCELLED, group(KeyboardInterrupt())), IGNORED),
        (group(CANCELLED, ConnectionResetError()), Verdict(Outcome.FAILURE, "connection")),
        (group(CANCELLED, group(CANCELLED, limited())), Verdict(Outcome.RATE_LIMITED)),
    ],
)  # fmt: skip
def test_a_group_is_as_bad_as_its_worst(error, expected):
    """However deep; a cancellation in it is what the others brought about."""
    assert classify(error) == expected


def test_what_a_task_group_raises():
    """As `asyncio.TaskGroup` wraps it, while a sibling waits."""

    async def work():
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(asyncio.sleep(9))
            tasks.create_task(limited_call())

    async def limited_call():
        raise limited(**{"retry-after": "7"})

    assert classify(raised_by(work)) == Verdict(Outcome.RATE_LIMITED, cooldown=7.0)


@pytest.mark.parametrize(
    ("error", "waited", "expected"),
    [
        (group(APITimeoutError()), Waited(1.0, usual=1.9), COUNTED),
        (group(APITimeoutError()), Waited(1.0, usual=2.1), NOT_COUNTED),
        (group(CANCELLED, group(APITimeoutError())), Waited(1.0, usual=2.1), NOT_COUNTED),
        (group(ConnectTimeout()), Waited(0.1, usual=9.0), COUNTED),
        (group(OWN), Waited(1.0, share=1.2), IGNORED),
        (group(OWN), Waited(1.0, share=1.0), COUNTED),
        (group(OWN, DOWN), Waited(1.0, share=1.2), Verdict(Outcome.FAILURE, "http_503")),
        (group(APITimeoutError(), DOWN), Waited(1.0, usual=2.1), Verdict(Outcome.FAILURE, "http_503")),
        (group(APITimeoutError(), BAD_REQUEST), Waited(1.0, usual=2.1), IGNORED),
    ],
)
def test_what_a_time_out_in_a_group_says(error, waited, expected):
    """The same as one alone, before the worst is looked for."""
    assert Verdicts(None, 5.0, 300.0)(error, waited) == expected


def test_a_classifier_of_ones_own_sees_the_group():
    """And may leave it to ours."""
    seen = []
    assert Verdicts(seen.append, 5.0, 300.0)(group(limited())).outcome is Outcome.RATE_LIMITED
    assert isinstance(seen[0], BaseExceptionGroup)


def test_a_group_that_is_very_deep():
    """Nobody's stack ends here."""
    error = DOWN
    for _ in range(5000):
        error = ExceptionGroup("deeper", [error])
    assert classify(error) == Verdict(Outcome.FAILURE, "http_503")


def test_errors_of_litellm():
    """It keeps the provider's headers beside an empty response, and calls its client's time-out 408."""

    class Timeout(Raised):
        """Its name for both: nobody answered, or somebody answered with 408."""

    limited = Raised(
        status_code=429, response=SimpleNamespace(headers={}), litellm_response_headers={"retry-after": "7"}
    )
    assert classify(limited) == Verdict(Outcome.RATE_LIMITED, cooldown=7.0)
    assert classify(Timeout(status_code=408, litellm_response_headers=None)) == Verdict(Outcome.FAILURE, "timeout")
    answered = Timeout(status_code=408, litellm_response_headers={"server": "theirs"})
    assert classify(answered) == Verdict(Outcome.FAILURE, "http_408")
