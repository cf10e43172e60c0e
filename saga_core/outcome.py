"""How an attempt ended: done, failed, or in doubt.

A plain exception says *known failed*: the handler knows that nothing happened.
A lost reply says *in doubt*: the effect may stand, so the step is undone too.
Which exceptions are lost replies is decided here, in one place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal, TypeAlias

MAX_WAIT = timedelta(days=366)
MAX_MESSAGE = 200  # bytes kept of an error's message; an item has room for one from each step


class Fatal(Exception):  # noqa: N818 - reads as a verdict in a handler: `raise Fatal(...)`
    """Raise it in a handler: this failed, nothing happened, do not try again."""


class OutcomeUnknown(Exception):  # noqa: N818 - reads as a verdict, as Fatal does
    """Raise it in a handler: the effect may stand and I cannot tell."""


@dataclass(frozen=True, slots=True)
class AwaitAnswer:
    """Return it from a step that has asked somebody: the saga waits for the answer.

    The step is done when ``call.token`` is answered, by HTTP or SQS. What the
    handler wrote into its context is kept. When ``timeout`` passes without an
    answer or a heartbeat, the step is in doubt: tried again while its policy
    allows, then undone.

    Args:
        timeout: From the handler's return, or from the latest heartbeat; up to
            366 days. To the second up to 15 minutes and, with the sweeper
            running, beyond.
        context: The new context, for handlers that return one instead of
            changing theirs.

    Raises:
        ValueError: The time-out is not between 0 and 366 days.
    """

    timeout: timedelta
    context: object = None

    def __post_init__(self) -> None:
        if not timedelta(0) < self.timeout <= MAX_WAIT:
            raise ValueError(f"an answer is awaited for up to {MAX_WAIT.days} days")


@dataclass(frozen=True, slots=True)
class StepError:
    """What is kept of an exception: its kind and the start of its message."""

    kind: str
    message: str

    @classmethod
    def of(cls, error: BaseException) -> StepError:
        """The kept part of an exception."""
        return cls.named(type(error).__name__, str(error))

    @classmethod
    def named(cls, kind: str, message: str) -> StepError:
        """The kept part of a message."""
        # In bytes, and free of lone surrogates, which no store could write.
        text = message.encode("utf-8", "replace")[:MAX_MESSAGE].decode("utf-8", "ignore")
        return cls(kind, text)


@dataclass(frozen=True, slots=True)
class Done:
    """The handler returned. ``context`` is the new context as JSON text."""

    context: str
    kind: Literal["done"] = "done"


@dataclass(frozen=True, slots=True)
class Failed:
    """Known not to have happened. ``fatal``: trying again is pointless."""

    error: StepError
    fatal: bool = False
    kind: Literal["failed"] = "failed"


@dataclass(frozen=True, slots=True)
class InDoubt:
    """May have happened. ``final``: trying again is pointless."""

    error: StepError
    final: bool = False
    kind: Literal["in_doubt"] = "in_doubt"


@dataclass(frozen=True, slots=True)
class Waits:
    """The handler asked somebody else. ``context`` as in Done; ``timeout_ms`` from now."""

    context: str
    timeout_ms: int
    kind: Literal["waits"] = "waits"


Outcome: TypeAlias = Done | Failed | InDoubt | Waits
Exceptions: TypeAlias = tuple[type[Exception], ...]

# Replies that were lost after a request had left, by qualified name, so that no
# client library is imported for it. TimeoutError and ConnectionError are builtins
# and cover socket, http.client, asyncio and most of aiohttp.
LOST_REPLIES = frozenset(
    {
        "aiohttp.client_exceptions.ClientOSError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "aiohttp.client_exceptions.ServerDisconnectedError",
        "botocore.exceptions.ConnectionClosedError",
        "botocore.exceptions.ReadTimeoutError",
        "botocore.exceptions.ResponseStreamingError",
        "http.client.IncompleteRead",
        "httpx.ReadError",
        "httpx.ReadTimeout",
        "httpx.RemoteProtocolError",
        "httpx.WriteError",
        "httpx.WriteTimeout",
        "requests.exceptions.ChunkedEncodingError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.ReadTimeout",
        "urllib3.exceptions.ProtocolError",
        "urllib3.exceptions.ReadTimeoutError",
    }
)


def classify(
    error: Exception, *, fatal_on: Exceptions, in_doubt_on: Exceptions
) -> Failed | InDoubt:
    """Say what an exception means for the step's effect.

    Doubt wins over certainty: an exception that is both fatal and in doubt is
    in doubt and not tried again. A lost reply stays one when the handler wraps
    it in an error of its own (``raise PaymentError from timeout``), because the
    wrapping does not make the effect go away; ``raise ... from None`` says that
    it does.
    """
    fatal = isinstance(error, (Fatal, *fatal_on))
    if isinstance(error, (OutcomeUnknown, *in_doubt_on)):
        return InDoubt(StepError.of(error), final=fatal)
    if not fatal and any(_is_lost_reply(link) for link in _chain(error)):
        return InDoubt(StepError.of(error))
    return Failed(StepError.of(error), fatal=fatal)


def _is_lost_reply(error: BaseException) -> bool:
    if isinstance(error, (OutcomeUnknown, TimeoutError, ConnectionError)):
        return True
    return any(
        f"{cls.__module__}.{cls.__qualname__}" in LOST_REPLIES for cls in type(error).__mro__
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception, what it was raised from, and the members of groups."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        link = todo.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        if isinstance(link, BaseExceptionGroup):
            todo.extend(link.exceptions)
        if link.__cause__ is not None:
            todo.append(link.__cause__)
        elif link.__context__ is not None and not link.__suppress_context__:
            todo.append(link.__context__)
