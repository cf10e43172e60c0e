"""A proxy that makes trouble between our clients and a table engine."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from tests.engines.engine import Started, Tools, free_port, process


class Trouble(Enum):
    """What becomes of one request on the wire; the client tries again by itself."""

    THROTTLED = auto()
    RESET = auto()  # before it is passed on
    ANSWER_LOST = auto()  # done, and then the connection breaks


_MADE: dict[Trouble, dict[str, object]] = {
    Trouble.THROTTLED: {"error": {"code": "ProvisionedThroughputExceededException", "status": 400}},
    Trouble.RESET: {"reset": True},
    Trouble.ANSWER_LOST: {"response": {"abort_bytes": 0}},
}


class Write(Enum):
    """Our writes, told apart by what only they ask for."""

    START = ("PutItem", "contains(ConditionExpression, 'attribute_not_exists(#pk)')")
    CLAIM = ("UpdateItem", "contains(ConditionExpression, '#due_at <= :soon')")
    COMMIT = ("UpdateItem", "contains(ConditionExpression, '#lease_id = :claim')")


@dataclass(frozen=True, slots=True)
class Proxy:
    """The proxy's rules, and what they did."""

    url: str

    def make(self, trouble: Trouble, write: Write, *, times: int) -> None:
        """Have the next requests of this kind meet trouble."""
        operation, body = write.value
        rule = {"service": "dynamodb", "operation": operation, "body": body, "times": times}
        self._ask("POST", "rules", [{**rule, **_MADE[trouble]}])

    def heal(self) -> None:
        """No trouble any more, and nothing remembered of it."""
        self._ask("POST", "rules", [])
        self._ask("DELETE", "fired")

    def fired(self) -> list[str]:
        """The operations that met trouble, in order."""
        return [str(event["operation"]) for event in self._ask("GET", "fired")]

    def _ask(self, method: str, what: str, body: object = None) -> Any:
        request = urllib.request.Request(
            f"{self.url}/_microburst/{what}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None


@contextmanager
def proxied(engine: Started, tools: Tools, folder: Path) -> Iterator[Proxy]:
    """A proxy in front of an engine, until the block ends."""
    port = free_port()
    command = tools.command("microburst", port, folder)
    command += ["--upstream", engine.url, "--no-resign"]
    with process("microburst", command, port, folder) as started:
        yield Proxy(started.url)
    assert not started.left_behind
