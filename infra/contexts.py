"""Contexts that pydantic validates. It is imported when the first declared type needs it."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING, get_args

from saga_core.contexts import ContextCodec, InvalidContextError, StandardContextCodec

if TYPE_CHECKING:
    from pydantic import TypeAdapter
    from pydantic_core import ErrorDetails

# What one answer names at most: an input of 64 KB may hold ten thousand unknown fields.
_MOST_FIELDS = 50
_LONGEST_PLACE = 200  # characters
_DETAIL = re.compile("[,:] ")  # "Input should be a valid UUID, invalid character: ... found `k`"
# The rest of such a message is the exception's own text, and that likes to quote values.
_FROM_VALIDATORS = {"value_error": "Value error", "assertion_error": "Assertion failed"}


class PydanticContextCodec(ContextCodec):
    """Pydantic models, dataclasses and TypedDicts by their declared types; plain JSON as it is.

    What was written can be read again: field names and aliases are both read,
    computed fields are not written, and a value that is not of its field's type
    is an error when it is written, not at the next step. NaN is an error, too:
    JSON has no word for it. A value in a TypedDict must be JSON's own (no
    datetime): a dict does not say which type it is of.
    """

    def __init__(self) -> None:
        self._standard = StandardContextCodec()
        self._adapters: dict[type, TypeAdapter[object]] = {}

    def encode(self, context: object) -> str:
        """See ContextCodec."""
        if dataclasses.is_dataclass(context) or hasattr(context, "model_dump_json"):
            context = self._adapter(type(context)).dump_python(
                context, mode="json", round_trip=True, warnings="error"
            )
        return self._standard.encode(context)

    def decode(self, text: str, context_type: type | None) -> object:
        """See ContextCodec.

        Raises:
            pydantic.ValidationError: The text is not of the type.
        """
        if context_type is None:
            return self._standard.decode(text, None)
        return self._adapter(context_type).validate_json(text, by_alias=True, by_name=True)

    def accept(self, text: str, context_type: type | None) -> str:
        """The text of an input as it will be stored: checked, with defaults filled in.

        Stricter than ``decode``: fields that the type does not declare are
        refused at every level, whatever it is configured to do with them, so
        that a misspelt one is not lost silently.

        Raises:
            InvalidContextError: Naming each field at fault.
        """
        if context_type is None:
            if not isinstance(self._standard.decode(text, None), dict):
                raise InvalidContextError((("context", "Input should be an object"),))
            return text
        from pydantic import ValidationError  # noqa: PLC0415 - a fifth of a second of cold start

        try:
            context = self._adapter(context_type).validate_json(
                text, extra="forbid", by_alias=True, by_name=True
            )
        except ValidationError as exc:
            listed = exc.errors(include_url=False, include_input=False)
            fields = tuple((_place(e["loc"]), _wrong(e)) for e in listed[:_MOST_FIELDS])
            raise InvalidContextError(fields) from None
        try:
            return self.encode(context)
        except (ValueError, TypeError) as exc:
            reason = f"cannot be kept as JSON: {type(exc).__name__}"
            raise InvalidContextError((("context", reason),)) from None

    def _adapter(self, context_type: type) -> TypeAdapter[object]:
        adapter = self._adapters.get(context_type)
        if adapter is None:
            from pydantic import TypeAdapter  # noqa: PLC0415 - see above

            adapter = self._adapters[context_type] = TypeAdapter(context_type)
        return adapter


def _place(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location))[:_LONGEST_PLACE] or "context"


def _wrong(error: ErrorDetails) -> str:
    """What pydantic says, without the part that may quote the input."""
    from pydantic_core.core_schema import ErrorType  # noqa: PLC0415 - see above

    kind, message, details = error["type"], error["msg"], error.get("ctx", {})
    if kind not in get_args(ErrorType) or "tag" in details:
        return "Input is not valid"  # a validator of the user's, or a tag that is quoted
    if kind in _FROM_VALIDATORS:
        return _FROM_VALIDATORS[kind]
    if "error" in details or "encoding_error" in details:
        return _DETAIL.split(message)[0]
    return message
