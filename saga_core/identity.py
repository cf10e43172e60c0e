"""Derived names: a saga's id, the fingerprint of its input, its shard, its place in a list.

Derived and not drawn, so that a repeated request finds what the first one made.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import zlib

SHARDS = 16  # partitions of each index; one partition would be a hot key
_ID_LENGTH = 26
SAGA_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,128}")
_TOKEN = re.compile(r"(.{1,64})\.([0-9]{1,3})\.[A-Za-z0-9_-]{22}")
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


def answer_token(saga_id: str, incarnation: str, secret: str, step: int) -> str:
    """The token under which the step at this place is answered; the same for every attempt.

    ``<saga id>.<step>.<128 bits>``, safe in a URL. The bits are an HMAC-SHA-256
    (RFC 2104) of incarnation and step under the saga's own secret: whoever has
    seen one token can make no other. Empty for a saga without a secret, begun
    by a release that had no answers.
    """
    if not secret:
        return ""
    seen = f"{saga_id}.{incarnation}.{step}".encode()
    digest = hmac.new(bytes.fromhex(secret), seen, hashlib.sha256).digest()[:16]
    bits = base64.urlsafe_b64encode(digest).decode().rstrip("=")
    return f"{saga_id}.{step}.{bits}"


def parse_token(token: str) -> tuple[str, int]:
    """The saga's id and the step's place that a token claims; whether it is right is not said.

    Raises:
        ValueError: It is none of ours.
    """
    match = _TOKEN.fullmatch(token)
    if match is None or not SAGA_ID.fullmatch(match[1]):
        raise ValueError("not an answer token")
    return match[1], int(match[2])


def same_token(one: str, other: str) -> bool:
    """Whether two tokens are the same, found out in a time that tells nothing of either."""
    return bool(one) and hmac.compare_digest(one.encode(), other.encode())


def child_id(tenant: str, key: str) -> str:
    """The id of the saga that a step starts, by the step's idempotency key."""
    return saga_id_for(tenant, f"child {key}")


def child_incarnation(key: str) -> str:
    """8 hex digits; of the parent's incarnation, which is in the key."""
    return hashlib.sha256(f"child {key}".encode()).hexdigest()[:8]


def child_secret(secret: str, key: str) -> str:
    """128 bits in hex, from the parent's own; empty when the parent has none."""
    if not secret:
        return ""
    return hmac.new(bytes.fromhex(secret), f"child {key}".encode(), hashlib.sha256).hexdigest()[:32]
