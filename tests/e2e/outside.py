"""What a user of the stack has: signed HTTP, the start queue, the logs; and the world to see."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import urllib3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from saga_core.identity import saga_id_for
from tests.e2e.deploy import Deployed, client
from tests.e2e.engine import REGION, Engine, wait_for
from tests.e2e.sagas.world import STEPS, Call, World

Json = dict[str, Any]
CONNECTIONS = 16
TRIES = 5


@dataclass
class Outside:
    """Where the scenarios stand."""

    engine: Engine
    stack: Deployed
    world: World
    http: urllib3.PoolManager = field(init=False)
    lines: dict[str, list[Json]] = field(default_factory=dict)
    seen: set[tuple[int, str, str]] = field(default_factory=set)
    figures: Json = field(default_factory=dict)
    repeated: int = 0  # requests that met a 5xx and were sent again

    def __post_init__(self) -> None:
        self._connect()

    def _connect(self) -> None:
        self.http = urllib3.PoolManager(
            ca_certs=str(self.engine.ca), maxsize=CONNECTIONS, block=True, retries=False, timeout=60
        )
        self.sqs = client(self.engine, "sqs")
        self.functions = client(self.engine, "lambda")
        self.iam = client(self.engine, "iam")
        self.logs = client(self.engine, "logs")

    def restart(self) -> None:
        """Stop the emulator and start it again, over the same data."""
        self.collect()
        self.close()
        self.engine.stop()
        self.engine.start()
        self._connect()

    def close(self) -> None:
        """Hang up."""
        self.http.clear()
        for some in (self.sqs, self.functions, self.iam, self.logs):
            some.close()

    # -- over HTTP

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        *,
        signed: bool = True,
    ) -> tuple[int, Json]:
        """One request to the HTTP API, signed with IAM credentials.

        A client tries again when the server is in trouble; every request of this API may be
        repeated. On a slow machine a cold start takes longer than a function may run.
        """
        for _ in range(TRIES - 1):
            status, answer = self._call(method, path, body, headers, signed=signed)
            if status < 500:
                return status, answer
            self.repeated += 1
        return self._call(method, path, body, headers, signed=signed)

    def _call(
        self,
        method: str,
        path: str,
        body: object,
        headers: dict[str, str] | None,
        *,
        signed: bool,
    ) -> tuple[int, Json]:
        url = f"{self.engine.url}/_aws/execute-api/{self.stack.api_id}/$default{path}"
        request = AWSRequest(
            method,
            url,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": "application/json", **(headers or {})},
        )
        if signed:
            SigV4Auth(Credentials("test", "test"), "execute-api", REGION).add_auth(request)
        answer = self.http.request(method, url, body=request.data, headers=dict(request.headers))
        return answer.status, json.loads(answer.data or b"{}")

    def start(self, saga: str, customer: str, key: str | None = None) -> tuple[int, Json]:
        """POST /sagas/{name}; the customer is the idempotency key if none is given."""
        headers = {"Idempotency-Key": key or customer}
        return self.call("POST", f"/sagas/{saga}", {"customer": customer}, headers)

    def started(self, saga: str, customer: str) -> str:
        """Start it and give its id."""
        status, body = self.start(saga, customer)
        assert status in {200, 202}, (status, body)
        return str(body["id"])

    def get(self, saga_id: str) -> Json:
        """The saga as the API shows it."""
        status, body = self.call("GET", f"/sagas/{saga_id}")
        assert status == 200, (status, body)
        return body

    def wait(self, saga_id: str, *states: str) -> Json:
        """The saga, once it is in one of these states."""

        def look() -> Json | None:
            found = self.get(saga_id)
            return found if found["state"] in states else None

        found = wait_for(f"saga {saga_id} {' or '.join(states)}", look)
        assert found is not None
        return found

    def ask(self, saga_id: str, what: str, body: object = None) -> int:
        """POST cancel, resume or skip; the answer's status."""
        return self.call("POST", f"/sagas/{saga_id}/{what}", body)[0]

    # -- over SQS

    def send(self, body: object) -> str:
        """A message on the start queue; its id."""
        text = body if isinstance(body, str) else json.dumps(body)
        sent = self.sqs.send_message(QueueUrl=self.stack.outputs["StartQueueUrl"], MessageBody=text)
        return str(sent["MessageId"])

    def depth(self, queue: str) -> int:
        """Messages that lie in a queue, in flight and delayed ones too."""
        names = ["", "NotVisible", "Delayed"]
        names = [f"ApproximateNumberOfMessages{name}" for name in names]
        url = self.stack.outputs[queue]
        found = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(found[name]) for name in names)

    def visibility(self, queue: str, seconds: int) -> None:
        """What an operator may change on a live queue: how soon an unsettled message is back."""
        url = self.stack.outputs[queue]
        self.sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": str(seconds)})

    # -- what the functions logged

    def collect(self) -> None:
        """Read the functions' logs, from the groups that the template gives them."""
        events = {
            (event["timestamp"], event["logStreamName"], event["message"])
            for group in self.logs.describe_log_groups()["logGroups"]
            for page in self.logs.get_paginator("filter_log_events").paginate(
                logGroupName=group["logGroupName"]
            )
            for event in page["events"]
        }
        for event in sorted(events - self.seen):
            self._keep(event[2])
        self.seen |= events

    def log_of(self, customer: str) -> list[Json]:
        """The lines about the saga that was started under the customer's name, in order."""
        lines = self.lines.get(saga_id_for("default", customer), [])
        return sorted(lines, key=lambda line: str(line["timestamp"]))

    def _keep(self, message: str) -> None:
        for text in message.splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if isinstance(line, dict) and "message" in line and "timestamp" in line:
                self.lines.setdefault(str(line.get("saga_id", "")), []).append(line)


def outcomes(calls: list[Call], operation: str) -> list[str]:
    return [call.outcome for call in calls if call.operation == operation]


def all_stands(out: Outside, customer: str) -> None:
    """Every step's effect stands, and happened once."""
    assert out.world.standing(customer) == STEPS, out.world.standing(customer)
    for name in STEPS:
        done = outcomes(out.world.calls(customer), name).count("done")
        assert done == 1, f"{name} happened {done} times"


def nothing_stands(out: Outside, customer: str) -> None:
    assert out.world.standing(customer) == [], out.world.standing(customer)
