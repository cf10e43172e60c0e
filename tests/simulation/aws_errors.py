"""Errors as botocore raises them, so that code under test meets what it will meet on AWS."""

from __future__ import annotations

from typing import Any, cast

from botocore.exceptions import ClientError

_BAD_REQUEST = 400


def client_error(
    operation: str,
    code: str,
    message: str,
    *,
    status: int = _BAD_REQUEST,
    **members: Any,
) -> ClientError:
    """The error of an AWS service.

    Args:
        operation: In AWS's spelling: ``UpdateItem``.
        code: What callers tell errors apart by.
        message: What people read.
        status: Of the HTTP answer; 5xx means that nobody knows what was done.
        members: Further members of the error's shape, ``Item`` for example.
    """
    response: dict[str, Any] = {
        "Error": {"Message": message, "Code": code},
        "ResponseMetadata": {"HTTPStatusCode": status, "RetryAttempts": 0},
        "message": message,
        **members,
    }
    return ClientError(cast("Any", response), operation)


class RefusedError(Exception):
    """A service refuses a request; the client makes a ClientError of it.

    Args:
        code: See ``client_error``; likewise ``message`` and ``members``.
    """

    def __init__(self, code: str, message: str, **members: Any) -> None:
        self.code = code
        self.members: dict[str, Any] = members
        super().__init__(message)


class ValidationError(RefusedError):
    """DynamoDB does not understand the request, or not allow it."""

    def __init__(self, message: str) -> None:
        super().__init__("ValidationException", message)
