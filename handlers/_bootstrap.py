"""The composition root: the only module here that meets the adapters."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from handlers._application import Application
from handlers._powertools import PowertoolsSink
from handlers._records import LambdaContext
from handlers._telemetry import Telemetry
from infra.clients import dynamodb_client, sqs_client
from infra.clock import SystemClock
from infra.contexts import PydanticContextCodec
from infra.dynamodb_store import DynamoDBSagaStore
from infra.queue import SqsSender, parse
from infra.registry import Registry, load_definitions
from infra.settings import REQUIRED, Settings, in_lambda

E = TypeVar("E")
A = TypeVar("A")

_built: dict[str, Application] = {}


def application(function: str) -> Application:
    """The parts of a function, built at the first call and kept.

    Raises:
        SettingsError: A variable that this function needs is missing; all the
            missing ones are named.
        DefinitionError: A definition cannot run.
    """
    if function not in _built:
        settings = Settings.from_environment(function)
        built = build(settings)
        if function == "worker":
            load_definitions(settings.definitions).check_budget(settings.step_ms)
        _built[function] = built
    return _built[function]


def build(settings: Settings) -> Application:
    """The parts, as AWS has them."""
    clock = SystemClock()
    return Application(
        clock=clock,
        store=DynamoDBSagaStore(dynamodb_client(), settings.table, clock=clock.now_ms),
        queue=SqsSender(sqs_client(), settings.queue_url),
        definitions=load_definitions(settings.definitions)
        if settings.definitions
        else Registry(()),
        codec=PydanticContextCodec(),
        telemetry=Telemetry(
            PowertoolsSink(
                service=settings.service, namespace=settings.namespace, level=settings.log_level
            )
        ),
        parse=parse,
        step_ms=settings.step_ms,
        tenant_claim=settings.tenant_claim,
    )


def use(app: Application) -> None:
    """Let every function of this process work with these parts (local runtime, tests)."""
    for function in REQUIRED:
        _built[function] = app


def reset() -> None:
    """Forget what was built."""
    _built.clear()


def entry_point(
    function: str, handle: Callable[[Application, E, LambdaContext], A]
) -> Callable[[E, LambdaContext], A]:
    """What Lambda calls.

    In Lambda the parts are built while the module loads, so that a wrong
    setting or definition stops the deployment's first start and not a saga.
    """
    if in_lambda():
        application(function)

    def handler(event: E, context: LambdaContext) -> A:
        return handle(application(function), event, context)

    return handler
