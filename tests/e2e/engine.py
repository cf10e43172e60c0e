"""The emulator: a process of our own on a free loopback port, started, restarted and ended here."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import trustme
import urllib3

from tests.e2e.sagas.world import PLACE

T = TypeVar("T")

REGION = "us-east-1"
interrupted = threading.Event()  # nobody waits any more

PATIENCE = 400  # seconds after which something counts as lost, on a slow machine too
START_SECONDS = 60
STOP_SECONDS = 60


def wait_for(what: str, look: Callable[[], T], seconds: float = PATIENCE, every: float = 0.2) -> T:
    """What ``look`` gives, once it is true.

    Raises:
        AssertionError: It did not become true in time, or the run was interrupted.
    """
    ends_at = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < ends_at, f"{what}: not within {seconds:.0f} s"
        assert not interrupted.wait(every), "interrupted"
    return found


@dataclass
class Engine:
    """ministack, over TLS, with its data in a folder.

    The port is chosen once: queue URLs hold it, and a restart must find them valid.

    Attributes:
        folder: What it keeps; emptied at the first start.
        auth: Evaluate IAM policies, the functions' own too.
    """

    folder: Path
    auth: bool = True
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    left_running: bool = False

    def __post_init__(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        (self.folder / "tmp").mkdir(parents=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca)
        server = authority.issue_cert("localhost", "127.0.0.1")
        server.private_key_pem.write_to_path(self.folder / "server.key")
        for part in server.cert_chain_pems:
            part.write_to_path(self.folder / "server.crt", append=True)

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}"

    @property
    def ca(self) -> Path:
        return self.folder / "ca.crt"

    @property
    def log(self) -> Path:
        return self.folder / "ministack.log"

    @property
    def world(self) -> Path:
        return self.folder / "world.sqlite"

    def environment(self) -> dict[str, str]:
        """What everything that talks to the emulator is told, and nothing of this machine's AWS."""
        kept = {k: v for k, v in os.environ.items() if k in {"PATH", "HOME", "LANG"}}
        return {
            **kept,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_REGION": REGION,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_ENDPOINT_URL": self.url,
            "AWS_CA_BUNDLE": str(self.ca),
            "NO_PROXY": "localhost,127.0.0.1",
            "SAM_CLI_TELEMETRY": "0",
        }

    def start(self) -> None:
        """Start it and wait until it answers."""
        state = str(self.folder / "state")
        environment = {
            **self.environment(),
            "AUTH": "true" if self.auth else "false",
            "BIND_HOST": "127.0.0.1",
            "GATEWAY_PORT": str(self.port),
            "USE_SSL": "1",
            "MINISTACK_SSL_CERT": str(self.folder / "server.crt"),
            "MINISTACK_SSL_KEY": str(self.folder / "server.key"),
            "LAMBDA_EXECUTOR": "local",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "PERSIST_STATE": "1",
            "STATE_DIR": state,
            "S3_PERSIST": "1",
            "S3_DATA_DIR": str(self.folder / "s3"),
            "TMPDIR": str(self.folder / "tmp"),
            # the functions inherit these two
            "SAGA_E2E_PYTHON": sys.executable,
            PLACE: str(self.world),
        }
        with self.log.open("ab") as log:
            # A session of its own: all that it starts can be found, and ended, by its group.
            self.process = subprocess.Popen(
                [Path(sys.executable).with_name("ministack")],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                start_new_session=True,
            )
        wait_for("the emulator's answer", self._answers, START_SECONDS, every=0.05)

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, f"the emulator ended by itself: {self.tail()}"
        try:
            with urllib3.PoolManager(ca_certs=str(self.ca), retries=False) as http:
                return http.request("GET", f"{self.url}/_ministack/health").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def stop(self) -> None:
        """Stop it cleanly, so that it saves its data, and its workers with it.

        Close your connections before: over TLS it waits half a minute for each that stays open.
        """
        if self.process is None:
            return
        process, self.process = self.process, None
        os.killpg(process.pid, signal.SIGTERM)  # the workers hold connections too
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        # Whatever it started is of its group. Once nobody is left, there is no group.
        ends_at = time.monotonic() + STOP_SECONDS
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < ends_at:
                os.killpg(process.pid, signal.SIGKILL)
                time.sleep(0.1)
            self.left_running = True

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
