from __future__ import annotations

import io
import json
from dataclasses import replace

import boto3
import pytest

from examples.services import ServiceError
from saga_cli.problems import Exit
from saga_core import SagaState

TEA = '{"sku": "tea", "quantity": 2}'


@pytest.fixture
def failed(stack, the_world):
    """A saga that is FAILED: its refund does not work."""
    the_world.refuse("shipping.ship", ServiceError("no carrier"))
    the_world.break_down("payments.refund", ServiceError("down"))
    saga_id = stack.http("POST", "/sagas/order", {"sku": "tea"}, key="k").body["id"]
    stack.run_until_quiet()
    assert stack.saga(saga_id).state is SagaState.FAILED
    return saga_id


# -- start ----------------------------------------------------------------------


def test_start_makes_a_saga_that_runs(saga, stack, here, the_world):
    ran = saga("start", "order", "--context", TEA, *here)
    assert ran.exit == Exit.OK
    saga_id = ran.out.split()[1]
    stack.run_until_quiet()
    assert stack.saga(saga_id).state is SagaState.COMPLETED
    assert the_world.shelf["tea"] == 98


def test_start_shows_what_the_api_shows(saga, stack, here):
    started = saga("start", "order", "--context", TEA, "--json", *here).json
    assert stack.http("GET", f"/sagas/{started['id']}").body == started


@pytest.mark.usefixtures("stack")
def test_the_same_key_finds_the_same_saga(saga, here):
    first = saga("start", "order", "--context", TEA, "--idempotency-key", "k", *here)
    again = saga("start", "order", "--context", TEA, "--idempotency-key", "k", *here)
    assert again.exit == Exit.OK
    assert again.out == first.out
    assert "stood under this key already" in again.err
    other = saga("start", "order", "--context", '{"sku": "x"}', "--idempotency-key", "k", *here)
    assert other.exit == Exit.NOT_ALLOWED
    assert "another input" in other.err


@pytest.mark.usefixtures("stack")
def test_without_a_key_every_start_is_a_new_saga(saga, here):
    ids = {saga("start", "order", "--context", TEA, *here).out.split()[1] for _ in range(2)}
    assert len(ids) == 2


@pytest.mark.usefixtures("stack")
def test_the_context_may_come_from_a_file_or_stdin(saga, here, tmp_path, monkeypatch):
    (tmp_path / "tea.json").write_text(TEA)
    ran = saga("start", "order", "--context-file", str(tmp_path / "tea.json"), "--json", *here)
    assert ran.json["context"]["quantity"] == 2
    monkeypatch.setattr("sys.stdin", io.StringIO(TEA))
    assert saga("start", "order", "--context", "-", "--json", *here).json["context"]["sku"] == "tea"


# -- get and list ---------------------------------------------------------------


def test_get_says_what_stands_and_what_to_do(saga, here, failed):
    shown = saga("get", failed, *here)
    assert shown.exit == Exit.OK
    assert "FAILED" in shown.out.splitlines()[0]
    assert "standing charge_card, reserve_stock, create_order" in shown.out
    assert "to do    Repair what keeps the compensation of charge_card" in shown.out
    assert "COMPENSATION_FAILED" in shown.out


def test_get_does_not_show_the_context_to_bystanders(saga, here, failed):
    assert "4242424242424242" not in saga("get", failed, *here).out
    assert "4242424242424242" in saga("get", failed, "--json", *here).out


def test_get_json_is_the_api_s(saga, stack, here, failed):
    assert saga("get", failed, "--json", *here).json == stack.http("GET", f"/sagas/{failed}").body


def test_list_pages_and_filters(saga, stack, here, failed):
    stack.http("POST", "/sagas/travel", {"hotel": "h", "flight": "f", "car": "c"}, key="t")
    assert len(saga("list", *here).out.splitlines()) == 3

    (only,) = saga("list", "--state", "FAILED", "--json", *here).json["sagas"]
    assert only["id"] == failed
    (trip,) = saga("list", "--name", "travel", "--json", *here).json["sagas"]
    assert trip["state"] == "CREATED"

    first = saga("list", "--limit", "1", *here)
    assert "there are more: --cursor " in first.err
    cursor = first.err.split()[-1]
    last = saga("list", "--limit", "1", "--cursor", cursor, "--json", *here).json
    assert [s["id"] for s in last["sagas"]] == [failed]


def test_another_tenant_sees_nothing(saga, here, failed):
    assert saga("get", failed, "--tenant", "other", *here).exit == Exit.NOT_FOUND
    assert saga("list", "--tenant", "other", "--json", *here).json["sagas"] == []
    assert saga("list", "--tenant", "a#b", *here).exit == Exit.USAGE


# -- resume, cancel, skip ---------------------------------------------------------


def test_resume_goes_on_after_the_repair(saga, stack, here, failed, the_world):
    the_world.repair("payments.refund")
    ran = saga("resume", failed, *here)
    assert ran.exit == Exit.OK
    assert "COMPENSATING" in ran.out
    stack.run_until_quiet()
    assert stack.saga(failed).state is SagaState.COMPENSATED
    assert the_world.standing() == []

    ended = saga("resume", failed, *here)
    assert ended.exit == Exit.NOT_ALLOWED
    assert ended.err == f"saga: saga {failed} is COMPENSATED: The saga has ended.\n"


def test_cancel_rolls_back(saga, stack, here, the_world):
    saga_id = stack.http("POST", "/sagas/order", {"sku": "tea"}, key="k").body["id"]
    stack.step()  # create_order
    assert saga("cancel", saga_id, *here).exit == Exit.OK
    stack.run_until_quiet()
    ended = stack.saga(saga_id)
    assert ended.state is SagaState.COMPENSATED
    assert ended.cause is not None
    assert ended.cause.by is not None
    assert ended.cause.by.startswith("cli")
    assert the_world.standing() == []
    assert saga("cancel", saga_id, *here).exit == Exit.NOT_ALLOWED


def test_cancel_of_a_roll_back_that_stopped_says_what_helps(saga, here, failed):
    ran = saga("cancel", failed, *here)
    assert ran.exit == Exit.NOT_ALLOWED
    assert "resume it" in ran.err


def test_skip_vouches_for_a_step(saga, stack, here, failed, the_world):
    wrong = saga("skip", failed, "ship", *here)
    assert wrong.exit == Exit.NOT_ALLOWED
    assert "did not stop at this step" in wrong.err

    assert saga("skip", failed, "charge_card", *here).exit == Exit.OK
    stack.run_until_quiet()
    assert stack.saga(failed).state is SagaState.COMPENSATED
    assert the_world.standing() == ["payments.charge"]


def test_without_the_definition_nothing_is_moved(saga, stack, here, failed):
    before = stack.saga(failed)
    ran = saga("resume", failed, "--definitions", "examples.travel:travel", *here)
    assert ran.exit == Exit.NOT_ALLOWED
    assert before.definition in ran.err
    assert replace(stack.saga(failed)) == before


def test_the_environment_may_say_where(saga, stack, failed, monkeypatch):
    monkeypatch.setenv("SAGA_TABLE", stack.template.name_of("SagaTable"))
    monkeypatch.setenv("SAGA_QUEUE_URL", stack.template.queue_url("WorkQueue"))
    assert saga("get", failed, "--region", "us-east-1").exit == Exit.OK


def test_a_stack_is_found_by_its_outputs(saga, stack, failed):
    template = {
        "Resources": {"Any": {"Type": "AWS::SQS::Queue"}},
        "Outputs": {
            "TableName": {"Value": stack.template.name_of("SagaTable")},
            "WorkQueueUrl": {"Value": stack.template.queue_url("WorkQueue")},
        },
    }
    boto3.client("cloudformation", "us-east-1").create_stack(
        StackName="mine", TemplateBody=json.dumps(template)
    )
    assert saga("get", failed, "--stack", "mine", "--region", "us-east-1").exit == Exit.OK
    unknown = saga("get", failed, "--stack", "yours", "--region", "us-east-1")
    assert unknown.exit == Exit.NOT_FOUND
    assert "yours" in unknown.err


# -- answer ---------------------------------------------------------------------


@pytest.fixture
def asking(stack, the_world):
    """A purchase that waits for its manager, and the manager's token."""
    stack.deploy("examples.purchase:purchase")
    body = {"sku": "teapot", "amount": 900}
    saga_id = stack.http("POST", "/sagas/purchase", body, key="k").body["id"]
    while not the_world.mail:
        stack.step() or stack.leap()
    while stack.step() is not None:
        pass
    return saga_id, next(iter(the_world.mail.values()))


PURCHASE = ["--definitions", "examples.purchase:purchase"]


def test_an_answer_lets_the_saga_go_on(saga, stack, here, asking):
    saga_id, token = asking
    ran = saga("answer", token, "--context", '{"approved_by": "ann"}', *PURCHASE, *here)
    assert ran.exit == Exit.OK
    stack.run_until_quiet()
    assert stack.saga(saga_id).state is SagaState.COMPLETED
    again = saga("answer", token, "--failed", "no", *PURCHASE, *here)
    assert again.exit == Exit.NOT_ALLOWED
    assert "answered before, and otherwise" in again.err


def test_an_answer_may_be_no(saga, stack, here, asking):
    saga_id, token = asking
    assert saga("answer", token, "--failed", "too dear", *PURCHASE, *here).exit == Exit.OK
    stack.run_until_quiet()
    assert stack.saga(saga_id).state is SagaState.COMPENSATED


def test_a_heartbeat_says_that_it_takes_longer(saga, stack, here, asking):
    saga_id, token = asking
    before = stack.saga(saga_id).lane.due_at
    assert saga("answer", token, "--heartbeat", *PURCHASE, *here).exit == Exit.OK
    assert stack.saga(saga_id).lane.due_at >= before
    assert stack.saga(saga_id).state is SagaState.RUNNING


@pytest.mark.parametrize(
    ("words", "exit_"),
    [
        (["nonsense"], Exit.NOT_FOUND),
        (["TOKEN", "--context", "{"], Exit.USAGE),
        (["TOKEN", "--context", '{"amount": "much"}'], Exit.USAGE),
    ],
    ids=["no token", "no JSON", "no context"],
)
def test_an_answer_that_cannot_be_taken_says_why(saga, here, asking, words, exit_):
    token = asking[1]
    ran = saga("answer", *(token if w == "TOKEN" else w for w in words), *PURCHASE, *here)
    assert ran.exit == exit_
    assert ran.err.startswith("saga: ")
    assert token not in ran.err
