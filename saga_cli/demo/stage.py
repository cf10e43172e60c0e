"""Where a scenario plays: it asks, runs the stack, and checks; the narrator tells."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from saga_cli.demo.narrator import Narrator, Tone
from saga_cli.local.pump import Invocation
from saga_cli.local.stack import HttpAnswer, LocalStack
from saga_core.identity import saga_id_for
from saga_core.instance import SagaInstance

_LIMIT = 2_000  # invocations and leaps; a scenario needs a hundred


@dataclass(frozen=True, slots=True)
class Check:
    """Something that must be so, and whether it is."""

    what: str
    passed: bool


@dataclass(slots=True)
class Stage:
    """One scenario's stage.

    Args:
        name: Makes the idempotency keys, so that every run starts the same sagas.
        watcher: Told after everything that happens, with the saga's id if there is one.
    """

    name: str
    stack: LocalStack
    narrator: Narrator
    watcher: Callable[[str | None], None]
    checks: list[Check] = field(default_factory=list)
    invoked: list[str] = field(default_factory=list)
    saga_id: str | None = None

    def say(self, text: str, *, detail: str = "") -> None:
        """Something about the services that nobody else would tell."""
        self.narrator.say("services", text, detail=detail)

    def start(self, saga: str, context: dict[str, object]) -> str:
        """Start a saga over the HTTP API."""
        answer = self.request("POST", f"/sagas/{saga}", context, key=self._key)
        self.saga_id = str(answer.body["id"])
        self.watcher(self.saga_id)
        return self.saga_id

    def start_by_queue(self, saga: str, context: dict[str, object]) -> str:
        """Start a saga by a message on the start queue."""
        self.stack.send(
            "StartQueue", {"saga": saga, "context": context, "idempotency_key": self._key}
        )
        self.narrator.say("you", f"start queue: {saga} {_brief(context)}")
        self.saga_id = saga_id_for("default", self._key)
        return self.saga_id

    def request(
        self, method: str, path: str, body: object = None, *, key: str | None = None
    ) -> HttpAnswer:
        """Send a request and tell its answer."""
        self.narrator.say("you", f"{method} {path} {_brief(body)}".rstrip())
        answer = self.stack.http(method, path, body, key=key)
        self.narrator.skip()
        good = answer.status < 400  # noqa: PLR2004 - an HTTP status
        told = (
            f"{answer.status}, saga {answer.body['id']} is {answer.body['state']}"
            if good
            else answer.body
        )
        self.narrator.say("api", str(told), tone=Tone.PLAIN if good else Tone.BAD)
        return answer

    def get(self, saga_id: str) -> dict[str, Any]:
        """Look at a saga over the HTTP API, and tell what a person has to do about it."""
        body: dict[str, Any] = self.request("GET", f"/sagas/{saga_id}").body
        failure = body["failure"]
        if failure is not None:
            self.narrator.say("api", f"standing: {', '.join(failure['standing'])}", tone=Tone.BAD)
            self.narrator.say("api", f"to do: {failure['to_do']}", tone=Tone.ODD)
        return body

    def saga(self, saga_id: str) -> SagaInstance:
        """The saga as it is stored."""
        return self.stack.saga(saga_id)

    def deploy(self, definitions: str, text: str) -> None:
        """Replace the code of the functions."""
        self.stack.deploy(definitions)
        self.narrator.say("deploy", text)

    def run(self) -> None:
        """Let everything happen that happens by itself."""
        self.run_until(lambda: False)

    def run_until(self, reached: Callable[[], bool]) -> None:
        """The same, until something is so."""
        for _ in range(_LIMIT):
            invocation = self.stack.step()
            if invocation is not None:
                self._saw(invocation)
                if reached():
                    return
            elif self.stack.quiet():
                return
            else:
                self.stack.leap()
        raise TimeoutError(f"{self.name}: no end after {_LIMIT} moves")

    def check(self, what: str, passed: bool) -> None:  # noqa: FBT001 - check("so", it is so) reads
        """Note whether something is as it must be."""
        self.checks.append(Check(what, passed))

    @property
    def _key(self) -> str:
        return f"demo-{self.name}"

    def _saw(self, invocation: Invocation) -> None:
        self.invoked.append(invocation.function)
        self.narrator.watch(invocation)
        self.watcher(self.saga_id)


def _brief(body: object) -> str:
    """A body on one line, a card by its last digits."""
    if not isinstance(body, dict):
        return ""
    shown = {k: f"…{v[-4:]}" if k == "card" else v for k, v in body.items()}
    return json.dumps(shown, ensure_ascii=False)
