from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from handlers import _bootstrap
from saga_cli.local.server import LocalServer, PrintingSink
from saga_cli.local.stack import TEMPLATE
from saga_cli.local.template import Template
from saga_cli.main import EXAMPLES
from saga_cli.parts import CapturedSink
from saga_cli.problems import Exit

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def server() -> Iterator[LocalServer]:
    with LocalServer(Template.read(TEMPLATE), EXAMPLES, 0, CapturedSink()) as running:
        yield running


@pytest.fixture
def there(server: LocalServer) -> list[str]:
    return ["--local", "--port", server.endpoint.rpartition(":")[2]]


def ask(server: LocalServer, method: str, path: str, body: str | None = None) -> Any:
    """A request as curl makes it."""
    host, port = server.front.url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=30)
    try:
        headers = {"Content-Type": "application/json", "Idempotency-Key": "curl-1"}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, json.loads(response.read() or b"null")
    finally:
        connection.close()


def test_start_waits_until_the_saga_has_ended(saga, there):
    ran = saga("start", "order", "--context", '{"sku": "tea"}', "--wait", "--json", *there)
    assert ran.exit == Exit.OK
    assert ran.json["state"] == "COMPLETED"


def test_a_saga_that_was_rolled_back_is_status_1(saga, there):
    trip = '{"hotel": "h", "flight": "f", "car": "convertible"}'
    ran = saga("start", "travel", "--context", trip, "--wait", "--json", *there)
    assert ran.exit == Exit.NO
    assert ran.json["state"] == "COMPENSATED"


def test_the_http_api_listens_too(saga, server, there):
    status, headers, body = ask(server, "POST", "/sagas/order", '{"sku": "tea"}')
    assert status == 202
    assert headers["Location"] == f"/sagas/{body['id']}"
    assert saga("get", body["id"], *there).exit == Exit.OK
    assert ask(server, "GET", "/sagas?name=order&limit=1")[2]["cursor"]
    assert ask(server, "GET", "/nowhere")[0] == 404


def test_a_function_that_fails_is_a_500(server):
    app = _bootstrap.application("api")
    _bootstrap.reset()  # without its settings the function cannot even begin
    try:
        assert ask(server, "GET", "/sagas")[0] == 500
    finally:
        _bootstrap.use(app)


def test_the_hint_holds(server):
    assert f"export AWS_ENDPOINT_URL={server.endpoint} " in server.hint
    assert f"curl {server.front.url}/sagas/order" in server.hint
    assert "SAGA_QUEUE_URL=http://127.0.0.1:" in server.hint


def test_only_this_machine_is_served(server):
    assert server.endpoint.startswith("http://127.0.0.1:")
    assert server.front.server_address[0] == "127.0.0.1"


def test_lines_are_for_people_or_for_programs(capfd):
    fields = {"saga": "order", "saga_id": "x", "step": "ship", "to": "COMPLETED", "ver": 3}
    PrintingSink(as_json=False).line("INFO", "saga.committed", fields)
    told = capfd.readouterr().out
    assert re.fullmatch(r"\d\d:\d\d:\d\d  saga.committed +order x ship COMPLETED\n", told)
    PrintingSink(as_json=True).line("INFO", "saga.committed", fields)
    assert json.loads(capfd.readouterr().out)["ver"] == 3
    PrintingSink(as_json=True).line("INFO", "saga.swept", {"looked_at": 0})
    PrintingSink(as_json=True).count("order", {"SagaStarted": 1})
    assert capfd.readouterr().out == ""


def test_a_port_that_is_taken_is_status_5(saga, server):
    port = server.endpoint.rpartition(":")[2]
    ran = saga("local", "--port", port)
    assert ran.exit == Exit.UNAVAILABLE
    assert ran.err == f"saga: port {port} of 127.0.0.1: Address already in use\n"


def test_definitions_that_cannot_run_are_status_2(saga, tmp_path):
    assert saga("local", "--port", "0", "--definitions", "examples.order:no").exit == Exit.USAGE
    absent = saga("local", "--template", str(tmp_path / "absent.yaml"))
    assert absent.exit == Exit.USAGE
    assert len(absent.err.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "terminate"])
def test_it_ends_cleanly(number):
    process = subprocess.Popen(
        [sys.executable, "-m", "saga_cli", "local", "--port", "0"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("Ctrl-C"):
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert err == "saga: stopped, and what ran here is gone\n"
