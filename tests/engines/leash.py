"""Runs a command for as long as its own standard input stays open: no engine outlives its tests.

    python leash.py COMMAND [ARGUMENT ...]

Whoever holds the other end of the pipe may end in any way, by a kill too. The
exit status is LEFT_BEHIND when the command's end left processes of it running;
they are ended here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading

GRACE_SECONDS = 10
LEFT_BEHIND = 3


def main(command: list[str]) -> int:
    """Run it until it ends, or until nobody holds the pipe any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the holder decides, and then the pipe closes
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    threading.Thread(target=_end_with_the_pipe, args=(process,), daemon=True).start()
    process.wait()
    return LEFT_BEHIND if _signalled(process.pid, signal.SIGKILL) else 0


def _end_with_the_pipe(process: subprocess.Popen[bytes]) -> None:
    sys.stdin.buffer.read()
    _signalled(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
        return
    _signalled(process.pid, signal.SIGKILL)


def _signalled(group: int, number: signal.Signals) -> bool:
    """Somebody of the group was there to be told."""
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
