"""A real client with scripted trouble: calls are counted, and fail as they are told to."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum, auto
from typing import Any

from botocore.exceptions import ClientError, EndpointConnectionError, ReadTimeoutError


class Fault(Enum):
    """What becomes of one call, as the caller sees it after the SDK's own retries."""

    THROTTLED = auto()  # refused, not done
    SERVER_ERROR = auto()  # 500, not done
    SERVER_ERROR_DONE = auto()  # 500, and done all the same
    ANSWER_LOST = auto()  # done, and no answer: a read time-out
    NOT_CONNECTED = auto()  # never sent
    DENIED = auto()  # 400, not done, and never will be
    REPEATED = auto()  # done, answer lost, and done again by the SDK: the second answer is seen
    KILLED_BEFORE = auto()  # the process dies before the call
    KILLED_AFTER = auto()  # the process dies when the call is done


class Killed(BaseException):
    """The process dies here. No Exception: no code of ours may handle it."""


class FaultyClient:
    """Wraps a boto3 client. What is not scripted goes through.

    ``calls`` counts the calls that our code made, by method name;
    ``requests`` keeps them with their arguments.
    """

    def __init__(self, client: Any) -> None:
        self.wrapped = client
        self.calls: Counter[str] = Counter()
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._meanwhile: dict[str, deque[Callable[[], object]]] = defaultdict(deque)

    def fail_next(self, operation: str, *faults: Fault) -> None:
        """Script the next calls of this operation (``update_item``), one fault each."""
        self._faults[operation].extend(faults)

    def before_next(self, operation: str, action: Callable[[], object]) -> None:
        """Have something happen between our decision to call and the call."""
        self._meanwhile[operation].append(action)

    @contextmanager
    def counting(self) -> Iterator[Counter[str]]:
        """The calls made inside the block."""
        before, inside = self.calls.copy(), Counter[str]()
        try:
            yield inside
        finally:
            inside.update(self.calls - before)

    def heal(self) -> None:
        """Forget what was scripted and has not happened yet."""
        self._faults.clear()
        self._meanwhile.clear()

    def __getattr__(self, name: str) -> Any:
        target = getattr(self.wrapped, name)
        if name in ("exceptions", "meta") or not callable(target):
            return target

        def call(**arguments: Any) -> Any:
            return self._call(name, target, arguments)

        return call

    def _call(self, name: str, target: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        self.calls[name] += 1
        self.requests.append((name, arguments))
        if self._meanwhile[name]:
            self._meanwhile[name].popleft()()
        fault = self._faults[name].popleft() if self._faults[name] else None
        match fault:
            case None:
                return target(**arguments)
            case Fault.KILLED_BEFORE:
                raise Killed
            case Fault.NOT_CONNECTED:
                raise EndpointConnectionError(endpoint_url="http://localhost")
            case Fault.THROTTLED:
                raise _error("ThrottlingException", 400, name)
            case Fault.DENIED:
                raise _error("AccessDeniedException", 400, name)
            case Fault.SERVER_ERROR:
                raise _error("InternalServerError", 500, name)
            case _:  # the others are for after the call
                pass
        with suppress(ClientError):  # an answer that says no is lost like any other
            target(**arguments)
        match fault:
            case Fault.KILLED_AFTER:
                raise Killed
            case Fault.SERVER_ERROR_DONE:
                raise _error("InternalServerError", 500, name)
            case Fault.ANSWER_LOST:
                raise ReadTimeoutError(endpoint_url="http://localhost")
            case Fault.REPEATED:
                return target(**arguments)


def _error(code: str, status: int, operation: str) -> ClientError:
    response: Any = {
        "Error": {"Code": code, "Message": "scripted"},
        "ResponseMetadata": {"HTTPStatusCode": status, "RetryAttempts": 3},
    }
    return ClientError(response, operation)
