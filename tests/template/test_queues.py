"""The queues, and who is fed by them."""

from itertools import product

import pytest

from tests.template.cfn import Stack, broken_rules, deploy, parse

QUEUE = "AWS::SQS::Queue"
MAPPING = "AWS::Lambda::EventSourceMapping"
FED = {
    "${StartQueue.Arn}": "${StarterFunction}",
    "${WorkQueue.Arn}": "${WorkerFunction}",
    "${DeadLetterQueue.Arn}": "${DeadLettersFunction}",
}
DEAD_LETTERS = {
    "StartQueue": "StartDeadLetterQueue",
    "WorkQueue": "DeadLetterQueue",
    "DeadLetterQueue": "ParkingQueue",
}


def allowed(parameter):
    return [str(v) for v in parse()["Parameters"][parameter]["AllowedValues"]]


def choices():
    return list(
        product(allowed("WorkerTimeout"), allowed("VisibilityTimeout"), allowed("StepSeconds"))
    )


def mappings(stack):
    return {m["EventSourceArn"]: m for m in stack.of_type(MAPPING).values()}


def test_each_queue_with_a_consumer_feeds_its_own_function(stack: Stack):
    assert {queue: m["FunctionName"] for queue, m in mappings(stack).items()} == FED
    assert len(stack.of_type(MAPPING)) == len(FED)


def test_every_queue_is_a_standard_queue(stack: Stack):
    assert set(stack.of_type(QUEUE)) == DEAD_LETTERS.keys() | set(DEAD_LETTERS.values())
    assert not any("FifoQueue" in q for q in stack.of_type(QUEUE).values())


def test_a_message_is_not_delivered_again_while_its_function_may_still_run():
    """At least six time-outs, whatever parameters CloudFormation lets through."""
    passed = 0
    for timeout, visibility, step in choices():
        if broken_rules(WorkerTimeout=timeout, VisibilityTimeout=visibility, StepSeconds=step):
            continue
        passed += 1
        stack = deploy(WorkerTimeout=timeout, VisibilityTimeout=visibility, StepSeconds=step)
        for queue, function in FED.items():
            seconds = int(stack[queue[2:].split(".")[0]]["VisibilityTimeout"])
            assert 6 * int(stack[function[2:-1]]["Timeout"]) <= seconds <= 12 * 3600
    assert passed >= len(allowed("WorkerTimeout"))


def test_the_rules_refuse_what_would_not_work_and_nothing_else():
    """A worker that needs all of its time-out never starts a step: some of it is gone by then."""
    for timeout, visibility, step in choices():
        broken = broken_rules(WorkerTimeout=timeout, VisibilityTimeout=visibility, StepSeconds=step)
        works = int(visibility) >= 6 * int(timeout) and int(step) < int(timeout) - 5
        assert (not broken) == works, (timeout, visibility, step, broken)


def test_the_defaults_break_no_rule():
    assert broken_rules() == []


def test_a_bad_message_fails_alone(stack: Stack):
    for queue, mapping in mappings(stack).items():
        assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"], queue
        assert mapping.get("Enabled", True) is True


def test_one_step_an_invocation(stack: Stack):
    assert {q: m["BatchSize"] for q, m in mappings(stack).items()} == {
        "${StartQueue.Arn}": 10,
        "${WorkQueue.Arn}": 1,
        "${DeadLetterQueue.Arn}": 1,
    }


def test_concurrency_is_limited_where_messages_are_taken():
    stack = deploy(MaximumConcurrency="7")
    limits = {q: m["ScalingConfig"]["MaximumConcurrency"] for q, m in mappings(stack).items()}
    assert limits == {
        "${StartQueue.Arn}": "7",
        "${WorkQueue.Arn}": "7",
        "${DeadLetterQueue.Arn}": 5,
    }
    parameter = parse()["Parameters"]["MaximumConcurrency"]
    assert (parameter["MinValue"], parameter["MaxValue"]) == (2, 1000)  # what Lambda takes


@pytest.mark.parametrize(("source", "target"), DEAD_LETTERS.items())
def test_what_cannot_be_delivered_goes_where_only_it_may(stack: Stack, source, target):
    assert stack[source]["RedrivePolicy"]["deadLetterTargetArn"] == f"${{{target}.Arn}}"
    arn = f"arn:aws:sqs:eu-west-1:123456789012:{stack[source]['QueueName']}"
    assert stack[target]["RedriveAllowPolicy"] == {
        "redrivePermission": "byQueue",
        "sourceQueueArns": [arn],
    }


@pytest.mark.parametrize(("source", "target"), DEAD_LETTERS.items())
def test_dead_letters_outlive_what_they_came_from(stack: Stack, source, target):
    retention = stack[source]["MessageRetentionPeriod"], stack[target]["MessageRetentionPeriod"]
    fourteen_days = 14 * 86400
    assert retention in {(4 * 86400, fourteen_days), (fourteen_days, fourteen_days)}
    if source in {"StartQueue", "WorkQueue"}:
        assert retention[0] < retention[1]


def test_a_message_has_at_least_five_deliveries():
    stack = deploy(MaxReceiveCount="9")
    counts = {s: stack[s]["RedrivePolicy"]["maxReceiveCount"] for s in DEAD_LETTERS}
    assert counts == {"StartQueue": "9", "WorkQueue": "9", "DeadLetterQueue": 100}
    parameter = parse()["Parameters"]["MaxReceiveCount"]
    assert (parameter["MinValue"], int(parameter["Default"])) == (5, 5)
    # Should SQS go on counting in the dead letters, some deliveries are left there all the same.
    assert counts["DeadLetterQueue"] >= 2 * parameter["MaxValue"]


def test_queues_are_encrypted_with_sqs_own_key_or_the_one_given(stack: Stack, full: Stack):
    for name, queue in stack.of_type(QUEUE).items():
        assert queue["SqsManagedSseEnabled"] is True
        assert "KmsMasterKeyId" not in queue
        assert full[name]["KmsMasterKeyId"] == full.parameters["KmsKeyArn"]
        assert full[name]["KmsDataKeyReusePeriodSeconds"] == 3600
        assert "SqsManagedSseEnabled" not in full[name]


def test_every_queue_refuses_plain_http_and_its_policy_allows_nothing(stack: Stack):
    covered = []
    for policy in stack.of_type("AWS::SQS::QueuePolicy").values():
        (queue,) = policy["Queues"]
        covered.append(queue)
        (statement,) = policy["PolicyDocument"]["Statement"]
        assert statement == {
            "Sid": "NoPlainHttp",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "sqs:*",
            "Resource": queue[:-1] + ".Arn}",
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    assert sorted(covered) == sorted(f"${{{name}}}" for name in stack.of_type(QUEUE))


def test_queue_names_fit_a_long_stack_name(stack: Stack):
    """SQS takes 80 characters; ours add at most 19 to the stack's name."""
    names = [q["QueueName"] for q in stack.of_type(QUEUE).values()]
    assert all(n.startswith("sagas-") and len(n) - len("sagas") <= 19 for n in names)
    assert len(set(names)) == len(names)
