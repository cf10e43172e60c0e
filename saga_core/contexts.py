"""A context as JSON text and back.

An instance holds its context as text, so every handler gets a copy of its own
and a failed attempt leaves no trace. This codec needs the standard library
only; ``infra.codec`` has one that validates with pydantic.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Protocol


class InvalidContextError(ValueError):
    """An input is not a context of the saga.

    ``fields`` holds (place, what is wrong) pairs and never a value.
    """

    def __init__(self, fields: tuple[tuple[str, str], ...]) -> None:
        self.fields = fields
        super().__init__(", ".join(place for place, _ in fields))


class ContextCodec(Protocol):
    """Translates between what handlers see and what is stored."""

    def encode(self, context: object) -> str:
        """JSON text. Raises any Exception when the value cannot be written as JSON."""

    def decode(self, text: str, context_type: type | None) -> object:
        """A fresh value of the type; the plain JSON value when the type is None."""


class StandardContextCodec:
    """Dictionaries, lists and scalars; dataclasses; anything shaped like a pydantic model."""

    def encode(self, context: object) -> str:
        """See ContextCodec."""
        dump = getattr(context, "model_dump_json", None)
        if dump is not None:
            text: str = dump()
            return text
        if dataclasses.is_dataclass(context) and not isinstance(context, type):
            context = dataclasses.asdict(context)
        return json.dumps(context, allow_nan=False, ensure_ascii=False, separators=(",", ":"))

    def decode(self, text: str, context_type: type | None) -> object:
        """See ContextCodec."""
        load = getattr(context_type, "model_validate_json", None)
        if load is not None:
            return load(text)
        value = json.loads(text)
        if context_type is not None and dataclasses.is_dataclass(context_type):
            return context_type(**value)
        return value
