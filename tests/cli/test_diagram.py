from __future__ import annotations

from saga_cli.diagram import flowchart
from saga_cli.problems import Exit
from saga_core import RetryPolicy, Saga, SagaDefinition


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
    drawn = flowchart(shop()).splitlines()
    assert drawn[0] == "flowchart LR"
    assert "  begin --> step1 --> step2 --> step3 --> completed" in drawn
    assert "  undo2 --> compensated" in drawn
    assert '  step2["pay<br/>up to 2 attempts"]' in drawn
    assert '  undo2["refund<br/>up to 5 attempts"]' in drawn
    assert '  begin(["shop @7"])' in drawn


def test_a_step_turns_round_at_what_may_have_happened():
    drawn = flowchart(shop()).splitlines()
    assert "  step1 -. fails .-> compensated" in drawn
    assert "  step2 -. failed .-> compensated" in drawn
    assert "  step2 -. in doubt .-> undo2" in drawn
    assert "  step3 -. fails .-> undo2" in drawn


def test_a_saga_with_nothing_to_undo_cannot_fail_undoing():
    saga = Saga("look")

    @saga.step(compensatable=False)
    def look(ctx: object) -> None: ...

    assert "FAILED" not in flowchart(saga.build())


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
