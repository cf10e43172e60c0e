"""How a command says no: an exit status that scripts can use, and one line for people."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """What the command came to."""

    OK = 0
    NO = 1  # the saga did not complete, the definition has errors, the demo went wrong
    USAGE = 2  # argparse's own
    NOT_FOUND = 3
    NOT_ALLOWED = 4
    UNAVAILABLE = 5
    INTERRUPTED = 130


EPILOGUE = """\
exit status:
  0  it is done
  1  the saga ended otherwise than COMPLETED, the definition has errors, or the demo went wrong
  2  the command line or the input is wrong
  3  there is no such saga, stack or definition
  4  the saga's state does not allow it
  5  AWS, or the local runtime, cannot be reached or refuses
"""


class CommandError(Exception):
    """Ends a command with a status and one line on stderr."""

    def __init__(self, exit_: Exit, message: str) -> None:
        self.exit = exit_
        super().__init__(message)
