"""What an exception or a response says about the provider that it came from.

By attributes alone, so that no SDK is imported: httpx, requests, aiohttp, openai and anthropic all carry the HTTP
status as `status_code`, `response.status_code` or `status`, and the headers beside it.
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from redis_router.checks import check_flag, check_number, check_reason
from redis_router.circuit.outcome import ON_THE_WAY, Outcome
from redis_router.errors import InvalidArgument, RouterError
from redis_router.request.retry_after import nothing_left
from redis_router.request.retry_after import retry_after as retry_after
from redis_router.runtime.log import log

MAX_COOLDOWN = 7 * 24 * 3600.0


class Verdict(NamedTuple):
    """What a call says about its provider.

    reason    one word for operators: why it failed
    cooldown  of rate_limited: seconds for which the provider wants no calls; None where it did not say. Of success: the
              same, where this call was the last that fits into its limit
    """

    outcome: Outcome
    reason: str = ""
    cooldown: float | None = None


SUCCESS, IGNORED = Verdict(Outcome.SUCCESS), Verdict(Outcome.IGNORED)
TIMED_OUT, TOO_IMPATIENT = Verdict(Outcome.FAILURE, "timeout"), Verdict(Outcome.IGNORED, "timeout")
"""The latter says nothing about the provider, and still the next one is tried."""
NEARLY = 0.9
"""A share counts as used up from this part of it on: timers fire early."""


class Waited(NamedTuple):
    """How long a call was waited for, in seconds.

    share  of the request's deadline that it had; infinite where nobody gave it one
    usual  what this provider's answers take on average; 0 where that is unknown
    """

    seconds: float
    share: float = math.inf
    usual: float = 0.0

    @property
    def used_its_share(self) -> bool:
        return self.seconds >= NEARLY * self.share

    @property
    def was_fair(self) -> bool:
        """Half of what an answer takes on average, at least."""
        return self.seconds >= 0.5 * self.usual


Classifier = Callable[[object], "Verdict | Outcome | None"]
"""Given an exception or a response; None where `classify` may decide."""

_CREDENTIALS = {401: "unauthorized", 402: "payment_required", 403: "forbidden"}
_IN_BODY = {
    **dict.fromkeys(("rate_limit_error", "rate_limit_exceeded"), Verdict(Outcome.RATE_LIMITED)),
    **dict.fromkeys(("invalid_request_error", "not_found_error", "request_too_large"), IGNORED),
    "authentication_error": Verdict(Outcome.FAILURE, "unauthorized"),
    "permission_error": Verdict(Outcome.FAILURE, "forbidden"),
    "billing_error": Verdict(Outcome.FAILURE, "payment_required"),
    "insufficient_quota": Verdict(Outcome.FAILURE, "payment_required"),
    "overloaded_error": Verdict(Outcome.FAILURE, "overloaded"),
}
"""Words that openai and anthropic put into the body of an error, which a stream sends after its status of 200."""


def classify(said: object) -> Verdict:
    """The verdict on a call that raised, or was answered with, `said`.

    failure       5xx, 408, connection errors, time-outs of the client, any exception that says nothing else;
                  401, 402 and 403, too: a bad key is down until someone acts
    rate_limited  429, with what its headers say of when to come back
    ignored       other 4xx; cancellation; the caller's own deadline (`asyncio.timeout`, `asyncio.wait_for`)
    success       a response below 400, with what its headers say of when the next call fits, where nothing is left

    A group of exceptions, as `asyncio.TaskGroup` raises, is as bad as the worst in it, however deep: a failure is worse
    than a rate limit, and that worse than what is ignored; of several rate limits the longest counts. A cancellation
    among them is what the others brought about, and counts only where there is nothing else.

    An attempt knows how long the call was waited for, too, and may say otherwise of a time-out.
    """
    return _worst([_classify_one(each) for each in _members(said)])


def _classify_one(said: object) -> Verdict:
    error = said if isinstance(said, BaseException) else None
    if error is not None and (not isinstance(error, Exception) or isinstance(error, RouterError)):
        return IGNORED  # a cancellation, or our own word
    status = _status(said)
    if status == 408 and error is not None and _is_named(error, "Timeout") and not _headers(error):
        return TIMED_OUT  # LiteLLM's word for what its client raised: no provider answered
    if status is not None and (status >= 400 or error is None):
        return _by_status(status, said)
    if error is None:
        return SUCCESS
    assert isinstance(error, Exception)
    if "CancelledError" in _names(error):  # of concurrent.futures
        return IGNORED
    for word in _body_words(error):
        if word in _IN_BODY:
            return _IN_BODY[word]
    if isinstance(error, TimeoutError) or _is_named(error, "Timeout"):
        return IGNORED if is_own_deadline(error) else TIMED_OUT
    connection = isinstance(error, OSError) or _is_named(error, "Connect", "Network", "Protocol", "Disconnect")
    return Verdict(Outcome.FAILURE, "connection" if connection else "error")


def _members(said: object) -> Sequence[object]:
    """The exceptions of a group, in their order, without cancellations where there are others; else `said` alone."""
    if not isinstance(said, BaseExceptionGroup):
        return (said,)
    found: list[BaseException] = []
    waiting: list[Iterator[BaseException]] = [iter(said.exceptions)]
    while waiting:  # no recursion: a group may be deep
        for each in waiting[-1]:
            if isinstance(each, BaseExceptionGroup):
                waiting.append(iter(each.exceptions))
                break
            found.append(each)
        else:
            waiting.pop()
    return [each for each in found if isinstance(each, Exception)] or found


def _worst(verdicts: Sequence[Verdict]) -> Verdict:
    for outcome in (Outcome.FAILURE, Outcome.RATE_LIMITED):
        if alike := [verdict for verdict in verdicts if verdict.outcome is outcome]:
            return max(alike, key=lambda verdict: verdict.cooldown or 0.0)  # the first of equals
    return IGNORED if IGNORED in verdicts else verdicts[0]


def _by_status(status: int, said: object) -> Verdict:
    if status == 429:
        return Verdict(Outcome.RATE_LIMITED, cooldown=retry_after(_headers(said)))
    if status in _CREDENTIALS:
        return Verdict(Outcome.FAILURE, _CREDENTIALS[status])
    if status == 400 and "credit balance" in str(said):  # anthropic's word for 402
        return Verdict(Outcome.FAILURE, "payment_required")
    if status >= 500 or status == 408:
        return Verdict(Outcome.FAILURE, f"http_{status}")
    return IGNORED if status >= 400 else Verdict(Outcome.SUCCESS, cooldown=nothing_left(_headers(said)))


class Verdicts:
    """Applies the user's classifier, or ours, and the bounds on cooldowns; never raises.

    Where ours decides, a time-out is the provider's failure if it was ended by the client, or had its share of the
    request's deadline, and was waited for half as long as answers take on average. Else it says nothing about it.

    `cooldown` is in seconds, for a rate limit that does not say how long; `most` is the longest that is believed.
    """

    def __init__(self, classifier: Classifier | None, cooldown: float, most: float) -> None:
        if classifier is not None and not callable(classifier):
            raise InvalidArgument(f"classify is {classifier!r}: give a function of an exception or response")
        self._classifier = classifier
        self._cooldown = check_number("rate_limit_cooldown", cooldown, most=MAX_COOLDOWN)
        self._most = check_number("rate_limit_cooldown_max", most, most=MAX_COOLDOWN)

    def __call__(self, said: object, waited: Waited | None = None) -> Verdict:
        try:
            verdict = self._classifier(said) if self._classifier is not None else None
            if verdict is None:
                verdict = _worst([_classified(each, waited) for each in _members(said)])
            elif isinstance(verdict, Outcome):
                verdict = Verdict(verdict)
            return self._made_usable(verdict)
        except Exception:
            log.exception("the classifier failed on %s: taken for a failure", type(said).__name__)
            return Verdict(Outcome.FAILURE, "error")

    def said(self, success: object, outcome: object, reason: object, cooldown: float | None) -> Verdict:
        """What was reported by hand. Raises InvalidArgument where it does not fit together."""
        if success is True and outcome is None and cooldown is None:
            return SUCCESS
        if (success is None) == (outcome is None):
            raise InvalidArgument(
                f"success is {success!r} and outcome is {outcome!r}: give one of them, and not the other"
            )
        if success is not None:
            outcome = Outcome.SUCCESS if check_flag("success", success) else Outcome.FAILURE
        try:
            found = Outcome(outcome)  # type: ignore[arg-type]
        except ValueError:
            others = ", ".join(each for each in Outcome if each not in ON_THE_WAY)
            raise InvalidArgument(f"unknown outcome {outcome!r}: choose {others}") from None
        if found in ON_THE_WAY:
            raise InvalidArgument(f"outcome is {found.value!r}: an attempt says it, with `first_token()` or by itself")
        if cooldown is not None and found not in (Outcome.RATE_LIMITED, Outcome.SUCCESS):
            raise InvalidArgument(f"cooldown is {cooldown!r} for {found}: it goes with 'rate_limited' or 'success'")
        why = check_reason(reason) if found is Outcome.FAILURE else ""
        return self.bounded(Verdict(found, why, cooldown))

    def _made_usable(self, verdict: Verdict) -> Verdict:
        """A classifier's verdict counts, also where its words do not fit."""
        outcome, reason, cooldown = verdict
        if cooldown is not None:
            cooldown = None if math.isnan(cooldown) else min(max(cooldown, 0.0), self._most)
        return self.bounded(Verdict(outcome, re.sub(r"[^A-Za-z0-9_.-]", "_", reason)[:40], cooldown))

    def bounded(self, verdict: Verdict) -> Verdict:
        """With a reason and a cooldown that can be used. Raises InvalidArgument where they cannot."""
        outcome, wanted = Outcome(verdict.outcome), verdict.cooldown
        if outcome is Outcome.RATE_LIMITED and wanted is None:
            wanted = self._cooldown
        if wanted is None or outcome not in (Outcome.RATE_LIMITED, Outcome.SUCCESS):
            return Verdict(outcome, check_reason(verdict.reason))
        return Verdict(outcome, "", min(check_number("cooldown", wanted, most=math.inf), self._most))


def _classified(said: object, waited: Waited | None) -> Verdict:
    verdict = _classify_one(said)
    if waited is not None and (verdict == TIMED_OUT or is_own_deadline(said)):
        return _on_a_time_out(said, waited)
    return verdict


def _on_a_time_out(error: object, waited: Waited) -> Verdict:
    if is_own_deadline(error) and not waited.used_its_share:
        return IGNORED
    return TIMED_OUT if waited.was_fair or _could_not_connect(error) else TOO_IMPATIENT


def _could_not_connect(error: object) -> bool:
    """A connect takes no longer where answers do. SDKs hide what their HTTP client raised behind one of their own."""
    causes = (error, getattr(error, "__cause__", None))
    return any(
        isinstance(each, BaseException) and _is_named(each, "ConnectTimeout", "ConnectionTimeout") for each in causes
    )


# What an exception or a response looks like


def _attribute(holder: object, name: str) -> Any:
    try:
        return getattr(holder, name, None)
    except Exception:  # httpx raises where an error has no request
        return None


def _status(said: object) -> int | None:
    for holder in (said, _attribute(said, "response")):
        for name in ("status_code", "status", "code"):
            value = _attribute(holder, name)
            if isinstance(value, int) and not isinstance(value, bool) and 100 <= value <= 599:
                return int(value)
    return None


def _headers(said: object) -> dict[str, str]:
    response = _attribute(said, "response")
    for holder, name in ((response, "headers"), (said, "headers"), (said, "litellm_response_headers")):
        headers = _attribute(holder, name)
        try:
            if headers:
                return {str(name).lower(): str(value) for name, value in headers.items()}
        except Exception:  # no headers as anybody knows them
            continue
    return {}


def _names(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _is_named(error: BaseException, *parts: str) -> bool:
    return any(part in name for name in _names(error) for part in parts)


def _body_words(error: Exception) -> list[str]:
    body = _attribute(error, "body")
    inner = body.get("error", body) if isinstance(body, dict) else {}
    said = [inner.get("type"), inner.get("code")] if isinstance(inner, dict) else []
    return [word for word in (*said, _attribute(error, "code"), _attribute(error, "type")) if isinstance(word, str)]


def is_own_deadline(error: object) -> bool:
    """Was it raised by the caller's `asyncio.timeout` or `wait_for`, and not by a client's time-out?"""
    if type(error) is not TimeoutError or error.errno is not None:
        return False
    trace, module = error.__traceback__, ""
    while trace is not None:
        module, trace = trace.tb_frame.f_globals.get("__name__", ""), trace.tb_next
    return module.partition(".")[0] in ("asyncio", "anyio")
