"""``saga local``: the whole stack on this machine, in real time, until Ctrl-C."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from moto.server import ThreadedMotoServer

from handlers import _bootstrap
from handlers._telemetry import Sink
from handlers._view import iso
from infra.clock import SystemClock
from saga_cli.local.front import Front
from saga_cli.local.infrastructure import infrastructure
from saga_cli.local.keeping import Keeper
from saga_cli.local.moto_as_aws import moto_repaired
from saga_cli.local.pump import Ending, Invocation, Pump
from saga_cli.local.reloading import WATCHED, serve_again_on_each_change
from saga_cli.local.stack import local_clients, local_settings
from saga_cli.local.template import Template
from saga_cli.main import EXAMPLES
from saga_cli.parts import application
from saga_cli.problems import CommandError, Exit
from saga_core.errors import DefinitionError

IDLE_S = 0.2  # between two looks into empty queues
KEEP_S = 1.0  # between two looks whether something must be written to disk
HOST = "127.0.0.1"


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C, or until it is told to terminate."""
    if args.reload:
        return serve_again_on_each_change(args)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt_once)
    sink = PrintingSink(as_json=args.json)
    try:
        with LocalServer(
            Template.read(args.template), args.definitions, args.port, sink, data=args.data
        ) as server:
            if not args.json:
                print(server.hint, flush=True)
            server.wait()
    except (DefinitionError, CommandError) as exc:
        if WATCHED in os.environ:
            print("saga: waiting for the next save", file=sys.stderr, flush=True)
        exit_ = exc.exit if isinstance(exc, CommandError) else Exit.USAGE
        raise CommandError(exit_, str(exc)) from exc
    except KeyboardInterrupt:
        fate = "is gone" if args.data is None else f"is kept in {args.data}"
        print(f"saga: stopped, and what ran here {fate}", file=sys.stderr)
    return Exit.OK


def _interrupt_once(_number: int, _frame: object) -> None:
    """A terminal signals a whole group, and a supervisor its child: the end comes once."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


class PrintingSink(Sink):
    """Prints what the functions log: for people, or as they wrote it."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._clock = SystemClock()

    def line(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """See Sink. Sweeps that found nothing are left out."""
        if message == "saga.swept" and not fields.get("looked_at"):
            return
        if self._as_json:
            print(json.dumps({"level": level, "message": message, **fields}), flush=True)
            return
        shown = ("saga", "saga_id", "step", "phase", "attempt", "result", "error_kind", "to")
        told = " ".join(str(fields[name]) for name in shown if name in fields)
        print(f"{iso(self._clock.now_ms())[11:19]}  {message:24} {told}", flush=True)

    def count(self, saga: str | None, metrics: Mapping[str, float]) -> None:
        """See Sink. Nobody watches alarms here."""


class LocalServer:
    """moto's server, the stack in it, and a thread that runs the functions.

    Args:
        port: Of the AWS endpoint; the HTTP API listens on the next one. 0
            takes free ones.
        sink: Where the functions' lines go.
        data: The folder that keeps sagas and messages between two runs; by
            default they are gone at the end.
    """

    pump: Pump
    front: Front
    endpoint: str
    _name: str

    def __init__(
        self,
        template: Template,
        definitions: str,
        port: int,
        sink: Sink,
        *,
        data: Path | None = None,
    ) -> None:
        self._data = data
        self._template = template
        self._definitions = definitions
        self._port = port
        self._sink = sink
        self._stop = threading.Event()
        self._undo = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            self.endpoint = _serve_moto(self._port, undo)
            undo.enter_context(moto_repaired())
            template = replace(self._template, endpoint=self.endpoint)
            dynamodb, sqs = local_clients(self.endpoint)
            clock = SystemClock()
            app = application(
                local_settings(template, self._definitions),
                dynamodb=dynamodb,
                sqs=sqs,
                clock=clock,
                sink=self._sink,
            )
            undo.enter_context(infrastructure(template, dynamodb, sqs))
            keeper = Keeper(self._data, template, dynamodb) if self._data is not None else None
            if keeper is not None:
                keeper.restore()
                undo.callback(keeper.release)
                undo.callback(keeper.keep)
            undo.callback(_bootstrap.reset)
            _bootstrap.use(app)
            self._name = next(iter(app.definitions.refs)).partition("@")[0]
            self.pump = Pump(template, sqs, clock, [self._report])
            self.front = _serve_front(self._port and self._port + 1, self.pump, undo)
            undo.callback(self._in_thread(self._work).join)
            if keeper is not None:
                undo.callback(self._in_thread(partial(self._keep, keeper)).join)
            undo.callback(self._stop.set)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._undo.close()

    @property
    def hint(self) -> str:
        """How to use it from another terminal."""
        port = self.endpoint.rpartition(":")[2]
        flag = f"--local --port {port}"
        place = "in memory" if self._data is None else f"its data in {self._data}"
        name, context, mine = "order", '{"sku": "tea"}', ""
        if self._definitions != EXAMPLES:
            name, context = self._name, "{…}"
            mine = f"\n  export SAGA_DEFINITIONS={self._definitions}"
        return f"""\
The stack runs on this machine, {place}. From another terminal:
{mine}
  saga start {name} --context '{context}' --wait {flag}
  saga list {flag}
  curl {self.front.url}/sagas/{name} -H 'Idempotency-Key: {name}-1' --json '{context}'

For anything else that speaks AWS:

  export AWS_ENDPOINT_URL={self.endpoint} AWS_DEFAULT_REGION=us-east-1
  export AWS_ACCESS_KEY_ID=local AWS_SECRET_ACCESS_KEY=local
  export SAGA_TABLE={self._template.name_of("SagaTable")}
  export SAGA_QUEUE_URL={self.endpoint}/123456789012/{self._template.name_of("WorkQueue")}

Ctrl-C ends it.
"""

    def wait(self) -> None:
        """Return when somebody stops it."""
        while not self._stop.wait(1):
            pass

    def _in_thread(self, target: object) -> threading.Thread:
        thread = threading.Thread(target=target, daemon=True)  # type: ignore[arg-type]
        thread.start()
        return thread

    def _work(self) -> None:
        while not self._stop.is_set():
            if self.pump.step() is None:
                self._stop.wait(IDLE_S)

    def _keep(self, keeper: Keeper) -> None:
        while not self._stop.wait(KEEP_S):
            keeper.keep()

    def _report(self, invocation: Invocation) -> None:
        if invocation.ending is not Ending.ANSWERED:
            fields = {
                "function": invocation.function,
                "error_kind": type(invocation.error).__name__,
            }
            self._sink.line("ERROR", f"function.{invocation.ending}", fields)


def _serve_moto(port: int, undo: ExitStack) -> str:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as exc:
            raise CommandError(Exit.UNAVAILABLE, f"port {port} of {HOST}: {exc.strerror}") from exc
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(HOST, port, verbose=False)
    server.start()
    undo.callback(server.stop)
    return "http://{}:{}".format(*server.get_host_and_port())


def _serve_front(port: int, pump: Pump, undo: ExitStack) -> Front:
    try:
        front = Front(port, pump.http)
    except OSError as exc:
        raise CommandError(Exit.UNAVAILABLE, f"port {port} of {HOST}: {exc.strerror}") from exc
    thread = threading.Thread(target=front.serve_forever, daemon=True)
    thread.start()
    undo.callback(front.server_close)
    undo.callback(thread.join)
    undo.callback(front.shutdown)
    return front
