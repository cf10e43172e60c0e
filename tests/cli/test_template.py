from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from saga_cli.local.stack import TEMPLATE
from saga_cli.local.template import QUEUE, Template, TemplateError
from saga_cli.local.wiring import Route, functions, routes, schedules, sources

SMALL = """
Parameters:
  Size: {Type: Number, Default: 3}
  Key: {Type: String, Default: ""}
  Needed: {Type: String}
Conditions:
  HasKey: !Not [!Equals [!Ref Key, ""]]
  Big: !Equals [!Ref Size, 3]
  Both: !And [!Condition HasKey, !Condition Big]
  Either: !Or [!Condition HasKey, !Condition Big]
Globals:
  Function:
    Environment: {Variables: {SHARED: !Ref Queue, GONE: !Ref AWS::NoValue}}
Resources:
  Queue:
    Type: AWS::SQS::Queue
    Properties:
      QueueName: !Sub "${AWS::StackName}-small"
      VisibilityTimeout: !Ref Size
      KmsMasterKeyId: !If [HasKey, !Ref Key, !Ref AWS::NoValue]
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Other.Arn, maxReceiveCount: 4}
  Other:
    Type: AWS::SQS::Queue
  Absent:
    Type: AWS::SQS::Queue
    Condition: HasKey
  Function:
    Type: AWS::Serverless::Function
    Properties:
      Handler: module.handler
      Timeout: !Ref Size
      Environment: {Variables: {OWN: !Join ["-", [a, !Ref Size]]}}
      Events:
        Tick: {Type: ScheduleV2, Properties: {ScheduleExpression: rate(2 hours)}}
  Mapping:
    Type: AWS::Lambda::EventSourceMapping
    Properties: {EventSourceArn: !GetAtt Queue.Arn, FunctionName: !Ref Function, BatchSize: 4}
  Off:
    Type: AWS::Lambda::EventSourceMapping
    Properties: {EventSourceArn: !GetAtt Other.Arn, FunctionName: !Ref Function, Enabled: false}
"""


@pytest.fixture
def small(tmp_path: Path) -> Template:
    path = tmp_path / "small.yaml"
    path.write_text(dedent(SMALL))
    return Template.read(path)


def test_intrinsic_functions_are_worked_out(small):
    found = small.properties(
        QUEUE, "Queue", ("VisibilityTimeout", "KmsMasterKeyId", "DelaySeconds")
    )
    assert found == {"VisibilityTimeout": 3}
    assert small.resolve({"Fn::Sub": ["${x} of ${Queue.QueueName}", {"x": {"Ref": "Size"}}]}) == (
        "3 of local-small"
    )
    assert small.resolve([{"Ref": "AWS::NoValue"}, {"Ref": "AWS::Region"}]) == ["us-east-1"]


def test_names_arns_and_urls_agree(small):
    arn = small.resolve({"Fn::GetAtt": "Queue.Arn"})
    assert arn == "arn:aws:sqs:us-east-1:123456789012:local-small"
    assert small.resolve({"Ref": "Queue"}).endswith("/123456789012/local-small")
    assert small.resource_of(arn) == small.resource_of(small.queue_url("Queue")) == "Queue"
    assert small.name_of("Other") == "local-Other"


def test_conditions_choose(small):
    assert [small.holds(c) for c in ("HasKey", "Big", "Both", "Either", None)] == [
        False,
        True,
        False,
        True,
        True,
    ]
    assert set(small.resources(QUEUE)) == {"Queue", "Other"}


def test_wiring_is_read_from_mappings_and_events(small):
    (source,) = sources(small)
    assert (source.queue, source.function, source.batch_size) == ("Queue", "Function", 4)
    assert not source.partial
    (schedule,) = schedules(small)
    assert schedule.period_ms == 7_200_000
    function = functions(small)["Function"]
    assert function.timeout_ms == 3_000
    assert function.environment == {"SHARED": small.queue_url("Queue"), "OWN": "a-3"}


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"Ref": "Nothing"}, "Nothing is neither"),
        ({"Ref": "Needed"}, "Needed has no default"),
        ({"Fn::GetAZs": ""}, "GetAZs is not understood"),
    ],
    ids=["ref", "parameter", "function"],
)
def test_what_is_not_understood_is_named(small, value, told):
    with pytest.raises(TemplateError, match=told):
        small.resolve(value)
    with pytest.raises(TemplateError, match="is not understood"):
        small.holds({"Fn::Maybe": []})


@pytest.mark.parametrize("text", ["- a list", "Resources: [", "{}"], ids=["list", "yaml", "empty"])
def test_a_file_that_is_no_template_is_refused(tmp_path, text):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(TemplateError, match=r"t\.yaml"):
        Template.read(path)
    with pytest.raises(TemplateError, match="No such file"):
        Template.read(tmp_path / "absent.yaml")


def test_the_project_s_template_is_wired_as_the_design_says():
    template = Template.read(TEMPLATE)
    assert {(s.queue, s.function, s.partial) for s in sources(template)} == {
        ("StartQueue", "StarterFunction", True),
        ("WorkQueue", "WorkerFunction", True),
        ("DeadLetterQueue", "DeadLettersFunction", True),
    }
    assert [(s.function, s.period_ms) for s in schedules(template)] == [("SweeperFunction", 60_000)]
    assert {f"{r.method} {r.path}" for r in routes(template)} == {
        "GET /sagas",
        "GET /sagas/{id}",
        "POST /answers/{token}",
        "POST /sagas/{id}/cancel",
        "POST /sagas/{id}/resume",
        "POST /sagas/{id}/skip",
        "POST /sagas/{name}",
    }
    assert {r.function for r in routes(template)} == {"ApiFunction"}


@pytest.mark.parametrize(
    ("method", "path", "parameters"),
    [
        ("POST", "/sagas/a%20b/resume", {"id": "a b"}),
        ("GET", "/sagas/x/resume", None),
        ("POST", "/sagas/x", None),
        ("POST", "/sagas/x/cancel", None),
    ],
    ids=["match", "method", "short", "other"],
)
def test_a_route_matches_segment_by_segment(method, path, parameters):
    route = Route(function="f", method="POST", path="/sagas/{id}/resume")
    assert route.parameters(method, path) == parameters
