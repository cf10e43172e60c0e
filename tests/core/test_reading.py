"""Rules that read source. Every handler here is read, and none of them is called."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import os
import random
import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from random import choice
from types import FunctionType, MethodType, ModuleType
from typing import Any
from uuid import uuid4 as fresh

import pytest

from saga_core.authoring import Saga, steps
from saga_core.definition import Finding, Handler, SagaDefinition, Severity, StepDefinition
from saga_core.reading import Place, lint_source, place

Ctx = Any
Call = Any
Body = Callable[..., object]
bank: Any = None  # a service; nobody calls it


def idle(ctx: Ctx) -> None:
    """Do nothing."""


def of(name: str, execute: Body, undo: Body | None = None, **options: Any) -> StepDefinition:
    return StepDefinition(
        name=name,
        execute=Handler.of(execute),
        compensate=Handler.of(undo) if undo is not None else None,
        compensatable=undo is not None,
        **options,
    )


def read(*of_steps: StepDefinition, context: type | None = None) -> tuple[Finding, ...]:
    return lint_source(SagaDefinition(name="s", steps=of_steps, context_type=context))


def rules(*of_steps: StepDefinition, context: type | None = None) -> list[str]:
    return [f.rule for f in read(*of_steps, context=context)]


def line_of(finding: Finding) -> str:
    assert finding.path == __file__
    assert finding.line is not None
    return Path(__file__).read_text().splitlines()[finding.line - 1].strip()


# -- SAGA103: an undo that reads what only its own step writes -------------------------


def charge(ctx: Ctx, call: Call) -> None:
    ctx.payment = bank.charge(ctx.card, key=call.idempotency_key)


def charge_item(ctx: Ctx, call: Call) -> None:
    ctx["payment"] = bank.charge(ctx["card"], key=call.idempotency_key)


def refund(ctx: Ctx) -> None:
    bank.log("refund")
    bank.refund(ctx.payment)
    bank.log(ctx.payment)


def refund_item(ctx: Ctx) -> None:
    bank.refund(ctx["payment"])


def test_an_undo_that_needs_what_was_not_saved():
    (found,) = read(of("charge", charge, refund))
    assert (found.rule, found.severity, found.step) == ("SAGA103", Severity.WARNING, "charge")
    assert found.message == (
        "its undo reads ctx.payment, which no step before it writes: "
        "in doubt it was not saved; find the effect by call.execute_key"
    )
    assert line_of(found) == "bank.refund(ctx.payment)"


def writes_in_two(ctx: Ctx) -> None:
    ctx.payment, ctx.receipt = bank.charge()


def writes_annotated(ctx: Ctx) -> None:
    ctx.payment: str = bank.charge()  # type: ignore[misc]  # Python allows it


def writes_under_with(ctx: Ctx) -> None:
    with bank.open() as ctx.payment:
        pass


def writes_by_name(ctx: Ctx) -> None:
    setattr(ctx, "payment", bank.charge())  # noqa: B010 - what is read here


def writes_a_copy(ctx: Ctx) -> object:
    return dataclasses.replace(ctx, payment=bank.charge())


def writes_a_copy_by_short_name(ctx: Ctx) -> object:
    replace: Any = dataclasses.replace
    return replace(ctx, payment=bank.charge(), **bank.more())


def writes_a_models_copy(ctx: Ctx) -> object:
    return ctx.model_copy(deep=True, update={"payment": bank.charge()})


def writes_a_union(ctx: Ctx) -> object:
    return ctx | {"payment": bank.charge()}


def writes_a_display(ctx: Ctx) -> object:
    return {**ctx, **bank.more(), bank.name: 1, "payment": bank.charge()}


def updates(ctx: Ctx) -> None:
    ctx.update({"payment": bank.charge()})


def updates_by_keyword(ctx: Ctx) -> None:
    ctx.update(payment=bank.charge(), **bank.more())


def sets_a_default(ctx: Ctx) -> None:
    ctx.setdefault("payment", bank.charge())


async def writes_async(ctx: Ctx) -> None:
    async with bank.session() as session:
        ctx.payment = await session.charge()


def writes_within(ctx: Ctx) -> None:
    def note() -> None:
        ctx.payment = bank.charge()

    note()


@pytest.mark.parametrize(
    "execute",
    [
        charge,
        charge_item,
        writes_in_two,
        writes_annotated,
        writes_under_with,
        writes_by_name,
        writes_a_copy,
        writes_a_copy_by_short_name,
        writes_a_models_copy,
        writes_a_union,
        writes_a_display,
        updates,
        updates_by_keyword,
        sets_a_default,
        writes_async,
        writes_within,
        lambda ctx: setattr(ctx, "payment", bank.charge()),
    ],
)
def test_every_way_to_write_a_field(execute):
    assert rules(of("charge", execute, refund)) == ["SAGA103"]


def gets(ctx: Ctx) -> None:
    bank.refund(ctx.get("payment"))


def gets_by_name(ctx: Ctx) -> None:
    bank.refund(getattr(ctx, "payment", None))


def gets_inside(ctx: Ctx) -> None:
    bank.refund(ctx.payment.lines[0])


def asks_first(ctx: Ctx) -> None:
    if ctx.payment is not None:
        bank.refund(bank.last())


def takes_the_call(ctx: Ctx, call: Call) -> None:
    bank.refund(ctx.payment, key=call.idempotency_key, by=call.deadline)


def resets(ctx: Ctx) -> None:
    bank.refund(ctx.payment)
    ctx.payment = None
    ctx.payment = ""


def refunds_itself(ctx: Ctx) -> None:
    ctx.payment = bank.refund(ctx.payment)


class Called:
    def __call__(self, ctx: Ctx) -> None:
        bank.refund(ctx.payment)


class CalledElsewhere:
    def __call__(self, service: str, ctx: Ctx, call: Call) -> None:
        bank.refund(service, ctx.payment, call.fence)


class Refund(Called):
    def at(self, service: str, ctx: Ctx, call: Call) -> None:
        bank.refund(service, ctx.payment, call.fence)

    def with_call(self, ctx: Ctx, call: Call) -> None:
        bank.refund(ctx.payment, call.fence)

    def method(self, ctx: Ctx) -> None:
        bank.refund(ctx.payment)

    @staticmethod
    def static(ctx: Ctx) -> None:
        bank.refund(ctx.payment)

    @classmethod
    def of_class(cls, ctx: Ctx) -> None:
        bank.refund(ctx.payment)


def refund_at(place_: str, service: str, ctx: Ctx) -> None:
    bank.refund(place_, service, ctx.payment)


def logged(function: Body) -> Body:
    @functools.wraps(function)
    def wrapper(*args: object) -> object:
        return function(*args)

    return wrapper


@logged
def refund_logged(ctx: Ctx) -> None:
    bank.refund(ctx.payment)


@pytest.mark.parametrize(
    "undo",
    [
        refund,
        refund_item,
        gets,
        gets_by_name,
        gets_inside,
        asks_first,
        takes_the_call,
        resets,
        refunds_itself,
        Refund(),
        Refund().method,
        Refund.static,
        Refund.of_class,
        functools.partial(refund_at, "here", "there"),
        Refund().with_call,
        functools.partial(Refund().at, "here"),
        functools.partial(CalledElsewhere(), "here"),
        MethodType(functools.partial(refund_at, "here"), "there"),
        refund_logged,
        pytest.param(functools.lru_cache(refund), id="cached"),
        lambda ctx: bank.refund(ctx.payment),
    ],
)
def test_every_way_to_read_a_field(undo):
    assert rules(of("charge", charge, undo)) == ["SAGA103"]


def finds_it(ctx: Ctx, call: Call) -> None:
    bank.refund(ctx.payment or "", key=call.execute_key)


def asks_for_doubt(ctx: Ctx, call: Call) -> None:
    bank.refund(bank.find(ctx.card) if call.in_doubt else ctx.payment)


def hands_the_call_on(ctx: Ctx, call: Call) -> None:
    bank.refund(ctx.payment, call)


def looks_it_up(ctx: Ctx) -> None:
    ctx.payment = bank.find(ctx.card)
    bank.refund(ctx.payment)
    ctx.payment = None


def needs_the_input(ctx: Ctx) -> None:
    bank.refund(ctx.card, ctx)


def needs_what_is_not_known(ctx: Ctx) -> None:
    bank.refund(ctx[bank.name], ctx.get(bank.name), getattr(ctx, bank.name), ctx.get(1))
    bank.refund(ctx.get(bank), getattr(ctx, bank), ctx.get())


def only_clears(ctx: Ctx) -> None:
    ctx.payment = None
    del ctx.payment


def reads_another(ctx: Ctx) -> None:
    bank.refund(bank.payment, bank.get("payment"), ctx.card.payment)


@pytest.mark.parametrize(
    "undo",
    [
        finds_it,
        asks_for_doubt,
        hands_the_call_on,
        looks_it_up,
        needs_the_input,
        needs_what_is_not_known,
        only_clears,
        reads_another,
    ],
)
def test_an_undo_that_can_do_without(undo):
    assert rules(of("charge", charge, undo)) == []


def counts(ctx: Ctx) -> None:
    ctx.payment += 1


def sends_it(ctx: Ctx) -> None:
    bank.send(payment=ctx.card)
    bank.update({"payment": ctx.card})
    bank.update(payment=1)
    bank.setdefault("payment", ctx.card)
    bank.replace(bank, payment=1)
    "payment".replace("a", "b")
    setattr(bank, "payment", 1)  # noqa: B010 - what is read here
    bank.send(bank | {"payment": 1}, {**bank.more(), "payment": 1}, {"payment": 1})
    bank.send(ctx.lines | bank.payment, ctx.setdefault(bank.name, 1), ctx.update(bank.more()))
    bank.model_copy(update={"payment": 1})
    ctx.model_copy(update=bank.more())
    ctx.model_copy({"payment": 1}, deep={"payment": 1})
    bank.payment = 1
    ctx.lines.payment = 1


@pytest.mark.parametrize("execute", [counts, sends_it, idle])
def test_a_field_that_the_step_does_not_set_is_the_inputs(execute):
    assert rules(of("charge", execute, refund)) == []


def test_a_field_that_a_step_before_sets_is_there():
    assert rules(of("quote", charge_item), of("charge", charge, refund)) == []
    assert rules(of("quote", counts), of("charge", charge, refund)) == []
    assert rules(of("charge", charge, refund), of("again", charge)) == ["SAGA103"]
    quote, books_first = of("quote", charge_item), of("book", books)
    assert rules(quote, books_first, of("charge", charge, refund)) == []


def test_a_field_that_a_child_saga_fills_is_there():
    child = SagaDefinition(name="child", steps=(of("a", idle),))
    quote = of("quote", idle, child=child, into="payment")
    assert rules(quote, of("charge", charge, refund)) == []
    quote = of("quote", idle, child=child, into="other")
    assert rules(quote, of("charge", charge, refund)) == ["SAGA103"]


def books(ctx: Ctx) -> None:
    ctx.booked["hotel"] = bank.book()


def unbooks(ctx: Ctx) -> None:
    bank.unbook(ctx.booked["hotel"])


def unbooks_all(ctx: Ctx) -> None:
    bank.unbook(ctx.booked, ctx.booked["flight"])


def clears_bookings(ctx: Ctx) -> None:
    ctx.booked = {}


def test_a_field_within_a_field():
    assert rules(of("book", books, unbooks)) == ["SAGA103"]
    assert rules(of("book", books, unbooks_all)) == []
    # What the whole holds is not known, so that a step before may have put it there.
    assert rules(of("begin", clears_bookings), of("book", books, unbooks)) == []


def adds_two(ctx: Ctx) -> None:
    ctx.payment = bank.charge()
    ctx.receipt = bank.receipt()


def needs_two(ctx: Ctx) -> None:
    bank.refund(ctx.receipt, ctx.payment, ctx.receipt)


def test_every_field_is_told_once():
    first, second = read(of("charge", adds_two, needs_two))
    assert "reads ctx.receipt," in first.message
    assert "reads ctx.payment," in second.message


def test_after_the_pivot_nothing_is_undone():
    pay = of("pay", idle, pivot=True)
    assert rules(of("charge", charge, refund), pay) == ["SAGA103"]
    assert rules(pay, of("charge", charge, refund)) == []


def test_a_pivot_in_doubt_may_be_undone():
    assert rules(of("charge", charge, refund, pivot=True)) == ["SAGA103"]


@dataclass
class Order:
    card: str
    payment: str
    lines: list[str] = field(default_factory=list)
    receipt: str | None = None


class Described:
    """A field as pydantic describes it."""

    def __init__(self, *, required: bool) -> None:
        self.required = required

    def is_required(self) -> bool:
        return self.required


class Model:
    """The shape of a pydantic model."""

    model_fields = {  # noqa: RUF012 - as pydantic has it
        "payment": Described(required=True),
        "receipt": Described(required=False),
    }


class Plain:
    pass


def writes_every_field(ctx: Ctx) -> None:
    ctx.payment = ctx.lines = ctx.receipt = bank.charge()


def needs_every_field(ctx: Ctx) -> None:
    bank.refund(
        ctx.payment,
        ctx.lines,
        ctx.receipt,
    )


@pytest.mark.parametrize(
    ("context", "told"),
    [
        (Order, ["ctx.lines,", "ctx.receipt,"]),
        (Model, ["ctx.lines,", "ctx.receipt,"]),
        (Plain, ["ctx.payment,", "ctx.lines,", "ctx.receipt,"]),
        (None, ["ctx.payment,", "ctx.lines,", "ctx.receipt,"]),
    ],
)
def test_a_field_that_the_input_must_have_is_there(context, told):
    found = read(of("charge", writes_every_field, needs_every_field), context=context)
    assert [f.message.split()[3] for f in found] == told


def makes_anew(ctx: Order) -> Order:
    return Order(
        ctx.card, payment=ctx.payment, lines=ctx.lines, receipt=bank.charge(), **bank.more()
    )


def makes_something_else(ctx: Order) -> object:
    return bank.Order(receipt=bank.charge())


def needs_the_receipt(ctx: Order) -> None:
    bank.refund(ctx.payment, ctx.lines, ctx.receipt)


def test_a_context_that_is_made_anew():
    (found,) = read(of("charge", makes_anew, needs_the_receipt), context=Order)
    assert "reads ctx.receipt," in found.message
    assert rules(of("charge", makes_anew, needs_the_receipt), context=Model) == []
    assert rules(of("charge", makes_anew, needs_the_receipt)) == []
    assert rules(of("charge", makes_something_else, needs_the_receipt), context=Order) == []


# -- SAGA104: a key made at random inside a handler ------------------------------------

dice = random.Random(7)
roll = random.random
ids = ModuleType("ids")
ids.make = uuid.uuid4  # type: ignore[attr-defined]  # a user's module
mine = ModuleType("mine")
mine.uuid4 = idle  # type: ignore[attr-defined]  # a user's function of that name


def by_uuid1(ctx: Ctx) -> None:
    bank.charge(key=str(uuid.uuid1()))


def by_uuid4(ctx: Ctx) -> None:
    bank.charge(key=uuid.uuid4().hex)


def by_a_later_python(ctx: Ctx) -> None:
    bank.charge(key=uuid.uuid7())  # type: ignore[attr-defined]  # from 3.14 on


def by_another_name(ctx: Ctx) -> None:
    bank.charge(key=f"{ctx.card}-{fresh()}")


def by_own_import(ctx: Ctx) -> None:
    from uuid import uuid4

    bank.charge(key=str(uuid4()))


def by_own_import_renamed(ctx: Ctx) -> None:
    from uuid import uuid4 as u

    bank.charge(key=str(u()))


def by_own_module(ctx: Ctx) -> None:
    import os.path
    import uuid as u

    bank.charge(key=u.uuid4(), salt=os.path.sep)


def by_system(ctx: Ctx) -> None:
    bank.charge(key=os.urandom(16))


def by_own_system(ctx: Ctx) -> None:
    import os.path

    bank.charge(key=os.urandom(16), salt=os.path.sep)


def by_secrets(ctx: Ctx) -> None:
    key = secrets.token_hex(8)
    bank.charge(key=key)


def by_secret_choice(ctx: Ctx) -> None:
    bank.charge(key=secrets.choice("abc"))


def by_randbelow(ctx: Ctx) -> None:
    bank.charge(key=secrets.randbelow(9))


def by_random(ctx: Ctx) -> None:
    bank.charge(key=random.random())


def by_choice(ctx: Ctx) -> None:
    bank.charge(key=choice("abc"))


def by_bits(ctx: Ctx) -> None:
    bank.charge(key=random.getrandbits(64))


def by_roll(ctx: Ctx) -> None:
    bank.charge(key=roll())


def by_dice(ctx: Ctx) -> None:
    bank.charge(key=dice.randint(1, 6))


def by_new_dice(ctx: Ctx) -> None:
    bank.charge(key=random.Random().random())


def by_system_dice(ctx: Ctx) -> None:
    bank.charge(key=random.SystemRandom().random())


def by_a_users_module(ctx: Ctx) -> None:
    bank.charge(key=ids.make())


def by_two(ctx: Ctx) -> None:
    ctx.salt = random.Random().random()
    ctx.salt = bank.salt(random.Random().random())


def in_a_function_within(ctx: Ctx) -> None:
    def key() -> str:
        return str(uuid.uuid4())

    bank.charge(key=key())


def before_it_is_saved(ctx: Ctx) -> None:
    ctx.key = str(uuid.uuid4())
    bank.charge(key=ctx.key)


def with_an_effect_while_saved(ctx: Ctx) -> None:
    ctx.payment = bank.charge(key=str(uuid.uuid4()))


def handed_on_before_it_is_saved(ctx: Ctx) -> None:
    ctx.key = str(uuid.uuid4())
    bank.charge(ctx)


def kept_in_a_name_too(ctx: Ctx) -> None:
    key = ctx.key = str(uuid.uuid4())
    bank.charge(key=key)


def _closed_over() -> Body:
    make = uuid.uuid4

    def handler(ctx: Ctx) -> None:
        bank.charge(key=make())

    return handler


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (by_uuid1, "uuid.uuid1"),
        (by_uuid4, "uuid.uuid4"),
        (by_a_later_python, "uuid.uuid7"),
        (by_another_name, "uuid.uuid4"),
        (by_own_import, "uuid.uuid4"),
        (by_own_import_renamed, "uuid.uuid4"),
        (by_own_module, "uuid.uuid4"),
        (by_system, "os.urandom"),
        (by_own_system, "os.urandom"),
        (by_secrets, "secrets.token_hex"),
        (by_secret_choice, "random.choice"),
        (by_randbelow, "secrets.randbelow"),
        (by_random, "random.random"),
        (by_choice, "random.choice"),
        (by_bits, "random.getrandbits"),
        (by_roll, "random.random"),
        (by_dice, "random.randint"),
        (by_new_dice, "random.Random"),
        (by_system_dice, "random.SystemRandom"),
        (by_a_users_module, "uuid.uuid4"),
        (by_two, "random.Random"),
        (in_a_function_within, "uuid.uuid4"),
        (before_it_is_saved, "uuid.uuid4"),
        (with_an_effect_while_saved, "uuid.uuid4"),
        (handed_on_before_it_is_saved, "uuid.uuid4"),
        (kept_in_a_name_too, "uuid.uuid4"),
        (_closed_over(), "uuid.uuid4"),
    ],
)
def test_a_key_made_at_random(handler, name):
    (found,) = read(of("charge", handler))
    assert (found.rule, found.severity, found.step) == ("SAGA104", Severity.WARNING, "charge")
    assert found.message == (
        f"{name}() is another value at every attempt; take keys from call.idempotency_key"
    )


def test_a_key_made_at_random_in_an_undo():
    (found,) = read(of("charge", idle, by_secrets))
    assert line_of(found) == "key = secrets.token_hex(8)"


def by_a_namesake(ctx: Ctx) -> None:
    bank.charge(key=mine.uuid4(ctx), by=bank.uuid4(), at=bank.random.random())


def by_a_parameter(uuid: Ctx) -> None:
    bank.charge(key=uuid.uuid4())


def by_a_local(ctx: Ctx) -> None:
    fresh = bank.next_key
    bank.charge(key=fresh())


def by_functions_of_its_own(ctx: Ctx) -> None:
    def fresh() -> str:
        return "1"

    async def choice() -> str:
        return "2"

    class roll:  # noqa: N801 - named like the one outside
        pass

    bank.charge(key=fresh(), two=choice(), three=roll(), four=[dice() for dice in ctx.lines])


def by_derivation(ctx: Ctx) -> None:
    bank.charge(key=uuid.uuid5(uuid.NAMESPACE_URL, ctx.card))


def by_seed(ctx: Ctx) -> None:
    bank.charge(key=random.Random(ctx.card).random(), more=random.Random(x=ctx.card).random())


def without_a_call(ctx: Ctx) -> None:
    bank.charge(make=uuid.uuid4, compare=secrets.compare_digest("a", "b"))
    random.seed(1)
    bank.charge(random.getstate())


def for_a_pause(ctx: Ctx) -> None:
    time.sleep(random.random())
    time.sleep(1 + random.randint(1, 6))


async def for_an_async_pause(ctx: Ctx) -> None:
    await asyncio.sleep(random.uniform(0, 1))


def for_a_later_step(ctx: Ctx) -> Ctx:
    ctx.key = str(uuid.uuid4())
    ctx.salt = ctx.salt or secrets.token_hex(8)
    bank.charge(ctx.card)
    return ctx


def for_a_later_step_as_text(ctx: Ctx) -> None:
    ctx.one = uuid.uuid4().hex.upper()
    ctx.two = "".join(secrets.choice("abc") for _ in range(8))
    ctx.three = f"{random.random()}".lower()
    ctx.four = random.Random().random()


def for_a_later_step_only(ctx: Ctx) -> None:
    ctx["keys"]["charge"] = ctx["keys"]["refund"] = f"{uuid.uuid4().hex}"


def in_a_name_that_is_nowhere(ctx: Ctx) -> None:
    bank.charge(key=nowhere())  # type: ignore[name-defined]  # noqa: F821 - that is the case


def _never_closed_over() -> Body:
    def handler(ctx: Ctx) -> None:
        bank.charge(key=late())

    if bank is not None:  # so that there is a cell, and it stays empty
        late = uuid.uuid4
    return handler


@pytest.mark.parametrize(
    "handler",
    [
        by_a_namesake,
        by_a_parameter,
        by_a_local,
        by_functions_of_its_own,
        by_derivation,
        by_seed,
        without_a_call,
        for_a_pause,
        for_an_async_pause,
        for_a_later_step,
        for_a_later_step_as_text,
        for_a_later_step_only,
        in_a_name_that_is_nowhere,
        _never_closed_over(),
    ],
)
def test_what_is_no_key_made_at_random(handler):
    assert rules(of("charge", handler)) == []


class Proxy:
    """Opens a connection when it is looked at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError(name)


proxy: Any = Proxy()


def through_a_proxy(ctx: Ctx) -> None:
    proxy.uuid4()
    proxy()


def test_a_users_objects_are_not_touched():
    assert rules(of("charge", through_a_proxy)) == []


# -- SAGA105: a key made of the clock --------------------------------------------------


now = datetime.now


def dated(ctx: Ctx) -> None:
    bank.charge(idempotency_key=f"{ctx.card}-{time.time()}")


def dated_in_nanoseconds(ctx: Ctx) -> None:
    bank.charge(amount=ctx.amount, ClientRequestToken=str(time.time_ns()))


def dated_by_now(ctx: Ctx) -> None:
    key = f"{ctx.card}-{datetime.now().isoformat()}"  # noqa: DTZ005 - as one finds it
    bank.charge(key)


def dated_by_day(ctx: Ctx) -> None:
    bank.send(MessageDeduplicationId=date.today().isoformat())  # noqa: DTZ011 - as one finds it


def dated_by_another_name(ctx: Ctx) -> None:
    bank.charge(key=f"{now():%H}")


def dated_by_own_import(ctx: Ctx) -> None:
    import datetime as dt

    bank.charge(token=dt.datetime.utcnow())  # noqa: DTZ003 - as one finds it


@pytest.mark.parametrize(
    ("handler", "name"),
    [
        (dated, "time.time"),
        (dated_in_nanoseconds, "time.time_ns"),
        (dated_by_now, "datetime.datetime.now"),
        (dated_by_day, "datetime.date.today"),
        (dated_by_another_name, "datetime.datetime.now"),
        (dated_by_own_import, "datetime.datetime.utcnow"),
    ],
)
def test_a_key_made_of_the_clock(handler, name):
    (found,) = read(of("charge", handler))
    assert (found.rule, found.severity, found.step) == ("SAGA105", Severity.WARNING, "charge")
    assert found.message == (
        f"a key made with {name}() is another one at every attempt; "
        "take keys from call.idempotency_key"
    )


def test_where_a_key_is_made_of_the_clock():
    (found,) = read(of("charge", idle, dated))
    assert line_of(found) == 'bank.charge(idempotency_key=f"{ctx.card}-{time.time()}")'


def clocked(ctx: Ctx) -> None:
    began = time.time()
    ctx.at, key = datetime.now(), ctx.card  # noqa: DTZ005 - as one finds it
    bank.charge(key, at=time.time(), keyboard=time.time(), **bank.more())
    bank.charge(key=time.monotonic, token=time.strftime("%Y"), monkey=time.time())
    bank.log(time.time() - began)


def test_a_clock_may_be_read_for_other_things():
    assert rules(of("charge", clocked)) == []


# -- what cannot be read ---------------------------------------------------------------


def both(ctx: Ctx) -> None:
    ctx.payment = bank.charge(key=str(uuid.uuid4()))


def test_findings_stand_in_the_order_of_their_rules():
    found = read(of("a", dated, by_random), of("b", both, refund))
    assert [f.rule for f in found] == ["SAGA103", "SAGA104", "SAGA104", "SAGA105"]


@pytest.fixture
def written(tmp_path: Path) -> Callable[[str], dict[str, Any]]:
    """A user's module; what it defines by name."""

    def write(text: str) -> dict[str, Any]:
        path = tmp_path / "written.py"
        path.write_text(text)
        space: dict[str, Any] = {"__name__": "written"}
        exec(compile(text, str(path), "exec"), space)
        return space

    return write


RANDOM = "import random\n\ndef handler(ctx):\n    ctx.send(random.random())\n"


def test_a_file_is_read_as_it_is(written, tmp_path):
    handler = written(RANDOM)["handler"]
    (found,) = read(of("a", handler))
    assert (found.path, found.line) == (str(tmp_path / "written.py"), 4)


@pytest.mark.parametrize("now", ["import random\n\ndef handler(ctx:\n", "# moved\n" + RANDOM, None])
def test_a_file_that_has_changed_since_is_passed_over(written, tmp_path, now):
    handler = written(RANDOM)["handler"]
    path = tmp_path / "written.py"
    path.write_text(now) if now is not None else path.unlink()
    assert rules(of("a", handler)) == []


@pytest.mark.parametrize(
    "body",
    ["import os.path\n    ctx.send(os.urandom(1))", "import uuid\n    ctx.send(uuid.uuid4())"],
    ids=["package", "module"],
)
def test_what_only_the_handler_imports_is_known(written, body):
    assert rules(of("a", written(f"def handler(ctx):\n    {body}\n")["handler"])) == ["SAGA104"]


def test_two_lambdas_on_a_line_are_passed_over(written):
    space = written("import random\nboth = (lambda ctx: random.random()), (lambda ctx: 1)\n")
    assert rules(of("a", space["both"][0])) == []


def test_a_lambda_among_other_lines_is_read(written):
    space = written("import random\nh = dict(\n    one=lambda ctx: random.random(),\n    two=1)\n")
    assert [f.line for f in read(of("a", space["h"]["one"]))] == [3]


def typed_in() -> Body:
    space: dict[str, Any] = {}
    exec(RANDOM, space)
    handler: Body = space["handler"]
    return handler


class Takes:
    def __init__(self, ctx: Ctx) -> None:
        self.key = random.random()


@pytest.mark.parametrize("handler", [typed_in(), Takes, repr])
def test_what_has_no_source_is_passed_over(handler):
    assert rules(of("a", handler)) == []
    assert rules(of("a", charge, handler)) == []
    assert rules(of("a", handler, by_random)) == ["SAGA104"]


def by_service(service: Any, ctx: Ctx) -> None:
    service.charge(key=random.random())


def rewired(ctx: Ctx) -> None:
    by_service(bank, ctx)


def test_a_decorator_that_calls_in_another_way_is_passed_over():
    handler = Handler(functools.update_wrapper(rewired, by_service), takes_call=False)
    step = StepDefinition(name="a", execute=handler, compensatable=False)
    assert lint_source(SagaDefinition(name="s", steps=(step,))) == ()


# -- places ----------------------------------------------------------------------------


def line(function: FunctionType) -> int:
    return function.__code__.co_firstlineno


def test_where_a_handler_is_written():
    assert place(charge) == Place(__file__, line(charge))  # type: ignore[arg-type]  # a def is one
    assert place(Refund()) == Place(__file__, line(Called.__call__))  # type: ignore[arg-type]
    assert place(Refund().method) == Place(__file__, line(Refund.method))  # type: ignore[arg-type]


def test_a_place_begins_with_the_decorators():
    found = place(refund_logged)
    assert found is not None
    assert Path(found.path).read_text().splitlines()[found.line - 1] == "@logged"


def test_a_step_in_decorator_style_is_where_its_function_is():
    saga = Saga("s")
    assert place(saga.step(charge)) == place(charge)


def test_a_step_in_class_style_is_where_its_methods_are():
    class Pay:
        name = "pay"

        def execute(self, ctx: Ctx) -> None:
            ctx.payment = bank.charge()

        def compensate(self, ctx: Ctx) -> None:
            bank.refund(ctx.payment)

    (found,) = lint_source(SagaDefinition(name="s", steps=steps(Pay())))
    assert line_of(found) == "bank.refund(ctx.payment)"


@pytest.mark.parametrize("handler", [typed_in(), len, dict])
def test_what_is_in_no_file_has_no_place(handler):
    assert place(handler) is None
