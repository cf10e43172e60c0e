from __future__ import annotations

import json
import time
from datetime import timedelta
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from examples.purchase import purchase
from saga_cli.diagram.mermaid import mermaid
from saga_cli.diagram.picture import picture
from saga_cli.diagram.svg import _Drawing, svg
from saga_cli.local.clock import VirtualClock
from saga_cli.local.stack import LocalStack
from saga_cli.problems import Exit
from saga_core import AwaitAnswer, RetryPolicy, Saga, SagaDefinition, SagaState


def shop() -> SagaDefinition:
    saga = Saga("shop", version="7")

    @saga.step(compensatable=False)
    def look(ctx: object) -> None: ...

    @saga.step(retry=RetryPolicy(max_attempts=2))
    def pay(ctx: object) -> None: ...

    @pay.compensate(retry=RetryPolicy(max_attempts=5))
    def refund(ctx: object) -> None: ...

    @saga.step(compensatable=False)
    def mail(ctx: object) -> None: ...

    return saga.build()


def test_the_flow_goes_forward_and_back():
    drawn = mermaid(picture(shop())).splitlines()
    assert drawn[0] == "flowchart LR"
    assert "  begin --> step1 --> step2 --> step3 --> completed" in drawn
    assert "  undo2 --> compensated" in drawn
    assert '  step2["pay<br/>up to 2 attempts"]' in drawn
    assert '  undo2("refund<br/>up to 5 attempts")' in drawn
    assert '  begin(["shop @7"])' in drawn


def test_a_step_turns_round_at_what_may_have_happened():
    drawn = mermaid(picture(shop())).splitlines()
    assert "  step1 -. fails .-> compensated" in drawn
    assert "  step2 -. failed .-> compensated" in drawn
    assert "  step2 -. in doubt .-> undo2" in drawn
    assert "  step3 -. fails .-> undo2" in drawn


def test_a_saga_with_nothing_to_undo_cannot_fail_undoing():
    saga = Saga("look")

    @saga.step(compensatable=False)
    def look(ctx: object) -> None: ...

    assert "FAILED" not in mermaid(picture(saga.build()))


def test_the_command_draws_every_saga_that_is_named(saga):
    ran = saga("diagram", "examples.order:order,examples.travel:travel")
    assert ran.exit == Exit.OK
    assert ran.out.count("flowchart LR") == 2
    assert '"undo hotel<br/>up to 3 attempts"' in ran.out


def test_json(saga):
    (drawn,) = saga("diagram", "examples.order:order", "--json").json
    assert drawn["definition"].startswith("order@1#")
    assert drawn["mermaid"].startswith("flowchart LR\n")


def test_what_cannot_be_built_is_status_1(saga):
    ran = saga("diagram", "examples.order:nothing")
    assert ran.exit == Exit.NO
    assert ran.err.startswith("saga: ")
    assert len(ran.err.splitlines()) == 1


def everything() -> SagaDefinition:
    """Every construct."""
    pay = Saga("pay", version="3")

    @pay.step(compensatable=False)
    def capture(ctx: object) -> None: ...

    saga = Saga("everything", timeout=timedelta(days=9))

    @saga.step(group="hold", retry=RetryPolicy(max_attempts=2))
    def goods(ctx: object) -> None: ...

    @goods.compensate
    def put_back(ctx: object) -> None: ...

    @saga.step(group="hold", compensatable=False)
    def look(ctx: object) -> None: ...

    @saga.step(group="hold", timeout=timedelta(seconds=9))
    def money(ctx: object) -> None: ...

    @money.compensate
    def let_go(ctx: object) -> None: ...

    saga.child(pay, name="pay", when=lambda ctx: True, delay=timedelta(hours=3))(lambda ctx: {})

    @saga.step(compensatable=False)
    def approve(ctx: object) -> AwaitAnswer:
        return AwaitAnswer(timeout=timedelta(days=1))

    @saga.step(pivot=True)
    def commit(ctx: object) -> None: ...

    @commit.compensate
    def uncommit(ctx: object) -> None: ...

    @saga.step(compensatable=False, delay=timedelta(minutes=90))
    def mail(ctx: object) -> None: ...

    return saga.build()


def test_every_construct_is_drawn():
    drawn = mermaid(picture(everything())).splitlines()
    for line in (
        '  subgraph group1["hold: side by side"]',
        '    step3["money<br/>9 s at most"]',
        '  step4[["pay<br/>the saga pay @3<br/>when #lt;lambda#gt;<br/>3 h later"]]',
        '  step5["approve<br/>waits for an answer"]',
        '  step6{{"commit<br/>no return once it is done"}}',
        '  step7["mail<br/>90 min later<br/>until it succeeds"]',
        '  subgraph back1["newest start first"]',
        '  undo4("cancel or undo pay<br/>up to 3 attempts")',
        "  begin --> group1 --> step4 --> step5 --> step6 --> step7 --> completed",
        "  undo6 --> undo4 --> back1 --> compensated",
        "  group1 -. one fails .-> back1",
        "  step4 -. failed .-> back1",
        "  step4 -. in doubt .-> undo4",
        "  step5 -. fails .-> undo4",
        "  step6 -. in doubt .-> undo6",
        "  step7 -. fatal .-> failed",
        "  undo6 -. spent .-> failed",
    ):
        assert line in drawn


def test_a_pivot_in_doubt_that_has_no_undo_is_a_person_s_business():
    drawn = mermaid(picture(purchase.build())).splitlines()
    assert "  step4 -. in doubt .-> failed" in drawn
    assert "  step4 -. failed .-> undo3" in drawn


@pytest.mark.parametrize(
    "definition", [shop(), everything(), purchase.build()], ids=lambda d: d.name
)
def test_nothing_lies_on_anything_else_nor_outside(definition):
    drawing = _Drawing(picture(definition))
    boxes = list(drawing.spots.values())
    width, height = drawing.size
    for n, a in enumerate(boxes):
        assert a.x >= 0
        assert a.y >= 0
        assert a.right <= width
        assert a.bottom <= height
        for b in boxes[:n]:
            assert a.right <= b.x or b.right <= a.x or a.bottom <= b.y or b.bottom <= a.y


def test_an_svg_is_a_document_of_its_own_with_every_line_in_it():
    drawn = svg(picture(everything()))
    root = ET.fromstring(drawn)
    told = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    boxes = [
        b for s in (*picture(everything()).forward, *picture(everything()).back) for b in s.boxes
    ]
    assert told >= {line for box in boxes for line in box.lines}
    assert "when <lambda>" in told
    assert "href" not in drawn


def test_the_picture_in_the_guide_is_what_the_command_draws():
    """If this fails on purpose: `saga diagram … --format svg`, and look at it."""
    committed = Path(__file__).parents[2] / "docs" / "purchase.svg"
    assert committed.read_text(encoding="utf-8") == svg(picture(purchase.build())) + "\n"


# -- one saga ------------------------------------------------------------------------

TEA = {"sku": "tea", "amount": 700}
PURCHASE = "examples.purchase:purchase"


@pytest.fixture
def stack():
    """The stack, with the purchase deployed, begun now: the commands have the machine's clock."""
    clock = VirtualClock(now_ms=time.time_ns() // 1_000_000)
    with LocalStack(f"{PURCHASE},examples.order:order", clock=clock) as running:
        yield running


@pytest.fixture
def here(here):
    return [*here, "--definitions", f"{PURCHASE},examples.order:order"]


@pytest.fixture
def there(here):
    """The words that say where, for a command that is given its definition by itself."""
    return here[:-2]


def deliver(stack: LocalStack) -> None:
    """All that can be done without waiting."""
    while stack.step() is not None:
        pass


def classes(drawn: str) -> dict[str, str]:
    """The mark of each box."""
    lines = [line.split() for line in drawn.splitlines() if line.startswith("  class ")]
    return {box: mark for _, ids, mark in lines for box in ids.split(",")}


def test_a_saga_that_waits_shows_what_is_done_and_until_when_it_waits(saga, stack, here, there):
    started = saga("start", "purchase", "--context", json.dumps(TEA), "--json", *here).json
    deliver(stack)
    ran = saga("diagram", PURCHASE, "--saga", started["id"], *there)
    assert ran.exit == Exit.OK
    assert classes(ran.out) == {"step1": "done", "step2": "done", "step3": "waiting"}
    due = next(s for s in stack.http("GET", f"/sagas/{started['id']}").body["steps"] if s["due_at"])
    assert f"[waiting until {due['due_at']}]" in ran.out
    drawn = saga("diagram", PURCHASE, "--saga", started["id"], "--format", "svg", *there).out
    assert f"saga {started['id']} · RUNNING" in drawn
    assert 'class="box step waiting"' in drawn


def test_a_saga_that_went_back_shows_what_is_undone(saga, stack, here, there):
    started = saga("start", "purchase", "--context", json.dumps(TEA), "--json", *here).json
    deliver(stack)
    saga("cancel", started["id"], *here)
    deliver(stack)
    assert stack.saga(started["id"]).state is SagaState.COMPENSATED
    marks = classes(saga("diagram", PURCHASE, "--saga", started["id"], *there).out)
    assert marks == {
        "step1": "undone",
        "step2": "undone",
        "step3": "undone",
        "undo1": "done",
        "undo2": "done",
        "undo3": "done",
        "compensated": "undone",
    }


def test_a_saga_of_another_definition_is_not_drawn(saga, stack, here, there):
    started = saga("start", "purchase", "--context", json.dumps(TEA), "--json", *here).json
    ran = saga("diagram", "examples.order:order", "--saga", started["id"], *there)
    assert ran.exit == Exit.NOT_ALLOWED
    assert "purchase@1#" in ran.err
    assert saga("diagram", PURCHASE, "--saga", "nobody", *there).exit == Exit.NOT_FOUND


def test_an_svg_document_holds_one_saga(saga):
    ran = saga("diagram", "examples.order:order,examples.travel:travel", "--format", "svg")
    assert ran.exit == Exit.USAGE
