"""From this folder to a running stack: `sam build`, `sam deploy`, and what the emulator needs.

template.yaml is deployed as `sam build` leaves it. What the emulator cannot do with it is mended
afterwards, through the same API that an operator uses, and each mending is told in the report.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import boto3

from tests.e2e.engine import REGION, Engine

ROOT = Path(__file__).parents[2]
STACK = "e2e"
WORKERS = 8  # at once: parameter MaximumConcurrency
DEFINITIONS = "sagas.post:parcel,sagas.post:letter,sagas.post:crate"
MAX_RECEIVE_COUNT = 5
PARAMETERS = {
    "Alarms": "false",
    "SagaDefinitions": DEFINITIONS,
    "MaximumConcurrency": str(WORKERS),
    "WorkerTimeout": "15",
    "VisibilityTimeout": "90",
    "StepSeconds": "5",
    "MaxReceiveCount": str(MAX_RECEIVE_COUNT),
}
PACKAGES = "tests/e2e/sagas"
BOOTSTRAP = (
    '#!/bin/sh\ncd "$LAMBDA_TASK_ROOT"\nexec "$SAGA_E2E_PYTHON" -m awslambdaric "$_HANDLER"\n'
)


# Why anything is done besides `sam build` and `sam deploy`.
HERE = f"Python {platform.python_version()}, for which the artifact is built"
NO_ALARMS = (
    "its CloudFormation refuses alarms over metric math; the parameter is the template's own"
)
NUMBER = "its poller cannot compare numbers with a parameter's value, which it keeps as text"
REAL = f"for python3.13 it has a worker of its own; this is awslambdaric, as on AWS, on {HERE}"
NATIVE = f"its own worker runs the handlers, whatever Runtime says, on {HERE}"


@dataclass
class Deployed:
    """The stack: its outputs, its functions, and how it came to be."""

    outputs: dict[str, str] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    mended: list[tuple[str, str]] = field(default_factory=list)
    planned: dict[str, int] = field(default_factory=dict)
    build_seconds: float = 0.0
    deploy_seconds: float = 0.0

    @property
    def api_id(self) -> str:
        return self.outputs["ApiUrl"].removeprefix("https://").partition(".")[0]


def client(engine: Engine, service: str) -> Any:
    """A client of the emulator's, whatever this machine's own AWS configuration says."""
    return boto3.client(
        cast("Any", service),
        endpoint_url=engine.url,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        verify=str(engine.ca),
    )


def deploy(engine: Engine, sam: Path, folder: Path, *, real_runtime: bool) -> Deployed:
    """Build into the folder, deploy from it, and mend what the emulator cannot do."""
    stack = Deployed()
    began = time.monotonic()
    _build(sam, folder)
    stack.build_seconds = time.monotonic() - began
    if real_runtime:
        _add_bootstrap(folder)
    stack.planned = _planned(_deploy(engine, sam, folder, execute=False))
    began = time.monotonic()
    _deploy(engine, sam, folder)
    stack.deploy_seconds = time.monotonic() - began
    cloudformation = client(engine, "cloudformation")
    (found,) = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
    stack.outputs = {o["OutputKey"]: o["OutputValue"] for o in found["Outputs"]}
    resources = cloudformation.describe_stack_resources(StackName=STACK)["StackResources"]
    stack.functions = {
        r["LogicalResourceId"]: r["PhysicalResourceId"]
        for r in resources
        if r["ResourceType"] == "AWS::Lambda::Function"
    }
    stack.mended.append(("parameter Alarms=false", NO_ALARMS))
    _mend_concurrency(engine, stack)
    if real_runtime:
        _mend_runtime(engine, stack)
    else:
        stack.mended.append(("nothing about the runtime", NATIVE))
    return stack


def _planned(output: str) -> dict[str, int]:
    """How many resources a change set would add, change and take away, by sam's own table."""
    signs = {"+": "added", "*": "changed", "-": "taken away"}
    found = re.findall(r"^([+*-]) (?:Add|Modify|Delete)\b", output, re.MULTILINE)
    return {word: found.count(sign) for sign, word in signs.items()}


def _run(command: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (
        f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    )
    return done.stdout


def _build(sam: Path, folder: Path) -> None:
    """As `make build` does, for the interpreter that is here."""
    kept = {k: v for k, v in os.environ.items() if k not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    here = {
        "SAGA_PYTHON": "{}.{}".format(*sys.version_info),
        "SAGA_PLATFORM": _platform(),
        "SAGA_PACKAGES": PACKAGES,
        "BUILD_PYTHON": sys.executable,
        "SAM_CLI_TELEMETRY": "0",
    }
    _run([str(sam), "build", "--build-dir", str(folder)], kept | here)


def _platform() -> str:
    """The platform of this machine, as the names of wheels have it."""
    here = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return here.replace("linux_", "manylinux2014_")


def _deploy(engine: Engine, sam: Path, folder: Path, *, execute: bool = True) -> str:
    """`sam deploy`; without ``execute`` a dry run, which makes the change set and leaves it."""
    parameters = [f"{name}={value}" for name, value in PARAMETERS.items()]
    command = [str(sam), "deploy", "--template-file", str(folder / "template.yaml")]
    command += ["--stack-name", STACK, "--region", REGION, "--resolve-s3"]
    command += ["--capabilities", "CAPABILITY_IAM", "--no-confirm-changeset", "--no-progressbar"]
    command += [] if execute else ["--no-execute-changeset"]
    own = {k: v for k, v in os.environ.items() if k == "__SAM_CLI_APP_DIR"}
    return _run([*command, "--parameter-overrides", *parameters], engine.environment() | own)


# -- what the emulator cannot do ------------------------------------------------------


def _mend_concurrency(engine: Engine, stack: Deployed) -> None:
    functions = client(engine, "lambda")
    for mapping in functions.list_event_source_mappings()["EventSourceMappings"]:
        limit = int(mapping["ScalingConfig"]["MaximumConcurrency"])
        functions.update_event_source_mapping(
            UUID=mapping["UUID"], ScalingConfig={"MaximumConcurrency": limit}
        )
    stack.mended.append(("MaximumConcurrency is set once more, to the same number", NUMBER))


def _add_bootstrap(folder: Path) -> None:
    for function in folder.iterdir():
        if function.is_dir():
            bootstrap = function / "bootstrap"
            bootstrap.write_text(BOOTSTRAP)
            bootstrap.chmod(0o755)


def _mend_runtime(engine: Engine, stack: Deployed) -> None:
    functions = client(engine, "lambda")
    for name in stack.functions.values():
        functions.update_function_configuration(FunctionName=name, Runtime="provided.al2023")
        functions.get_waiter("function_updated_v2").wait(FunctionName=name)
    stack.mended.append(("Runtime is set to provided.al2023, with a bootstrap in the zip", REAL))
