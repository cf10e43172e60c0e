"""Engines that answer as AWS does: each a process of its own, on a free loopback port."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.engines.leash import LEFT_BEHIND
from tests.fakes.aws import REGION

ROOT = Path(__file__).parents[2]
START_SECONDS = 60
STOP_SECONDS = 30

# A user's own copy: its licence asks for an AWS account, so it is never installed here.
DYNAMODB_LOCAL = "SAGA_DYNAMODB_LOCAL"

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": REGION,
    "AWS_REGION": REGION,
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "localhost,127.0.0.1",
}


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the engines are installed.

    Attributes:
        engines: Virtual environment of the group ``engines``.
        e2e: Likewise of ``e2e``, which has ministack.
        dynalite: Folder of its node_modules.
    """

    engines: Path
    e2e: Path
    dynalite: Path

    @property
    def has_dynalite(self) -> bool:
        """It is there: without Node it is not."""
        return self._dynalite.exists()

    @property
    def _dynalite(self) -> Path:
        return self.dynalite / "node_modules" / ".bin" / "dynalite"

    def command(self, name: str, port: int, folder: Path) -> list[str | Path]:
        """What starts an engine."""
        here = ["--host", "127.0.0.1", "--port", str(port)]
        match name:
            case "moto":
                return [sys.executable, Path(__file__).with_name("moto_server.py"), str(port)]
            case "ministack":
                return [self.e2e / "bin" / "ministack"]
            case "dynalite":
                return [self._dynalite, *here, "--createTableMs", "0", "--deleteTableMs", "0"]
            case "roto":
                return [self.engines / "bin" / "roto-server", *here, "--data-dir", folder]
            case "microburst":
                return [self.engines / "bin" / "microburst", *here]
            case "dynamodb-local":
                jar = Path(os.environ[DYNAMODB_LOCAL]).absolute()
                library = f"-Djava.library.path={jar.parent / 'DynamoDBLocal_lib'}"
                options = ["-port", str(port), "-inMemory", "-sharedDb", "-disableTelemetry"]
                return ["java", "-Xmx256m", library, "-jar", jar, *options]
            case _:
                raise ValueError(f"no engine is called {name}")


@dataclass
class Started:
    """A process that was started, and how it went."""

    name: str
    url: str
    log: Path
    start_seconds: float = 0.0
    left_behind: bool = field(default=False, compare=False)


@contextmanager
def running(name: str, tools: Tools, folder: Path) -> Iterator[Started]:
    """An engine, until the block ends. DynamoDB Local may be one that is running already."""
    theirs = os.environ.get(DYNAMODB_LOCAL, "")
    if name == "dynamodb-local" and theirs.startswith("http"):
        yield Started(name, theirs, folder / "none.log")
        return
    port = free_port()
    environment = {
        # ministack
        "BIND_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(port),
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
    }
    with process(name, tools.command(name, port, folder), port, folder, environment) as started:
        yield started


@contextmanager
def process(
    name: str,
    command: Sequence[str | Path],
    port: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Started]:
    """Anything that answers HTTP on this port, until the block ends."""
    folder.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    started = Started(name, f"http://127.0.0.1:{port}", folder / f"{name}.log")
    kept = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG"}}
    with started.log.open("wb") as log:
        leash = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("leash.py"), *command],
            env={
                **kept,
                **CREDENTIALS,
                "PYTHONPATH": str(ROOT),
                "PYTHONDONTWRITEBYTECODE": "1",
                "TMPDIR": str(folder),
                **(environment or {}),
            },
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
        )
    try:
        _wait_until_it_answers(started, port, leash)
        started.start_seconds = time.monotonic() - began
        yield started
    finally:
        assert leash.stdin is not None
        leash.stdin.close()
        started.left_behind = leash.wait(STOP_SECONDS) == LEFT_BEHIND


def _wait_until_it_answers(started: Started, port: int, leash: subprocess.Popen[bytes]) -> None:
    ends_at = time.monotonic() + START_SECONDS
    while not _answers(port):
        if leash.poll() is not None:
            raise RuntimeError(f"{started.name} ended by itself:\n{tail(started.log)}")
        if time.monotonic() > ends_at:
            raise RuntimeError(f"{started.name} does not answer:\n{tail(started.log)}")
        time.sleep(0.05)


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def tail(log: Path, lines: int = 20) -> str:
    """The end of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
