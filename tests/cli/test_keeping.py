"""What the local runtime keeps between two runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from saga_cli.local.clock import VirtualClock
from saga_cli.local.keeping import Keeper
from saga_cli.local.stack import LocalStack
from saga_cli.problems import CommandError, Exit
from saga_core.instance import SagaState

ROOT = Path(__file__).parents[2]


@contextmanager
def run_over(folder: Path, clock: VirtualClock) -> Iterator[LocalStack]:
    """A run that finds what the one before left, and leaves what it has."""
    with LocalStack(clock=clock) as stack:
        keeper = Keeper(folder, stack.template, stack.dynamodb)
        keeper.restore()
        yield stack
        keeper.keep()
        keeper.release()


def test_a_saga_goes_on_in_the_next_run_from_where_it_was(tmp_path):
    clock = VirtualClock()
    with run_over(tmp_path / "new", clock) as stack:
        answer = stack.http("POST", "/sagas/order", {"sku": "tea"}, key="k")
        stack.step()
        waiting = stack.messages("WorkQueue")
    with run_over(tmp_path / "new", clock) as stack:
        assert stack.messages("WorkQueue") == waiting
        assert stack.saga(answer.body["id"]).state is SagaState.RUNNING
        stack.run_until_quiet()
        assert stack.saga(answer.body["id"]).state is SagaState.COMPLETED
        again = stack.http("POST", "/sagas/order", {"sku": "tea"}, key="k")
        assert (again.status, again.body["id"]) == (200, answer.body["id"])


def test_bytes_are_kept(tmp_path):
    """A large context is stored compressed."""
    item: dict[str, Any] = {"pk": {"S": "S#t#1"}, "sk": {"S": "STATE"}, "ctx": {"B": b"\x00\xff"}}
    table = "local-SagaTable"
    with run_over(tmp_path, VirtualClock()) as stack:
        stack.dynamodb.put_item(TableName=table, Item=item)
    with run_over(tmp_path, VirtualClock()) as stack:
        assert stack.dynamodb.scan(TableName=table)["Items"] == [item]


def test_messages_keep_their_ids_their_deliveries_and_their_delays(tmp_path):
    clock = VirtualClock()
    with run_over(tmp_path, clock) as stack:
        id_ = stack.send("StartQueue", "not JSON", delay_s=10)
        clock.advance(11_000)
        (first,) = stack.sqs.receive_message(QueueUrl=stack.template.queue_url("StartQueue"))[
            "Messages"
        ]
        assert first["MessageId"] == id_
    with run_over(tmp_path, clock) as stack:
        queue = stack.template.queue_url("StartQueue")
        assert "Messages" not in stack.sqs.receive_message(QueueUrl=queue)  # still in flight
        clock.advance(3_600_000)
        (second,) = stack.sqs.receive_message(
            QueueUrl=queue, MessageSystemAttributeNames=["ApproximateReceiveCount"]
        )["Messages"]
        assert second["MessageId"] == id_
        assert second["Attributes"]["ApproximateReceiveCount"] == "2"


def test_nothing_is_written_when_nothing_changed(tmp_path):
    with LocalStack() as stack:
        keeper = Keeper(tmp_path, stack.template, stack.dynamodb)
        keeper.keep()
        (tmp_path / "state.json").unlink()
        keeper.keep()
        assert not (tmp_path / "state.json").exists()
        stack.send("StartQueue", "x")
        keeper.keep()
        assert (tmp_path / "state.json").exists()
        assert not (tmp_path / "state.draft").exists()


@pytest.mark.parametrize("text", ["", "{", json.dumps({"layout": 99})])
def test_what_cannot_be_read_is_not_taken_for_nothing(tmp_path, text):
    (tmp_path / "state.json").write_text(text)
    with LocalStack() as stack:
        keeper = Keeper(tmp_path, stack.template, stack.dynamodb)
        with pytest.raises(CommandError, match="delete it"):
            keeper.restore()


def test_two_runtimes_do_not_share_a_folder(tmp_path):
    with LocalStack() as stack:
        first, second = (Keeper(tmp_path, stack.template, stack.dynamodb) for _ in range(2))
        first.restore()
        with pytest.raises(CommandError, match="in use"):
            second.restore()
        first.release()
        second.restore()
        second.release()


def test_a_file_is_no_folder(saga, tmp_path):
    (tmp_path / "file").write_text("mine")
    ran = saga("local", "--port", "0", "--data", str(tmp_path / "file"))
    assert ran.exit == Exit.USAGE
    assert ran.err == f"saga: {tmp_path / 'file'}: File exists\n"
    assert (tmp_path / "file").read_text() == "mine"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a saga of its own."""
    shutil.copytree(ROOT / "examples", tmp_path / "mine", ignore=shutil.ignore_patterns("__*"))
    for module in (tmp_path / "mine").glob("*.py"):
        module.write_text(module.read_text().replace("examples.", "mine."))
    return tmp_path


def lines_until(stream: Iterator[str], text: str) -> list[str]:
    found = []
    for line in stream:
        found.append(line)
        if text in line:
            return found
    raise AssertionError("".join(found))


def test_it_begins_anew_on_a_save_and_keeps_its_data(project: Path):
    words = ["local", "--port", "0", "--definitions", "mine.order:order"]
    process = subprocess.Popen(
        [sys.executable, "-m", "saga_cli", *words, "--data", "kept", "--reload"],
        cwd=project,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        hint = "".join(lines_until(process.stdout, "Ctrl-C"))
        assert "its data in kept" in hint
        assert "export SAGA_DEFINITIONS=mine.order:order" in hint
        assert "saga start order --context '{…}'" in hint
        saga = project / "mine" / "order.py"
        good = saga.read_text()
        saga.write_text(good + "(\n")
        told = "".join(lines_until(process.stdout, "waiting for the next save"))
        assert "order.py changed; begun anew" in told
        assert "kept in kept" in told
        saga.write_text(good)
        lines_until(process.stdout, "Ctrl-C")
        assert json.loads((project / "kept" / "state.json").read_text())["layout"] == 1
    finally:
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "kept in kept" in rest
