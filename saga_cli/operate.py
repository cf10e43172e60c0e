"""The operator's commands: the same turns as the HTTP API makes, from a terminal."""

from __future__ import annotations

import argparse
import getpass
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from handlers._answering import AnswerRefusedError, AnswerRequest, take
from handlers._application import Application
from handlers._driver import Driver
from handlers._starting import StartRefusedError, StartRequest, begin
from handlers._view import WHY_NOT, summary, view
from saga_cli.connect import connect
from saga_cli.problems import CommandError, Exit
from saga_cli.show import show_list, show_saga
from saga_core.errors import StoreError
from saga_core.events import CancelRequested, Request, ResumeRequested, SkipRequested
from saga_core.identity import SAGA_ID
from saga_core.instance import Key, SagaInstance, SagaState
from saga_core.ports import Page
from saga_core.strict_json import strict_json
from saga_core.transition import Reason
from saga_core.turn import Answer, Answered, Starting, request

T = TypeVar("T")

PATIENCE_MS = 30_000  # for one request, repeats included
LOOK_MS = 500  # between two looks at a saga that is waited for

_REFUSED = {
    "unknown-saga": Exit.NOT_FOUND,
    "unavailable": Exit.UNAVAILABLE,
    "key-reused": Exit.NOT_ALLOWED,
}


_NOT_TAKEN = {
    "not-found": Exit.NOT_FOUND,
    "unavailable": Exit.UNAVAILABLE,
    "not-allowed": Exit.NOT_ALLOWED,
    "definition-missing": Exit.NOT_ALLOWED,
}


def start(args: argparse.Namespace) -> int:
    """Start a saga, or find the one that stands under the key."""
    context = _context(args)
    app = connect(args)
    key = args.idempotency_key or app.clock.new_id()
    asked = StartRequest(args.tenant, args.name, context, key)
    try:
        result, saga = begin(app, asked, ends_at=_ends_at(app), correlation_id=app.clock.new_id())
    except StartRefusedError as exc:
        fields = "; ".join(f"{place}: {wrong}" for place, wrong in exc.fields)
        text = f"{exc.detail} {fields}".strip()
        if exc.problem == "unknown-saga":
            text = f"{args.name} is not among {args.definitions}; name yours with --definitions"
        raise CommandError(_REFUSED.get(exc.problem, Exit.USAGE), text) from exc
    if result is Starting.EXISTED:
        print(f"saga: {saga.id} stood under this key already", file=sys.stderr)
    if not args.wait:
        _print(args, saga)
        return Exit.OK
    saga = _wait(app, saga)
    _print(args, saga)
    return Exit.OK if saga.state is SagaState.COMPLETED else Exit.NO


def get(args: argparse.Namespace) -> int:
    """Show one saga."""
    _print(args, find(connect(args), args))
    return Exit.OK


def list_sagas(args: argparse.Namespace) -> int:
    """Show a page of sagas, newest first."""
    page = _page(connect(args), args)
    if args.json:
        listed = [summary(saga) for saga in page.instances]
        print(json.dumps({"sagas": listed, "cursor": page.cursor}, indent=2))
    else:
        show_list([summary(saga) for saga in page.instances])
        if page.cursor is not None:
            print(f"saga: there are more: --cursor {page.cursor}", file=sys.stderr)
    return Exit.OK


def resume(args: argparse.Namespace) -> int:
    """Let a FAILED saga go on."""
    return _ask(args, lambda at: ResumeRequested(by=_actor(), at=at))


def cancel(args: argparse.Namespace) -> int:
    """Roll a saga back."""
    return _ask(args, lambda at: CancelRequested(by=_actor(), at=at))


def skip(args: argparse.Namespace) -> int:
    """Vouch for the step that a FAILED saga stopped at."""
    return _ask(args, lambda at: SkipRequested(step=args.step, by=_actor(), at=at))


def answer(args: argparse.Namespace) -> int:
    """Answer for a step that waits, or say that its answer is still to come."""
    told: dict[str, object] = {"outcome": "completed", "context": _fields(args)}
    if args.failed is not None:
        told = {"outcome": "failed", "error": args.failed}
    if args.heartbeat:
        told = {"outcome": "heartbeat"}
    app = connect(args)
    asked = AnswerRequest(args.tenant, args.token, told, _actor())
    try:
        saga = _reached(
            lambda: take(app, asked, ends_at=_ends_at(app), correlation_id=app.clock.new_id())
        )
    except AnswerRefusedError as exc:
        places = "; ".join(f"{place}: {wrong}" for place, wrong in exc.fields)
        raise CommandError(
            _NOT_TAKEN.get(exc.problem, Exit.USAGE), f"{exc.detail} {places}".strip()
        ) from exc
    _print(args, saga)
    return Exit.OK


# -- parts ----------------------------------------------------------------------


def _ask(args: argparse.Namespace, event: Callable[[int], Request]) -> int:
    app = connect(args)
    turn = request(
        _key(args),
        event(app.clock.now_ms()),
        app.definitions.by_ref,
        nudge_id=app.clock.new_id(),
        ends_at=_ends_at(app),
    )
    answered: Answered = _reached(lambda: Driver(app, app.clock.new_id()).run(turn))
    _print(args, _accepted(answered, args.id))
    return Exit.OK


def _accepted(answered: Answered, saga_id: str) -> SagaInstance:
    saga = answered.instance
    match answered.answer:
        case Answer.ACCEPTED if saga is not None:
            return saga
        case Answer.REFUSED if saga is not None:
            why = WHY_NOT.get(answered.reason or Reason.CLOSED, "its state does not allow this")
            raise CommandError(Exit.NOT_ALLOWED, f"saga {saga_id} is {saga.state}: {why}")
        case Answer.DEFINITION_MISSING if saga is not None:
            raise CommandError(
                Exit.NOT_ALLOWED,
                f"saga {saga_id} needs {saga.definition}, which --definitions does not have",
            )
        case Answer.NOT_FOUND:
            raise _unknown(saga_id)
        case _:
            raise CommandError(Exit.UNAVAILABLE, "the table did not answer; try again")


def find(app: Application, args: argparse.Namespace) -> SagaInstance:
    """The saga that the command line names.

    Raises:
        CommandError: There is none, or the table does not answer.
    """
    return _find(app, _key(args))


def _find(app: Application, key: Key) -> SagaInstance:
    found = _reached(lambda: app.store.find(key, app.clock.now_ms()))
    if found is None:
        raise _unknown(key.saga_id)
    return found


def _page(app: Application, args: argparse.Namespace) -> Page:
    states = frozenset({SagaState(args.state)}) if args.state else frozenset(SagaState)
    try:
        return _reached(
            lambda: app.store.page(
                args.tenant,
                states=states,
                name=args.name,
                cursor=args.cursor,
                limit=args.limit,
                now=app.clock.now_ms(),
            )
        )
    except ValueError as exc:
        raise CommandError(Exit.USAGE, "--cursor is not one that a list gave") from exc


def _wait(app: Application, saga: SagaInstance) -> SagaInstance:
    """Look until it rests."""
    while saga.live:
        app.clock.sleep_ms(LOOK_MS)
        saga = _find(app, saga.key)
    return saga


def _reached(ask: Callable[[], T]) -> T:
    try:
        return ask()
    except StoreError as exc:
        raise CommandError(Exit.UNAVAILABLE, str(exc)) from exc


def _key(args: argparse.Namespace) -> Key:
    if not SAGA_ID.fullmatch(args.id):
        raise _unknown(args.id)
    return Key(args.tenant, args.id)


def _unknown(saga_id: str) -> CommandError:
    return CommandError(Exit.NOT_FOUND, f"there is no saga {saga_id[:64]!r}")


def _context(args: argparse.Namespace) -> str:
    """The context as JSON text; an empty object when none is given."""
    try:
        text = _context_text(args)
        value = strict_json(text)
    except (OSError, ValueError) as exc:
        raise CommandError(Exit.USAGE, f"the context cannot be read: {exc}") from exc
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _fields(args: argparse.Namespace) -> object:
    """What an answer sets in the context."""
    try:
        return strict_json(args.context or "{}")
    except ValueError as exc:
        raise CommandError(Exit.USAGE, f"--context cannot be read: {exc}") from exc


def _context_text(args: argparse.Namespace) -> str:
    if args.context_file is not None:
        path: Path = args.context_file
        return path.read_text(encoding="utf-8")
    if args.context == "-":
        return sys.stdin.read()
    return args.context or "{}"


def _actor() -> str:
    """Who asks: kept with the saga."""
    try:
        return f"cli:{getpass.getuser()}"
    except (OSError, KeyError):
        return "cli"


def _ends_at(app: Application) -> int:
    return app.clock.now_ms() + PATIENCE_MS


def _print(args: argparse.Namespace, saga: SagaInstance) -> None:
    if args.json:
        print(json.dumps(view(saga), indent=2, ensure_ascii=False))
    else:
        show_saga(view(saga))
