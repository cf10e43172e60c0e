"""What an item weighs, and how its heaviest part is made lighter."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mypy_boto3_dynamodb.type_defs import AttributeValueTypeDef

Value: TypeAlias = "AttributeValueTypeDef"
Item: TypeAlias = "dict[str, AttributeValueTypeDef]"

ITEM_LIMIT = 400 * 1024  # bytes; DynamoDB's own. ITEM_BUDGET of saga_core.ports is lower
MAX_CONTEXT = 4 * 1024 * 1024  # bytes that a compressed context may grow to: no zip bombs
_WORTHWHILE = 1024  # bytes that compression must save: one write unit of every later update


def pack_context(text: str) -> Value:
    """The context as text, or compressed when that saves a kilobyte.

    One that could not be read back is left as it is, and is too large for an item.
    """
    raw = text.encode()
    if _WORTHWHILE < len(raw) <= MAX_CONTEXT:
        packed = zlib.compress(raw)
        if len(raw) - len(packed) >= _WORTHWHILE:
            return {"B": packed}
    return {"S": text}


def unpack_context(value: Value) -> str:
    """The text that was packed.

    Raises:
        ValueError: It is cut off, or larger than any that was ever packed.
        zlib.error: It is not compressed data.
    """
    if "S" in value:
        return value["S"]
    unpacker = zlib.decompressobj()
    raw = unpacker.decompress(bytes(value["B"]), MAX_CONTEXT + 1)
    if len(raw) > MAX_CONTEXT or not unpacker.eof:
        raise ValueError("its context is cut off, or larger than any that was written")
    return raw.decode()


def item_size(item: Item) -> int:
    """Bytes of an item as DynamoDB counts them (guide, "DynamoDB item sizes and formats")."""
    return sum(len(name.encode()) + _value_size(value) for name, value in item.items())


def _value_size(value: Value) -> int:
    if "S" in value:
        return len(value["S"].encode())
    if "N" in value:
        digits = value["N"].lstrip("-").strip("0") or "0"
        return 1 + -(-len(digits) // 2)
    if "B" in value:
        return len(bytes(value["B"]))
    if "L" in value:
        return 3 + sum(1 + _value_size(v) for v in value["L"])
    if "M" in value:
        return 3 + sum(1 + len(n.encode()) + _value_size(v) for n, v in value["M"].items())
    return 1  # BOOL and NULL
