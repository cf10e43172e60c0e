from __future__ import annotations

import functools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from saga_core.calls import Direction, StepCall
from saga_core.definition import (
    DEFAULT_RETENTION,
    DEFAULT_TIMEOUT,
    HOP_SLACK,
    MAX_TIMEOUT,
    MIN_RETENTION,
    Finding,
    Handler,
    SagaDefinition,
    Severity,
    StepDefinition,
    lint,
    step_from_object,
)
from saga_core.errors import DefinitionError
from saga_core.retry import COMPENSATION_DEFAULT, FORWARD_DEFAULT, RetryPolicy
from tests.core.sagas import nothing, saga, step

CALL = StepCall(
    saga_id="s1",
    step="a",
    direction=Direction.FORWARD,
    attempt=1,
    idempotency_key="k",
    execute_key="k",
    fence=1,
    deadline=datetime(2026, 1, 1, tzinfo=UTC),
)
TWICE = RetryPolicy(max_attempts=2)


# -- handlers ------------------------------------------------------------------------


class Methods:
    """Handlers that are bound to an object."""

    def one(self, ctx: object) -> object:
        return ("one", ctx)

    def two(self, ctx: object, call: StepCall) -> object:
        return ("two", ctx, call)

    @classmethod
    def of_class(cls, ctx: object) -> object:
        return ("class", ctx)

    @staticmethod
    def static(ctx: object, call: StepCall) -> object:
        return ("static", ctx, call)

    def __call__(self, ctx: object) -> object:
        return ("object", ctx)


@pytest.mark.parametrize(
    ("function", "result"),
    [
        (lambda ctx: ("lambda", ctx), ("lambda", "ctx")),
        (lambda ctx, call: ("lambda", ctx, call), ("lambda", "ctx", CALL)),
        (lambda ctx, /: ("positional", ctx), ("positional", "ctx")),
        (Methods().one, ("one", "ctx")),
        (Methods().two, ("two", "ctx", CALL)),
        (Methods.of_class, ("class", "ctx")),
        (Methods.static, ("static", "ctx", CALL)),
        (Methods(), ("object", "ctx")),
        (functools.partial(lambda n, ctx: (n, ctx), 7), (7, "ctx")),
    ],
    ids=[
        "one",
        "two",
        "positional",
        "method",
        "two of method",
        "class",
        "static",
        "object",
        "part",
    ],
)
def test_a_handler_is_called_the_way_it_wants(function, result):
    assert Handler.of(function)("ctx", CALL) == result


def test_how_a_handler_wants_to_be_called_is_found_out_once():
    assert not Handler.of(nothing).takes_call
    assert Handler.of(Methods().two).takes_call


@pytest.mark.parametrize(
    "function",
    [
        lambda: None,
        lambda ctx, call, more: None,
        lambda ctx, retries=3: None,
        lambda ctx=None: None,
        lambda *args: None,
        lambda ctx, *rest: None,
        lambda ctx, **rest: None,
        lambda ctx, *, call: None,
    ],
    ids=["none", "three", "default", "default ctx", "args", "rest", "keywords", "keyword only"],
)
def test_a_handler_of_any_other_shape_is_refused(function):
    with pytest.raises(DefinitionError, match=r"^SAGA005 .*<lambda> must take \(ctx\) or"):
        Handler.of(function)


def test_what_cannot_be_called_or_read_is_no_handler():
    with pytest.raises(DefinitionError, match=r"^SAGA005 7 is not callable$"):
        Handler.of(7)
    with pytest.raises(DefinitionError, match=r"^SAGA005 .* has no signature to read$"):
        Handler.of(dict)


# -- what a definition says ----------------------------------------------------------


def test_a_definition_has_defaults():
    definition = SagaDefinition(name="order", steps=(step("a"),))
    assert (definition.version, definition.timeout) == ("1", DEFAULT_TIMEOUT)
    assert definition.context_type is None
    assert definition.on_compensation_failure == "halt"
    assert definition.retention == DEFAULT_RETENTION == timedelta(days=30)
    assert timedelta(seconds=300) == DEFAULT_TIMEOUT


def test_a_step_has_defaults():
    a = StepDefinition(name="a", execute=Handler.of(nothing), compensate=Handler.of(nothing))
    assert a.compensatable is True
    assert (a.retry, a.compensation_retry) == (FORWARD_DEFAULT, COMPENSATION_DEFAULT)
    assert (a.fatal_on, a.in_doubt_on) == ((), ())


def test_a_step_is_found_by_its_name():
    definition = saga("a", "b")
    assert definition.step("b") is definition.steps[1]
    with pytest.raises(KeyError):
        definition.step("c")


def test_a_definition_is_addressed_by_name_version_and_fingerprint():
    definition = saga("a", version="2.1")
    assert definition.ref == f"order@2.1#{definition.fingerprint}"
    assert len(definition.fingerprint) == 16
    assert int(definition.fingerprint, 16) >= 0


def test_a_fingerprint_is_what_it_always_was():
    """Running sagas are pinned to it: if this changes, every one of them stops."""
    assert saga("a", step("b", compensatable=False)).fingerprint == "94d4ed234bc4211a"


@pytest.mark.parametrize(
    "other",
    [
        saga("a", "b", name="other"),
        saga("a", "b", version="2"),
        saga("b", "a"),
        saga("a", "c"),
        saga("a", "b", "c"),
        saga("a", step("b", compensatable=False)),
    ],
    ids=["name", "version", "order", "step name", "steps", "compensatable"],
)
def test_a_fingerprint_covers_what_a_running_saga_depends_on(other):
    assert other.fingerprint != saga("a", "b").fingerprint


def test_a_fingerprint_does_not_cover_what_may_be_repaired():
    other = saga(
        step("a", retry=TWICE, compensation_retry=TWICE),
        replace(step("b"), execute=Handler.of(Methods().two), fatal_on=(KeyError,)),
        timeout=timedelta(days=1),
        on_compensation_failure="continue",
        retention=timedelta(days=99),
        context_type=dict,
    )
    assert other.fingerprint == saga("a", "b").fingerprint


def test_the_loop_guard_is_beyond_every_honest_schedule():
    one = RetryPolicy(max_attempts=2, max_lost=5)
    other = RetryPolicy(max_attempts=7, max_lost=11)
    definition = saga(step("a", retry=one, compensation_retry=other), step("b", retry=other))
    defaults = 3 + COMPENSATION_DEFAULT.max_lost
    assert COMPENSATION_DEFAULT.max_attempts == 3
    assert definition.hop_max == 2 * (7 + 18 + 18 + defaults) + HOP_SLACK
    assert HOP_SLACK == 50


# -- the lint ------------------------------------------------------------------------


def broken(**changes: object) -> str:
    """The message of a definition that is refused."""
    with pytest.raises(DefinitionError) as caught:
        SagaDefinition(**{"name": "order", "steps": (step("a"),), **changes})  # type: ignore[arg-type]
    return str(caught.value)


def bare(name: str, **options: object) -> StepDefinition:
    return StepDefinition(name=name, execute=Handler.of(nothing), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": ()}, "saga order: SAGA001 a saga has at least one step"),
        (
            {"steps": (step("a"), step("b"), step("a"))},
            "saga order: SAGA002 step a: two steps have this name",
        ),
        (
            {"steps": (bare("a"),)},
            "saga order: SAGA003 step a: give it a compensation, or state compensatable=False",
        ),
        (
            {"name": "Order"},
            "saga Order: SAGA004 a saga's name matches [a-z][a-z0-9_.-]{0,63}",
        ),
        (
            {"version": "-1"},
            "saga order: SAGA004 a version matches [A-Za-z0-9][A-Za-z0-9_.-]{0,31}",
        ),
        (
            {"steps": (step("a b"),)},
            "saga order: SAGA004 step a b: a step's name matches [A-Za-z][A-Za-z0-9_.-]{0,63}",
        ),
        (
            {"steps": (bare("a", compensatable=False, compensate=Handler.of(nothing)),)},
            "saga order: SAGA006 step a: compensatable=False, yet it has a compensation",
        ),
        (
            {"timeout": timedelta(0)},
            "saga order: SAGA007 timeout 0:00:00 is not between 0 and 366 days",
        ),
        (
            {"timeout": MAX_TIMEOUT + timedelta(seconds=1)},
            "saga order: SAGA007 timeout 366 days, 0:00:01 is not between 0 and 366 days",
        ),
        (
            {"retention": MIN_RETENTION - timedelta(seconds=1)},
            "saga order: SAGA009 retention 17 days, 23:59:59 is under 18 days",
        ),
        (
            {"on_compensation_failure": "stop"},
            'saga order: SAGA010 on_compensation_failure is "halt" or "continue"',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_definition_that_cannot_run_is_refused_with_its_rule(changes, message):
    assert broken(**changes) == message


def test_a_version_that_is_no_text_is_refused_with_its_rule():
    assert "SAGA004 a version matches" in broken(version=2)


def test_every_error_is_named_at_once_in_the_order_of_the_rules():
    message = broken(name="", steps=(bare("-"), bare("-")), timeout=timedelta(0))
    rules = [part.split()[0] for part in message.removeprefix("saga : ").split("; ")]
    assert rules == ["SAGA002", "SAGA003", "SAGA003", "SAGA004", "SAGA004", "SAGA004", "SAGA007"]


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("name", ["a", "a0_.-z", "a" * 64], ["", "0a", "_a", "a b", "a/b", "a#b", "a@b", "a" * 65]),
        ("version", ["1", "v1.2-a_b", "1" * 32], ["", ".1", "1 2", "1#2", "1@2", "1" * 33]),
    ],
    ids=["name", "version"],
)
def test_names_are_safe_wherever_they_are_stored(field, good, bad):
    for value in good:
        SagaDefinition(**{"name": "order", "steps": (step("a"),), field: value})
    for value in bad:
        assert "SAGA004" in broken(**{field: value})


def test_the_ends_of_the_ranges_are_in_them():
    saga("a", timeout=timedelta(microseconds=1))
    saga("a", timeout=MAX_TIMEOUT)
    saga("a", retention=MIN_RETENTION)
    saga(step("A" * 64))
    assert timedelta(days=366) == MAX_TIMEOUT
    assert timedelta(days=18) == MIN_RETENTION


def test_a_step_in_the_middle_that_nothing_undoes_is_warned_of():
    definition = saga("a", step("b", compensatable=False), step("c", compensatable=False))
    assert lint(definition) == (
        Finding(
            "SAGA101",
            Severity.WARNING,
            "nothing undoes it when a later step fails; move it last if it has an effect",
            "b",
        ),
    )


def test_errors_come_before_warnings():
    findings = lint(
        replace_unchecked(saga("a", step("b", compensatable=False), "c"), timeout=timedelta(0))
    )
    assert [f.rule for f in findings] == ["SAGA007", "SAGA101"]


def replace_unchecked(definition: SagaDefinition, **changes: object) -> SagaDefinition:
    """A definition that the constructor would refuse."""
    for name, value in changes.items():
        object.__setattr__(definition, name, value)
    return definition


def test_a_saga_without_fault_has_no_findings():
    assert lint(saga("a", "b", step("c", compensatable=False))) == ()


# -- steps from objects --------------------------------------------------------------


class Reserve:
    """A step in class style."""

    name = "reserve"

    def execute(self, ctx: object) -> None:
        """Do it."""

    def compensate(self, ctx: object, call: StepCall) -> None:
        """Undo it."""


class Careful(Reserve):
    """One that states its options."""

    retry = TWICE
    compensation_retry = FORWARD_DEFAULT
    fatal_on = (KeyError,)
    in_doubt_on = (ValueError,)


class Note(Reserve):
    """One that states that there is nothing to undo, though its base has an undo."""

    compensatable = False


def test_any_object_with_name_execute_and_compensate_is_a_step():
    built = step_from_object(Reserve())
    assert built.name == "reserve"
    assert (built.execute.takes_call, built.compensate and built.compensate.takes_call) == (
        False,
        True,
    )
    assert built.compensatable is True
    assert (built.retry, built.compensation_retry) == (FORWARD_DEFAULT, COMPENSATION_DEFAULT)
    assert (built.fatal_on, built.in_doubt_on) == ((), ())


def test_an_object_may_state_its_options():
    built = step_from_object(Careful())
    assert (built.retry, built.compensation_retry) == (TWICE, FORWARD_DEFAULT)
    assert (built.fatal_on, built.in_doubt_on) == ((KeyError,), (ValueError,))


def rich(ctx: object) -> bool:
    return True


def poor(ctx: object) -> bool:
    return False


INNER, OTHER = saga("x", name="inner"), saga("y", name="other")
LONGER = timedelta(seconds=30)
FLOW: list[tuple[str, object, object]] = [
    ("pivot", True, False),
    ("group", "g", "h"),
    ("delay", LONGER, timedelta(0)),
    ("timeout", LONGER, timedelta(seconds=1)),
    ("child", INNER, OTHER),
    ("into", "found", "other"),
]


@pytest.mark.parametrize(("name", "stated", "given"), FLOW, ids=[f[0] for f in FLOW])
def test_an_object_may_state_its_part_in_the_flow_and_what_is_given_beats_it(name, stated, given):
    plain = step_from_object(Note())
    assert getattr(plain, name) == {"delay": timedelta(0), "pivot": False}.get(name)
    stating = type("Stating", (Note,), {name: stated})()
    assert getattr(step_from_object(stating), name) == stated
    assert getattr(step_from_object(stating, **{name: given}), name) == given
    assert getattr(step_from_object(Note(), **{name: stated}), name) == stated


def test_an_object_may_state_its_condition():
    assert step_from_object(Note()).when is None
    stating = type("Stating", (Note,), {"when": staticmethod(rich)})()
    assert step_from_object(stating).when == Handler.of(rich)
    assert step_from_object(stating, when=poor).when == Handler.of(poor)
    assert step_from_object(Note(), when=rich).when == Handler.of(rich)


def test_what_is_given_beats_what_the_object_states():
    built = step_from_object(
        Careful(),
        compensatable=False,
        retry=FORWARD_DEFAULT,
        compensation_retry=TWICE,
        fatal_on=(),
        in_doubt_on=(OSError,),
    )
    assert (built.compensatable, built.compensate) == (False, None)
    assert (built.retry, built.compensation_retry) == (FORWARD_DEFAULT, TWICE)
    assert (built.fatal_on, built.in_doubt_on) == ((), (OSError,))


def test_a_step_that_states_that_there_is_nothing_to_undo_needs_no_compensation():
    assert step_from_object(Note()).compensate is None

    class Bare:
        name = "bare"
        execute = staticmethod(nothing)
        compensatable = False

    assert step_from_object(Bare()).compensate is None


def test_a_missing_compensation_is_left_to_the_lint():
    class Bare:
        name = "bare"
        execute = staticmethod(nothing)

    assert step_from_object(Bare()).compensate is None
    assert "SAGA003" in broken(steps=(step_from_object(Bare()),))


def test_a_step_definition_is_a_step_already():
    built = step("a")
    assert step_from_object(built) is built


@pytest.mark.parametrize(
    "option",
    [
        {"compensatable": False},
        {"retry": TWICE},
        {"compensation_retry": TWICE},
        {"fatal_on": ()},
        {"in_doubt_on": ()},
        {"when": poor},
        *({name: given} for name, _, given in FLOW),
    ],
    ids=lambda option: next(iter(option)),
)
def test_the_options_of_a_step_definition_are_in_it(option):
    with pytest.raises(DefinitionError, match=r"^SAGA005 step a is defined; its options are in it"):
        step_from_object(step("a"), **option)


def test_an_object_without_name_or_execute_is_no_step():
    class Nameless:
        name = 7
        execute = staticmethod(nothing)

    class Idle:
        name = "idle"

    with pytest.raises(DefinitionError, match=r"^SAGA005 .*Nameless has no name: str$"):
        step_from_object(Nameless())
    with pytest.raises(DefinitionError, match=r"^SAGA005 object has no name: str$"):
        step_from_object(object())
    with pytest.raises(DefinitionError, match=r"^SAGA005 step idle has no execute$"):
        step_from_object(Idle())


def test_a_saga_has_at_most_a_hundred_steps():
    steps = tuple(step(f"s{n}") for n in range(101))
    SagaDefinition(name="wide", steps=steps[:100])
    with pytest.raises(DefinitionError, match="SAGA011 101 steps; at most 100"):
        SagaDefinition(name="wide", steps=steps)
