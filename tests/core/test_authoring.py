from __future__ import annotations

from datetime import timedelta

import pytest

from saga_core.authoring import Saga, SagaStep, steps
from saga_core.calls import StepCall
from saga_core.definition import DEFAULT_RETENTION, DEFAULT_TIMEOUT
from saga_core.errors import DefinitionError
from saga_core.retry import COMPENSATION_DEFAULT, FORWARD_DEFAULT, RetryPolicy
from tests.core.sagas import nothing

TWICE = RetryPolicy(max_attempts=2)


def test_decorated_functions_become_the_steps_in_order():
    order = Saga("order")

    @order.step
    def reserve(ctx):
        """Reserve it."""
        return ("reserved", ctx)

    @reserve.compensate
    def release(ctx, call):
        return "released"

    @order.step(name="charge-card", compensatable=False)
    def charge(ctx, call: StepCall):
        return "charged"

    definition = order.build()
    assert [s.name for s in definition.steps] == ["reserve", "charge-card"]
    first, second = definition.steps
    assert first.execute.function("x") == ("reserved", "x")
    assert first.compensate is not None
    assert first.compensate.function is release
    assert first.compensate.takes_call
    assert (second.compensatable, second.compensate) == (False, None)
    assert second.execute.takes_call
    assert second.compensation_retry == COMPENSATION_DEFAULT


def test_a_decorated_function_is_still_the_function():
    order = Saga("order")

    @order.step
    def reserve(ctx):
        """Reserve it."""
        return ("reserved", ctx)

    assert reserve("x") == ("reserved", "x")
    assert reserve.__doc__ == "Reserve it."
    assert reserve.__wrapped__("y") == ("reserved", "y")
    assert reserve.name == "reserve"


def test_a_steps_options_end_up_in_its_definition():
    order = Saga("order")

    @order.step(retry=TWICE, fatal_on=(KeyError,), in_doubt_on=(ValueError,))
    def reserve(ctx): ...

    @reserve.compensate(retry=FORWARD_DEFAULT)
    def release(ctx): ...

    assert release(None) is None
    (built,) = order.build().steps
    assert (built.retry, built.compensation_retry) == (TWICE, FORWARD_DEFAULT)
    assert (built.fatal_on, built.in_doubt_on) == ((KeyError,), (ValueError,))
    assert built.compensatable is True


def test_a_step_without_options_has_the_defaults():
    order = Saga("order")
    order.step(nothing).compensate(nothing)
    (built,) = order.build().steps
    assert built.name == "nothing"
    assert (built.retry, built.compensation_retry) == (FORWARD_DEFAULT, COMPENSATION_DEFAULT)
    assert (built.fatal_on, built.in_doubt_on, built.compensatable) == ((), (), True)

    other = Saga("order")
    other.step()(nothing).compensate(retry=COMPENSATION_DEFAULT)(nothing)
    assert other.build() == order.build()


def test_the_sagas_options_end_up_in_its_definition():
    order = Saga(
        "order",
        context=dict,
        version="2",
        timeout=timedelta(seconds=7),
        on_compensation_failure="continue",
        retention=timedelta(days=20),
    )
    order.step(compensatable=False)(nothing)
    definition = order.build()
    assert (definition.name, definition.version) == ("order", "2")
    assert definition.context_type is dict
    assert definition.timeout == timedelta(seconds=7)
    assert definition.on_compensation_failure == "continue"
    assert definition.retention == timedelta(days=20)


def test_a_saga_without_options_has_the_defaults():
    order = Saga("order")
    order.step(compensatable=False)(nothing)
    definition = order.build()
    assert (definition.version, definition.context_type) == ("1", None)
    assert (definition.timeout, definition.retention) == (DEFAULT_TIMEOUT, DEFAULT_RETENTION)
    assert definition.on_compensation_failure == "halt"


def test_a_step_has_one_compensation():
    order = Saga("order")
    reserve = order.step(nothing)
    reserve.compensate(nothing)
    with pytest.raises(DefinitionError, match=r"^SAGA006 step nothing has two compensations$"):
        reserve.compensate(nothing)


def test_a_step_that_was_forgotten_to_be_undone_is_refused_when_the_saga_is_built():
    order = Saga("order")
    order.step(nothing)
    with pytest.raises(DefinitionError, match="SAGA003 step nothing"):
        order.build()


def test_a_function_without_a_usable_name_needs_one():
    order = Saga("order")
    order.step(compensatable=False)(lambda ctx: None)
    with pytest.raises(DefinitionError, match="SAGA004 step <lambda>"):
        order.build()

    class Nameless:
        def __call__(self, ctx): ...

    other = Saga("order")
    other.step(compensatable=False)(Nameless())
    with pytest.raises(DefinitionError, match="SAGA004 a step's name"):
        other.build()


def test_a_handler_of_the_wrong_shape_is_refused_when_the_saga_is_built():
    order = Saga("order")
    order.step(compensatable=False)(lambda ctx, retries=3: None)
    with pytest.raises(DefinitionError, match="SAGA005"):
        order.build()


class Reserve:
    """A step in class style."""

    name = "reserve"

    def execute(self, ctx): ...

    def compensate(self, ctx): ...


def test_objects_in_class_style_become_steps_in_order():
    class Charge(Reserve):
        name = "charge"

    assert [s.name for s in steps(Reserve(), Charge())] == ["reserve", "charge"]
    assert isinstance(Reserve(), SagaStep)
    assert not isinstance(object(), SagaStep)
