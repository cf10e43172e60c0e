"""Derived names: a saga's id, the fingerprint of its input, its shard, its place in a list.

Derived and not drawn, so that a repeated request finds what the first one made.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import zlib

SHARDS = 16  # partitions of each index; one partition would be a hot key
_ID_LENGTH = 26
SAGA_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_PLACE = re.compile(r"[0-9]{13}#[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


def saga_id_for(tenant: str, idempotency_key: str) -> str:
    """The id of the saga that this tenant starts under this key; URL-safe."""
    digest = hashlib.sha256(f"{tenant}\0{idempotency_key}".encode()).digest()
    return base64.b32encode(digest).decode().lower()[:_ID_LENGTH]


def input_fingerprint(name: str, context_text: str) -> str:
    """SHA-256 of the saga's name and its input in canonical form (keys sorted)."""
    canonical = json.dumps([name, json.loads(context_text)], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def shard_of(saga_id: str) -> int:
    """The index partition of a saga, 0 to 15."""
    return zlib.crc32(saga_id.encode()) % SHARDS


def place_of(created_at: int, saga_id: str) -> str:
    """A sort key: by time of creation, then by id. It never changes."""
    return f"{created_at:013d}#{saga_id}"


def encode_cursor(place: str) -> str:
    """A page's cursor: where the next page goes on. It names no key and no tenant."""
    return base64.urlsafe_b64encode(json.dumps([1, place]).encode()).decode().rstrip("=")


def decode_cursor(cursor: str) -> str:
    """The place in a cursor.

    Raises:
        ValueError: It is not a cursor that ``encode_cursor`` made.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        value = json.loads(base64.urlsafe_b64decode(padded.encode("ascii")))
        version, place = value
    except (ValueError, TypeError) as exc:
        raise ValueError("not a cursor") from exc
    if version != 1 or not isinstance(place, str) or not _PLACE.fullmatch(place):
        raise ValueError("not a cursor")
    return place
