"""The numbers that decide how long a call may take, and how often it is made."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from botocore.config import Config
from botocore.exceptions import ReadTimeoutError

from infra import clients
from infra.clients import CONNECT_TIMEOUT, READ_TIMEOUT, TRIES, dynamodb_client, sqs_client


@pytest.fixture(autouse=True)
def credentials(monkeypatch):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")


@pytest.mark.parametrize("make", [dynamodb_client, sqs_client])
def test_time_outs_and_retries_are_ours(make):
    config = make().meta.config
    assert config.connect_timeout == CONNECT_TIMEOUT
    assert config.read_timeout == READ_TIMEOUT
    assert config.retries["mode"] == "standard"
    assert config.retries["total_max_attempts"] == TRIES


@pytest.mark.parametrize("make", [dynamodb_client, sqs_client])
def test_another_endpoint_can_be_given(make):
    assert make("http://localhost:1234").meta.endpoint_url == "http://localhost:1234"


@contextmanager
def deaf_server() -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that takes every connection and answers none."""
    server = socket.create_server(("127.0.0.1", 0))
    taken: list[socket.socket] = []

    def accept() -> None:
        while True:
            try:
                taken.append(server.accept()[0])
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}", taken
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join()
        for connection in taken:
            connection.close()


def test_an_answer_that_does_not_come_is_asked_for_four_times(monkeypatch):
    quick = clients.CONFIG.merge(Config(read_timeout=0.05))
    monkeypatch.setattr(clients, "CONFIG", quick)
    with deaf_server() as (url, taken):
        client = dynamodb_client(url)
        with pytest.raises(ReadTimeoutError):
            client.get_item(TableName="t", Key={"pk": {"S": "x"}})
        client.close()
    assert len(taken) == TRIES
