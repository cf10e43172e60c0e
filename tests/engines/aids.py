"""What two engines need help with, lest a shortcoming hide all the rest of them.

test_unaided.py shows what is helped with here. ``events`` are a client's or a session's.
"""

from __future__ import annotations

from typing import Any

from infra.schema import PK, SK


def without_group(events: Any) -> None:
    """Have a client leave out what roto takes for a mistake on a standard queue."""

    def leave_out(params: dict[str, Any], **_: object) -> None:
        params.pop("MessageGroupId", None)

    events.register("provide-client-params.sqs.SendMessage", leave_out)


def with_old_item(events: Any, reader: Any) -> None:
    """Have a client read what stood in the way of a write, and add it to the refusal.

    What the refusal does not hand over is read a moment later. For tests in
    which nobody writes in that moment it is the same.
    """

    def remember(params: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        if params.get("ReturnValuesOnConditionCheckFailure") == "ALL_OLD":
            key = params.get("Key") or {name: params["Item"][name] for name in (PK, SK)}
            context["refused"] = {"TableName": params["TableName"], "Key": key}

    def add(parsed: dict[str, Any], context: dict[str, Any], **_: object) -> None:
        refused = parsed.get("Error", {}).get("Code") == "ConditionalCheckFailedException"
        if refused and "Item" not in parsed and "refused" in context:
            reply = reader.get_item(ConsistentRead=True, **context["refused"])
            parsed.update({"Item": reply["Item"]} if "Item" in reply else {})

    for operation in ("PutItem", "UpdateItem"):
        events.register(f"provide-client-params.dynamodb.{operation}", remember)
        events.register(f"after-call.dynamodb.{operation}", add)
