"""JSON from outside: what is ambiguous or made to hurt is refused."""

from __future__ import annotations

import json
from typing import NoReturn

MAX_DEPTH = 32


def strict_json(text: str | bytes) -> object:
    """The value.

    Raises:
        ValueError: Not JSON, not UTF-8, a key twice in one object, NaN or
            Infinity, a lone surrogate, or nested deeper than 32. The message
            never quotes the text.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode()
        _check_depth(text)
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # 1e999 is infinite
    except (ValueError, RecursionError) as exc:
        raise ValueError(_reason(exc)) from None
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, _RefusedError):
        return str(error)
    if isinstance(error, UnicodeError):
        return "not valid Unicode"
    return "not JSON"


class _RefusedError(ValueError):
    """JSON to the letter, and refused all the same."""


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _RefusedError("a key stands twice in one object")
    return found


def _no_constant(_name: str) -> NoReturn:
    raise _RefusedError("NaN and Infinity are not JSON")


def _check_depth(text: str) -> None:
    """Before parsing: the parser itself recurses."""
    depth, quoted, escaped = 0, False, False
    for char in text:
        if quoted:
            if escaped:
                escaped = False
            elif char == "\\":
                escaped = True
            elif char == '"':
                quoted = False
        elif char == '"':
            quoted = True
        elif char in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise _RefusedError(f"nested deeper than {MAX_DEPTH}")
        elif char in "]}":
            depth -= 1
