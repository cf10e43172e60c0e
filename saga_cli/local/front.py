"""The HTTP API on a port of this machine: in place of API Gateway, without its authorisation."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import parse_qsl, urlsplit

from saga_cli.local.events import HttpRequest
from saga_cli.local.pump import FunctionFailedError

Answer = Callable[[HttpRequest], Mapping[str, object]]


class Front(ThreadingHTTPServer):
    """Hands requests to the function behind the API.

    Args:
        port: Of 127.0.0.1; 0 takes a free one.
        answer: Calls the function.
    """

    daemon_threads = True

    def __init__(self, port: int, answer: Answer) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.answer = answer

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Front
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "saga-local", ""

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its parameter
        """Say nothing: the functions' own lines are printed."""

    def _answer(self) -> None:
        url = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        request = HttpRequest(
            method=self.command,
            path=url.path,
            query=dict(parse_qsl(url.query)),
            headers=dict(self.headers.items()),
            body=self.rfile.read(length).decode(errors="replace") if length else None,
        )
        try:
            answer = self.server.answer(request)
        except FunctionFailedError:
            answer = {"statusCode": 500, "body": json.dumps({"message": "Internal Server Error"})}
        body = str(answer.get("body") or "").encode()
        self.send_response(cast("int", answer["statusCode"]))
        for name, value in cast("dict[str, Any]", answer.get("headers") or {}).items():
            self.send_header(name, str(value))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
