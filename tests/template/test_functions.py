"""The functions: what runs, with what, and what must be said about it."""

import re
import tomllib

import pytest

from infra.settings import VARIABLES
from tests.template.cfn import ROOT, Stack, deploy, parse

FUNCTION = "AWS::Lambda::Function"
RECURSIVE = {"WorkerFunction", "DeadLettersFunction"}


def variables(function):
    return function["Environment"]["Variables"]


def test_a_module_of_handlers_without_underscore_is_a_deployed_function(stack: Stack):
    modules = {p.stem for p in (ROOT / "handlers").glob("[!_]*.py")}
    assert {f["Handler"] for f in stack.of_type(FUNCTION).values()} == {
        f"handlers.{module}.handler" for module in modules
    }
    assert len(stack.of_type(FUNCTION)) == len(modules)


def test_every_function_is_built_by_the_makefile():
    functions = [
        r for r in parse()["Resources"].values() if r["Type"] == "AWS::Serverless::Function"
    ]
    assert functions
    assert all(f["Metadata"]["BuildMethod"] == "makefile" for f in functions)


@pytest.mark.parametrize("architecture", ["x86_64", "arm64"])
def test_runtime_and_architecture_are_pinned(architecture):
    for function in deploy(Architecture=architecture).of_type(FUNCTION).values():
        assert function["Runtime"] == "python3.13"
        assert function["Architectures"] == [architecture]


def test_the_build_and_the_template_agree_on_python_and_architecture(stack: Stack):
    makefile = (ROOT / "Makefile").read_text()
    default = stack.parameters["Architecture"]
    assert re.findall(r"^SAGA_PYTHON \?= (.*)$", makefile, re.MULTILINE) == ["3.13"]
    assert re.findall(r"^SAGA_ARCH \?= (.*)$", makefile, re.MULTILINE) == [default]
    assert parse()["Parameters"]["Architecture"]["AllowedValues"] == ["x86_64", "arm64"]


def test_every_function_has_a_role_of_its_own(stack: Stack):
    roles = {name: f["Role"] for name, f in stack.of_type(FUNCTION).items()}
    assert len(set(roles.values())) == len(roles)
    # none that SAM made
    assert set(stack.of_type("AWS::IAM::Role")) == {r[2:].split(".")[0] for r in roles.values()}


def test_lambda_lets_exactly_the_worker_and_the_dead_letter_function_feed_themselves(stack: Stack):
    allowed = {
        name for name, f in stack.of_type(FUNCTION).items() if f.get("RecursiveLoop") == "Allow"
    }
    assert allowed == RECURSIVE


@pytest.mark.parametrize("retention", ["7", "365"])
def test_every_function_logs_to_a_group_that_forgets(retention):
    stack = deploy(LogRetentionDays=retention)
    groups = stack.of_type("AWS::Logs::LogGroup")
    used = [f["LoggingConfig"]["LogGroup"] for f in stack.of_type(FUNCTION).values()]
    assert len(set(used)) == len(used)
    assert {f"${{{name}}}" for name in groups} == {*used, "${ApiAccessLogGroup}"}
    assert {g["RetentionInDays"] for g in groups.values()} == {retention}


def test_the_template_sets_the_variables_that_the_code_knows_and_no_others(full: Stack):
    seen = set()
    for name, function in full.of_type(FUNCTION).items():
        ours = {v for v in variables(function) if v.startswith("SAGA_")}
        assert ours <= VARIABLES, name
        seen |= ours
    assert seen == VARIABLES


def test_a_setting_has_the_value_its_name_says(full: Stack):
    common = {
        "POWERTOOLS_LOG_LEVEL": "INFO",
        "POWERTOOLS_METRICS_NAMESPACE": "Saga",
        "POWERTOOLS_SERVICE_NAME": "sagas",
        "SAGA_TABLE": "${SagaTable}",
        "SAGA_QUEUE_URL": "${WorkQueue}",
    }
    definitions = {"SAGA_DEFINITIONS": "examples.order:order,examples.travel:travel"}
    assert {n: variables(f) for n, f in full.of_type(FUNCTION).items()} == {
        "ApiFunction": common | definitions | {"SAGA_TENANT_CLAIM": "org"},
        "StarterFunction": common | definitions,
        "WorkerFunction": common | definitions | {"SAGA_STEP_SECONDS": "20"},
        "DeadLettersFunction": common | definitions,
        "SweeperFunction": common,
    }


def test_no_tenant_claim_means_none_and_not_an_empty_one(stack: Stack):
    assert "SAGA_TENANT_CLAIM" not in variables(stack["ApiFunction"])


def test_events_are_never_logged_whole(full: Stack):
    for function in full.of_type(FUNCTION).values():
        assert not {v for v in variables(function) if "LOG_EVENT" in v or "DEV" in v}


def test_no_function_reserves_concurrency(full: Stack):
    for function in full.of_type(FUNCTION).values():
        assert "ReservedConcurrentExecutions" not in function


def test_traces_are_on_and_the_environment_is_encrypted_with_the_key_given(
    full: Stack, stack: Stack
):
    for name, function in full.of_type(FUNCTION).items():
        assert function["TracingConfig"] == {"Mode": "Active"}
        assert function["KmsKeyArn"] == full.parameters["KmsKeyArn"]
        assert function["CodeSigningConfigArn"] == full.parameters["CodeSigningConfigArn"]
        assert not {"KmsKeyArn", "CodeSigningConfigArn"} & stack[name].keys()


def test_the_sweeper_is_woken_every_minute_and_a_late_wake_up_is_dropped(stack: Stack):
    ((_, rule),) = stack.of_type("AWS::Events::Rule").items()
    assert rule["ScheduleExpression"] == "rate(1 minute)"
    assert rule["State"] == "ENABLED"
    assert [t["Arn"] for t in rule["Targets"]] == ["${SweeperFunction.Arn}"]
    ((_, config),) = stack.of_type("AWS::Lambda::EventInvokeConfig").items()
    assert config["FunctionName"] == "${SweeperFunction}"
    assert config["MaximumRetryAttempts"] == 0
    assert config["MaximumEventAgeInSeconds"] == 60


def test_the_worker_gets_its_size_and_time_from_parameters():
    worker = deploy(WorkerTimeout="60", VisibilityTimeout="360", WorkerMemory="1024")[
        "WorkerFunction"
    ]
    assert (worker["Timeout"], worker["MemorySize"]) == ("60", "1024")


def test_the_api_answers_before_api_gateway_gives_up(stack: Stack):
    ((_, integration),) = stack.of_type("AWS::ApiGatewayV2::Integration").items()
    assert stack["ApiFunction"]["Timeout"] * 1000 < integration["TimeoutInMillis"] < 30_000


def test_what_is_tested_is_what_ships():
    def pins(name):
        text = (ROOT / "requirements" / name).read_text()
        return dict(re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE))

    runtime, dev = pins("runtime.txt"), pins("dev.txt")
    assert runtime
    assert runtime.items() <= dev.items()
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert {re.split(r"[^\w-]", d)[0] for d in declared} <= runtime.keys()


def test_the_runtime_lock_has_hashes_and_no_markers():
    """Pip evaluates markers for the Python it runs on, which need not be the one in Lambda."""
    lines = (ROOT / "requirements" / "runtime.txt").read_text().splitlines()
    pins = [line for line in lines if re.match(r"\w", line)]
    assert pins
    assert all(re.fullmatch(r"[\w.-]+==\S+ \\", line) for line in pins)
