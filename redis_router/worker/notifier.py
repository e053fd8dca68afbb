"""Tells the webhook what happened: the providers' logs are its queue, and Redis remembers how far they were told.

It has a thread of its own and waits for nobody else, nor does anybody wait for it. While this worker leads, it reads
what came into the logs since the last entry that was told, sends it as one message, and notes in Redis how far that
was. So a leader that dies between a transition and its message leaves both to its successor; one that dies between
the message and its note leaves a message that is sent twice, whose changes have the ids they had.
"""

from collections.abc import Mapping

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential, wait_random

from redis_router.errors import RouterError
from redis_router.runtime.alarm import Alarm, Flag
from redis_router.runtime.background import Background
from redis_router.runtime.log import log
from redis_router.store.backoff import backoff
from redis_router.store.contract import Store
from redis_router.telemetry.metrics import Metrics
from redis_router.worker.delivery import Delivery, NotTaken, TryAgain
from redis_router.worker.election import Election
from redis_router.worker.notices import Message, changes_of, compose
from redis_router.worker.webhook import Webhook

TOGETHER_SECONDS = 1.0
"""What happens within this time is one message: fifty providers that open at once are one page."""
BETWEEN_SECONDS = 2.0
"""After a message, before the next one is begun: nobody reads more, and receivers limit their rate."""
LOOK_SECONDS = 30.0
"""So often the logs are read where nothing was heard: a push may be lost."""
SAME_SECONDS = 300.0
"""So long the same message is tried again; then what happened meanwhile joins it."""
_FROM = "*"
"""As a name: where the logs begin of which nothing was told yet. No provider can have it."""
_WAITS = wait_exponential(multiplier=0.5, max=60.0) + wait_random(0.0, 1.0)


class Over(Exception):
    """This worker ends, or leads no more: the successor tells it."""


class Notifier:
    """`news` rings where something happened. Raises InvalidArgument where httpx is missing."""

    def __init__(self, webhook: Webhook, store: Store, election: Election, metrics: Metrics, news: Alarm) -> None:
        self._delivery = Delivery(webhook)
        self._host = webhook.host
        self._store = store
        self._election = election
        self._metrics = metrics
        self._news = news
        self._stop = Flag()
        self._gone = False
        self._thread = Background("webhook", self._turn, metrics)
        self._term = -1
        self._told: dict[str, str] = {}
        """The last entry of each provider's log that was told, or is nothing to tell."""
        self._failures = 0
        self._trouble = ""
        metrics.has_webhook()

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def ask_to_stop(self) -> None:
        """Begin to end, without waiting for it."""
        self._stop.set()
        self._news.ring()

    def stop(self, timeout: float) -> None:
        """End; within about so many seconds. A message on its way then is the successor's, too."""
        self.ask_to_stop()
        self._thread.join(timeout)
        self._gone = True
        if self._thread.ident is None:
            self._delivery.close()

    def tell_once(self) -> None:
        """What is to be told, without a thread and by one try. Raises RedisUnavailable or RedisRefused."""
        message, ends = self._next()
        if message is not None and self._deliver(message, tries=1):
            self._note(ends)

    # The thread

    def _turn(self) -> bool:
        if self._stop.is_set():
            self._delivery.close()
            return False
        if not self._election.is_leader:
            self._news.wait(LOOK_SECONDS)
            return True
        try:
            self._tell()
        except RouterError as error:
            self._failures += 1
            self._in_trouble(f"Redis: {error}")
            self._stop.wait(backoff(self._failures))
            return True
        self._failures = 0
        self._news.wait(LOOK_SECONDS)
        self._stop.wait(TOGETHER_SECONDS)
        return True

    def _tell(self) -> None:
        message, ends = self._next()
        if message is None:
            if self._trouble.startswith("Redis: "):
                self._is_well()
            return
        if self._deliver(message) and not self._gone:
            self._note(ends)
            self._stop.wait(BETWEEN_SECONDS)
        else:
            self._news.ring()

    # Reading

    def _next(self) -> tuple[Message | None, dict[str, str]]:
        """What is to be told now, and the entries by which it ends; what is nothing to tell is passed over."""
        self._begin_term()
        begin = self._told[_FROM]
        names = self._store.specs()  # those that were deregistered, too
        self._told = {_FROM: begin} | {name: self._told.get(name, begin) for name in names}
        news = self._store.news({name: self._told[name] for name in names})
        ends = {name: events[-1].id for name, events in news.items()}
        records = self._store.snapshot(news).records if news else {}  # after the logs: what these say is in them
        space = self._store.keys.namespace
        changes = [
            change for name, events in news.items() for change in changes_of(space, name, events, records.get(name))
        ]
        if not changes:
            self._told |= ends
            return None, {}
        return compose(space, self._store.writer, changes), ends

    def _begin_term(self) -> None:
        """Where the leader before this one ended; the first one of all begins now."""
        epoch = self._election.epoch
        if epoch == self._term:
            return
        told = self._store.told()
        if _FROM not in told:
            now_ms, _ = self._store.leader()
            told[_FROM] = f"{now_ms - 1}-0"
            self._store.note_told(epoch, {_FROM: told[_FROM]})
        self._told, self._term = told, epoch

    def _note(self, ends: Mapping[str, str]) -> None:
        self._told |= ends
        self._store.note_told(self._term, ends)

    # Sending

    def _deliver(self, message: Message, tries: int | None = None) -> bool:
        """Is it done with: taken, or refused for good?"""
        give_up = stop_after_delay(SAME_SECONDS)
        attempts = Retrying(
            stop=lambda state: give_up(state) or state.attempt_number == tries,
            wait=_wait,
            sleep=self._sleep,
            retry=retry_if_exception_type(TryAgain),
            reraise=True,
        )
        try:
            attempts(self._post, message)
        except (TryAgain, Over):
            return False
        except NotTaken as error:
            self._metrics.webhook("refused")
            self._metrics.webhook_dropped("refused", len(message.changes) + message.left_out)
            self._in_trouble(f"it refuses messages, which are not sent again: {error}")
            return True
        self._metrics.webhook("delivered")
        self._metrics.webhook_dropped("backlog", message.left_out)
        self._is_well()
        return True

    def _post(self, message: Message) -> None:
        if self._stop.is_set() or not self._election.is_leader or self._election.epoch != self._term:
            raise Over
        try:
            self._delivery.post(message)
        except TryAgain as error:
            self._metrics.webhook("failed")
            self._in_trouble(f"it does not take messages, trying on: {error}")
            raise

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Over

    # The log: once for each trouble, whatever comes of it

    def _in_trouble(self, why: str) -> None:
        kind = why.partition(":")[0] + ":"
        if self._trouble != kind:
            self._trouble = kind
            log.warning("the webhook at %s is not told what happens; %s", self._host, why)

    def _is_well(self) -> None:
        if self._trouble:
            log.info("the webhook at %s is told again what happens", self._host)
        self._trouble = ""


def _wait(state: RetryCallState) -> float:
    """Jittered, and no shorter than the receiver asks for."""
    error = state.outcome.exception() if state.outcome is not None else None
    return max(_WAITS(state), error.after if isinstance(error, TryAgain) else 0.0)
