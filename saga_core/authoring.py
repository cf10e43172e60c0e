"""The ways to write a saga. All of them end in one SagaDefinition.

Decorators, for functions::

    order = Saga("order", context=Order)

    @order.step
    def reserve(ctx, call): ...

    @reserve.compensate
    def release(ctx, call): ...

Classes, for steps that carry something::

    SagaDefinition(name="order", steps=steps(Reserve(stock), Charge(payments)))
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Protocol, overload, runtime_checkable

from saga_core.definition import (
    DEFAULT_RETENTION,
    DEFAULT_TIMEOUT,
    Function,
    Handler,
    OnCompensationFailure,
    Retention,
    SagaDefinition,
    StepDefinition,
    step_from_object,
)
from saga_core.errors import DefinitionError
from saga_core.outcome import Exceptions
from saga_core.retry import COMPENSATION_DEFAULT, FORWARD_DEFAULT, RetryPolicy


@runtime_checkable
class SagaStep(Protocol):
    """A step in class style. Any object of this shape is one; nothing is inherited.

    The handlers take ``(ctx)`` or ``(ctx, call)`` and may be ``async``. Options
    (``compensatable``, ``retry``, ``compensation_retry``, ``fatal_on``,
    ``in_doubt_on``, ``pivot``, ``group``, ``when``, ``delay``, ``timeout``) may
    be attributes of the same names.
    """

    @property
    def name(self) -> str:
        """The step's name, unique in its saga."""

    @property
    def execute(self) -> Function:
        """Does the step."""

    @property
    def compensate(self) -> Function:
        """Undoes it."""


def steps(*objects: object) -> tuple[StepDefinition, ...]:
    """Step definitions from objects in class style, in order."""
    return tuple(step_from_object(o) for o in objects)


class SagaStepHandle:
    """What ``@saga.step`` leaves behind: the function, and a place for its undo."""

    def __init__(self, function: Function, options: dict[str, object]) -> None:
        self._function = function
        self._options = options
        self._undo: Function | None = None
        self._undo_retry = COMPENSATION_DEFAULT
        self.__doc__ = function.__doc__
        self.__wrapped__ = function
        self.name = str(options.get("name") or getattr(function, "__name__", ""))

    def __call__(self, *args: object) -> object:
        """Call the plain function, as a unit test does."""
        return self._function(*args)

    @overload
    def compensate(self, function: Function) -> Function: ...

    @overload
    def compensate(self, *, retry: RetryPolicy) -> Callable[[Function], Function]: ...

    def compensate(
        self, function: Function | None = None, *, retry: RetryPolicy = COMPENSATION_DEFAULT
    ) -> Function | Callable[[Function], Function]:
        """Decorate the function that undoes this step.

        Raises:
            DefinitionError: The step has a compensation already (SAGA006).
        """

        def register(undo: Function) -> Function:
            if self._undo is not None:
                raise DefinitionError(f"SAGA006 step {self.name} has two compensations")
            self._undo, self._undo_retry = undo, retry
            return undo

        return register if function is None else register(function)

    def build(self) -> StepDefinition:
        """The step as a value."""
        options = {k: v for k, v in self._options.items() if k not in ("name", "when")}
        when = self._options.get("when")
        return StepDefinition(
            name=self.name,
            execute=Handler.of(self._function),
            compensate=Handler.of(self._undo) if self._undo is not None else None,
            compensation_retry=self._undo_retry,
            when=Handler.of(when) if when is not None else None,
            **options,  # type: ignore[arg-type]  # the keywords of Saga.step, checked there
        )


class Saga:
    """A saga written with decorators. ``build()`` gives its SagaDefinition."""

    def __init__(
        self,
        name: str,
        *,
        context: type | None = None,
        version: str = "1",
        timeout: timedelta = DEFAULT_TIMEOUT,
        on_compensation_failure: OnCompensationFailure = "halt",
        retention: timedelta | Retention = DEFAULT_RETENTION,
    ) -> None:
        self.name = name
        self._context = context
        self._version = version
        self._timeout = timeout
        self._on_compensation_failure: OnCompensationFailure = on_compensation_failure
        self._retention = retention
        self._steps: list[SagaStepHandle] = []

    @overload
    def step(self, function: Function) -> SagaStepHandle: ...

    @overload
    def step(
        self,
        *,
        name: str | None = None,
        compensatable: bool = True,
        retry: RetryPolicy = FORWARD_DEFAULT,
        fatal_on: Exceptions = (),
        in_doubt_on: Exceptions = (),
        pivot: bool = False,
        group: str | None = None,
        when: Function | None = None,
        delay: timedelta = timedelta(0),
        timeout: timedelta | None = None,
    ) -> Callable[[Function], SagaStepHandle]: ...

    def step(
        self,
        function: Function | None = None,
        *,
        name: str | None = None,
        compensatable: bool = True,
        retry: RetryPolicy = FORWARD_DEFAULT,
        fatal_on: Exceptions = (),
        in_doubt_on: Exceptions = (),
        pivot: bool = False,
        group: str | None = None,
        when: Function | None = None,
        delay: timedelta = timedelta(0),
        timeout: timedelta | None = None,
    ) -> SagaStepHandle | Callable[[Function], SagaStepHandle]:
        """Decorate a function: it becomes the next step of the saga.

        The options are those of StepDefinition; the name is the function's own
        unless given.
        """
        options: dict[str, object] = {
            "name": name,
            "compensatable": compensatable,
            "retry": retry,
            "fatal_on": fatal_on,
            "in_doubt_on": in_doubt_on,
            "pivot": pivot,
            "group": group,
            "when": when,
            "delay": delay,
            "timeout": timeout,
        }

        def register(execute: Function) -> SagaStepHandle:
            handle = SagaStepHandle(execute, options)
            self._steps.append(handle)
            return handle

        return register if function is None else register(function)

    def child(
        self,
        saga: Saga | SagaDefinition,
        *,
        into: str | None = None,
        name: str | None = None,
        compensatable: bool = True,
        retry: RetryPolicy = FORWARD_DEFAULT,
        pivot: bool = False,
        group: str | None = None,
        when: Function | None = None,
        delay: timedelta = timedelta(0),
    ) -> Callable[[Function], SagaStepHandle]:
        """Decorate the function that gives another saga's input: that saga is the next step.

        The step waits until it has ended. COMPLETED, its context goes into the
        field ``into``; COMPENSATED, the step has failed. Undoing the step cancels
        or undoes it. FAILED, this saga is FAILED, too, and goes on with it.
        """

        def register(execute: Function) -> SagaStepHandle:
            options: dict[str, object] = {
                "name": name,
                "compensatable": compensatable,
                "retry": retry,
                "pivot": pivot,
                "group": group,
                "when": when,
                "delay": delay,
                "child": saga.build() if isinstance(saga, Saga) else saga,
                "into": into,
            }
            handle = SagaStepHandle(execute, options)
            self._steps.append(handle)
            return handle

        return register

    def build(self) -> SagaDefinition:
        """The definition as a value, checked.

        Raises:
            DefinitionError: With every error that the lint found.
        """
        return SagaDefinition(
            name=self.name,
            version=self._version,
            steps=tuple(handle.build() for handle in self._steps),
            timeout=self._timeout,
            context_type=self._context,
            on_compensation_failure=self._on_compensation_failure,
            retention=self._retention,
        )
