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


# -- what one of several branches changed ------------------------------------------
#
# The steps of a group all see the context as it was when the group began. What each of them
# changed is kept apart, by the fields at the top of the context, until the last of them is
# done: so what a branch sees hangs on no schedule, and two that write one field are found out.


@dataclasses.dataclass(frozen=True, slots=True)
class Delta:
    """What a handler changed of a context: fields set, and fields taken out.

    A context that is no JSON object has no fields: it is changed as a whole,
    which is written as the one field ``""``.
    """

    fields: dict[str, object]
    gone: tuple[str, ...] = ()

    @classmethod
    def between(cls, before: str, after: str) -> Delta:
        """The change from one context to another, both JSON text."""
        old, new = json.loads(before), json.loads(after)
        if not isinstance(old, dict) or not isinstance(new, dict):
            return cls({} if old == new else {"": new})
        changed = {k: v for k, v in new.items() if k not in old or not _same(old[k], v)}
        return cls(changed, tuple(k for k in old if k not in new))

    @classmethod
    def from_text(cls, text: str) -> Delta:
        """What ``text`` gave."""
        fields, gone = json.loads(text)
        return cls(fields, tuple(gone))

    @property
    def text(self) -> str:
        """As JSON text, to be stored."""
        return _dumped([self.fields, list(self.gone)])

    @property
    def names(self) -> frozenset[str]:
        """The fields that it touches."""
        return frozenset(self.fields) | frozenset(self.gone)

    def applied(self, text: str) -> str:
        """The context with the change made; JSON text."""
        if not self.names:
            return text
        value = json.loads(text)
        if not isinstance(value, dict):
            return _dumped(self.fields[""]) if "" in self.fields else text
        kept = {k: v for k, v in value.items() if k not in self.gone}
        return _dumped({**kept, **self.fields})


def _same(one: object, other: object) -> bool:
    """Equal as JSON is: to Python, 1 is 1.0 and True."""
    return _dumped(one) == _dumped(other)


def _dumped(value: object) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
