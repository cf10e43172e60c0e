"""Where an operator's command goes: a deployed stack, an endpoint, or the local runtime."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from functools import cache

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from handlers._application import Application
from infra.clients import CONFIG
from infra.clock import SystemClock
from infra.settings import SAGA_QUEUE_URL, SAGA_TABLE, Settings
from saga_cli.parts import CapturedSink, application
from saga_cli.problems import CommandError, Exit
from saga_core.errors import DefinitionError
from saga_core.identity import TENANT

# What `saga local` builds; saga_cli.local takes the same names from the template.
LOCAL_TABLE = "local-SagaTable"
LOCAL_QUEUE = "123456789012/local-work"
_LOCAL_REGION = "us-east-1"
_NOBODY = "local"  # the local runtime asks for no credentials


@dataclass(frozen=True, slots=True)
class _Place:
    session: boto3.Session
    endpoint: str | None
    table: str
    queue_url: str


def connect(args: argparse.Namespace) -> Application:
    """The parts of the functions, at the place that the command line names.

    Raises:
        CommandError: It does not say where, or the place cannot be found.
    """
    if not TENANT.fullmatch(args.tenant):
        raise CommandError(Exit.USAGE, f"--tenant does not match {TENANT.pattern}")
    try:
        place = _local(args) if args.local else _remote(args)
        settings = Settings(
            table=place.table, queue_url=place.queue_url, definitions=args.definitions
        )
        return application(
            settings,
            dynamodb=place.session.client("dynamodb", config=CONFIG, endpoint_url=place.endpoint),
            sqs=place.session.client("sqs", config=CONFIG, endpoint_url=place.endpoint),
            clock=SystemClock(),
            sink=CapturedSink(),
        )
    except DefinitionError as exc:
        raise CommandError(Exit.USAGE, f"{exc} (saga lint says more)") from exc
    except (BotoCoreError, ValueError) as exc:  # a profile, Region or URL that is none
        raise CommandError(Exit.USAGE, _one_line(exc)) from exc


@cache
def _session(
    region: str | None, profile: str | None = None, key: str | None = None
) -> boto3.Session:
    """A session. Kept: it reads the services' models from disk, which takes longest of all."""
    return boto3.Session(
        aws_access_key_id=key, aws_secret_access_key=key, profile_name=profile, region_name=region
    )


def _local(args: argparse.Namespace) -> _Place:
    endpoint = args.endpoint_url or f"http://127.0.0.1:{args.port}"
    session = _session(_LOCAL_REGION, key=_NOBODY)
    return _Place(session, endpoint, LOCAL_TABLE, f"{endpoint}/{LOCAL_QUEUE}")


def _remote(args: argparse.Namespace) -> _Place:
    session = _session(args.region, args.profile)
    outputs = _outputs(session, args) if args.stack else {}
    table = args.table or outputs.get("TableName") or os.environ.get(SAGA_TABLE)
    queue_url = args.queue_url or outputs.get("WorkQueueUrl") or os.environ.get(SAGA_QUEUE_URL)
    if not table or not queue_url:
        raise CommandError(
            Exit.USAGE,
            "say where: --local, --stack NAME, --table with --queue-url, or "
            f"{SAGA_TABLE} with {SAGA_QUEUE_URL} in the environment",
        )
    return _Place(session, args.endpoint_url, table, queue_url)


def _outputs(session: boto3.Session, args: argparse.Namespace) -> dict[str, str]:
    cloudformation = session.client("cloudformation", config=CONFIG, endpoint_url=args.endpoint_url)
    try:
        stacks = cloudformation.describe_stacks(StackName=args.stack)["Stacks"]
    except ClientError as exc:
        missing = exc.response.get("Error", {}).get("Code") == "ValidationError"
        exit_ = Exit.NOT_FOUND if missing else Exit.UNAVAILABLE
        raise CommandError(exit_, _one_line(exc)) from exc
    except BotoCoreError as exc:
        raise CommandError(Exit.UNAVAILABLE, _one_line(exc)) from exc
    return {o["OutputKey"]: o["OutputValue"] for o in stacks[0].get("Outputs", [])}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
