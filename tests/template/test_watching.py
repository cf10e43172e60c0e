"""Alarms and the dashboard: each thing that must be noticed, is."""

import json
import re

import pytest

from infra import schema
from tests.template.cfn import ROOT, Stack, deploy

ALARM = "AWS::CloudWatch::Alarm"
OURS = ("Saga", {"service": "sagas"})


def of_queue(name):
    return "AWS/SQS", {"QueueName": f"${{{name}.QueueName}}"}


def of_function(name):
    return "AWS/Lambda", {"FunctionName": f"${{{name}}}"}


def of_table(index=None):
    dimensions = {"TableName": "${SagaTable}"}
    return "AWS/DynamoDB", dimensions | ({"GlobalSecondaryIndexName": index} if index else {})


# alarm: metric, where, statistic, threshold, does it fire at the threshold, after how many seconds
SIMPLE = {
    "ParkingQueueAlarm": (
        "ApproximateNumberOfMessagesVisible",
        of_queue("ParkingQueue"),
        "Maximum",
        0,
        False,
        60,
    ),
    "StartDeadLettersAlarm": (
        "ApproximateNumberOfMessagesVisible",
        of_queue("StartDeadLetterQueue"),
        "Maximum",
        0,
        False,
        60,
    ),
    "DeadLettersHandledAlarm": ("DlqHandled", OURS, "Sum", 0, False, 900),
    "WorkQueueAgeAlarm": (
        "ApproximateAgeOfOldestMessage",
        of_queue("WorkQueue"),
        "Maximum",
        300,
        False,
        300,
    ),
    "StartQueueAgeAlarm": (
        "ApproximateAgeOfOldestMessage",
        of_queue("StartQueue"),
        "Maximum",
        300,
        False,
        300,
    ),
    "SagaStalledAlarm": ("SagaStalled", OURS, "Sum", 1, True, 60),
    "SagaOverdueAlarm": ("SagaOverdue", OURS, "Sum", 1, True, 60),
    "CompensationFailedAlarm": ("CompensationFailed", OURS, "Sum", 1, True, 60),
    "SweeperLagAlarm": ("SweeperLag", OURS, "Maximum", 300, False, 300),
    "SweeperErrorsAlarm": ("Errors", of_function("SweeperFunction"), "Sum", 0, False, 180),
    "WorkerErrorsAlarm": ("Errors", of_function("WorkerFunction"), "Sum", 0, False, 900),
    "WorkerThrottlesAlarm": ("Throttles", of_function("WorkerFunction"), "Sum", 0, False, 600),
    "ApiErrorsAlarm": ("5xx", ("AWS/ApiGateway", {"ApiId": "${Api}"}), "Sum", 0, False, 600),
    "StarterErrorsAlarm": ("Errors", of_function("StarterFunction"), "Sum", 0, False, 900),
    "DeadLettersErrorsAlarm": ("Errors", of_function("DeadLettersFunction"), "Sum", 0, False, 900),
}

INVOCATIONS = ("Invocations", of_function("WorkerFunction"), "Sum")
THROTTLED = "FILL(reads, 0) + FILL(writes, 0)"
# alarm: expression, its metrics, threshold, does it fire at the threshold, after how many seconds
COMPUTED = {
    "WorkerDurationAlarm": (
        "100 * duration / (30 * 1000)",
        {"duration": ("Duration", of_function("WorkerFunction"), "p99")},
        80,
        False,
        900,
    ),
    "WorkerConcurrencyAlarm": (
        "100 * workers / 50",
        {"workers": ("ConcurrentExecutions", of_function("WorkerFunction"), "Maximum")},
        90,
        True,
        300,
    ),
    "FencedCommitAlarm": (
        "IF(FILL(fenced, 0) >= 5, 100 * fenced / invocations, 0)",
        {"fenced": ("FencedCommit", OURS, "Sum"), "invocations": INVOCATIONS},
        1,
        False,
        900,
    ),
    "RunawayAlarm": (
        "IF(invocations >= 1000, invocations / IF(FILL(started, 0) > 0, started, 1), 0)",
        {"invocations": INVOCATIONS, "started": ("SagaStarted", OURS, "Sum")},
        "80",
        False,
        3600,
    ),
} | {
    name: (
        THROTTLED,
        {
            "reads": ("ReadThrottleEvents", of_table(index), "Sum"),
            "writes": ("WriteThrottleEvents", of_table(index), "Sum"),
        },
        0,
        False,
        600,
    )
    for name, index in [
        ("TableThrottlesAlarm", None),
        ("WorkIndexThrottlesAlarm", schema.WORK_INDEX),
        ("ListIndexThrottlesAlarm", schema.LIST_INDEX),
    ]
}


def where(metric):
    return metric["Namespace"], {d["Name"]: d["Value"] for d in metric["Dimensions"]}


def fires(alarm, period):
    at = {"GreaterThanThreshold": False, "GreaterThanOrEqualToThreshold": True}
    seconds = period * alarm["EvaluationPeriods"]
    return alarm["Threshold"], at[alarm["ComparisonOperator"]], seconds


@pytest.mark.parametrize("name", SIMPLE)
def test_an_alarm_on_one_metric(stack: Stack, name):
    alarm = stack[name]
    assert (
        alarm["MetricName"],
        where(alarm),
        alarm["Statistic"],
        *fires(alarm, alarm["Period"]),
    ) == SIMPLE[name]


@pytest.mark.parametrize("name", COMPUTED)
def test_an_alarm_on_an_expression(stack: Stack, name):
    alarm = stack[name]
    (expression,) = [m for m in alarm["Metrics"] if "Expression" in m]
    used = {m["Id"]: m["MetricStat"] for m in alarm["Metrics"] if "MetricStat" in m}
    metrics = {
        key: (m["Metric"]["MetricName"], where(m["Metric"]), m["Stat"]) for key, m in used.items()
    }
    (period,) = {m["Period"] for m in used.values()}
    assert (expression["Expression"], metrics, *fires(alarm, period)) == COMPUTED[name]
    assert expression.get("ReturnData", True)
    assert [m["ReturnData"] for m in alarm["Metrics"] if m is not expression] == [False] * len(used)


def test_there_are_no_alarms_but_these(stack: Stack):
    assert stack.of_type(ALARM).keys() == SIMPLE.keys() | COMPUTED.keys()


def test_a_stack_to_try_things_out_is_not_watched():
    stack = deploy(Alarms="false")
    assert not stack.of_type(ALARM)
    assert not stack.of_type("AWS::CloudWatch::Dashboard")
    assert stack.of_type("AWS::Lambda::Function")


def test_silence_is_an_alarm_for_the_sweeper_only(stack: Stack):
    """A stack in which nothing happens is well; one whose sweeper is dead is not."""
    silent = {name: a["TreatMissingData"] for name, a in stack.of_type(ALARM).items()}
    assert silent.pop("SweeperLagAlarm") == "breaching"
    assert set(silent.values()) == {"notBreaching"}


def test_an_alarm_says_what_to_do_and_to_whom(stack: Stack, full: Stack):
    for name, alarm in full.of_type(ALARM).items():
        topic = [full.parameters["AlarmTopicArn"]]
        assert (alarm["AlarmActions"], alarm["OKActions"]) == (topic, topic), name
        assert len(alarm["AlarmDescription"]) > 15, name
        assert not {"AlarmActions", "OKActions"} & stack[name].keys()


def test_limits_in_alarms_follow_the_parameters():
    stack = deploy(
        WorkerTimeout="60", VisibilityTimeout="360", MaximumConcurrency="7", RunawayInvocations="9"
    )
    expressions = {
        name: next(m["Expression"] for m in stack[name]["Metrics"] if "Expression" in m)
        for name in ("WorkerDurationAlarm", "WorkerConcurrencyAlarm")
    }
    assert expressions == {
        "WorkerDurationAlarm": "100 * duration / (60 * 1000)",
        "WorkerConcurrencyAlarm": "100 * workers / 7",
    }
    assert stack["RunawayAlarm"]["Threshold"] == "9"


def widgets(stack):
    ((_, dashboard),) = stack.of_type("AWS::CloudWatch::Dashboard").items()
    body = json.loads(dashboard["DashboardBody"])
    return {w["properties"]["title"]: w["properties"] for w in body["widgets"]}


def test_the_dashboard_shows_funnel_retries_queues_and_sweeper(stack: Stack):
    shown = {
        title: [m for row in w["metrics"] for m in row[1:2] if re.match(r"[A-Z]", str(m))]
        for title, w in widgets(stack).items()
    }
    assert {"SagaStarted", "SagaCompleted", "SagaCompensated"} <= set(shown["Sagas"])
    assert "StepRetries" in shown["Retries, duplicates and lost races"]
    assert shown["Oldest message, seconds"] == ["ApproximateAgeOfOldestMessage"]
    assert shown["Sweeper"] == ["SweeperLag", "SweeperNudged"]


def test_every_metric_of_ours_that_is_watched_is_one_that_the_code_emits(stack: Stack):
    watched = {
        a["MetricName"] for a in stack.of_type(ALARM).values() if a.get("Namespace") == "Saga"
    }
    for alarm in stack.of_type(ALARM).values():
        metrics = [m["MetricStat"]["Metric"] for m in alarm.get("Metrics", []) if "MetricStat" in m]
        watched |= {m["MetricName"] for m in metrics if m["Namespace"] == "Saga"}
    for widget in widgets(stack).values():
        if widget["metrics"][0][0] == "Saga":
            watched |= {row[1] for row in widget["metrics"] if row[0] != "..."}
    code = "\n".join(
        path.read_text() for room in ("handlers", "infra") for path in (ROOT / room).glob("*.py")
    )
    assert {name for name in watched if f'"{name}"' not in code} == set()


def test_a_budget_is_watched_if_one_is_set(stack: Stack, full: Stack):
    assert not stack.of_type("AWS::Budgets::Budget")
    ((_, budget),) = full.of_type("AWS::Budgets::Budget").items()
    assert budget["Budget"]["BudgetLimit"] == {"Amount": "50", "Unit": "USD"}
    assert budget["Budget"]["CostFilters"] == {
        "TagKeyValue": ["aws:cloudformation:stack-name$sagas"]
    }
    ((notification,),) = [[n["Subscribers"] for n in budget["NotificationsWithSubscribers"]]]
    assert notification == [
        {"SubscriptionType": "SNS", "Address": full.parameters["AlarmTopicArn"]}
    ]
