"""The sagas that are deployed: one setting, resolved when a function starts.

All of them are built and checked then, so a wrong one stops the first start of
a deployment and not the thousandth saga.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from infra.settings import SAGA_DEFINITIONS
from saga_core.authoring import Saga
from saga_core.definition import SagaDefinition
from saga_core.errors import DefinitionError, SagaError

_PART = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, slots=True)
class Registry:
    """Every definition that can run here, in the order in which they are listed.

    Raises:
        DefinitionError: Two of them have the same name and version.
    """

    all: tuple[SagaDefinition, ...]
    _by_ref: dict[str, SagaDefinition] = field(init=False, repr=False, compare=False)
    _newest: dict[str, SagaDefinition] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for d in self.all:
            label = f"{d.name}@{d.version}"
            if label in seen:
                raise DefinitionError(f"{SAGA_DEFINITIONS}: {label} is listed twice")
            seen.add(label)
        object.__setattr__(self, "_by_ref", {d.ref: d for d in self.all})
        object.__setattr__(self, "_newest", {d.name: d for d in self.all})

    def by_ref(self, ref: str) -> SagaDefinition | None:
        """The definition ``name@version#fingerprint``, exactly; None when not deployed."""
        return self._by_ref.get(ref)

    def newest(self, name: str) -> SagaDefinition | None:
        """The definition that a new saga of this name gets: the one listed last."""
        return self._newest.get(name)

    @property
    def refs(self) -> tuple[str, ...]:
        """``name@version#fingerprint`` of each."""
        return tuple(d.ref for d in self.all)


def load_definitions(setting: str) -> Registry:
    """Import what ``package.module:NAME[,...]`` names.

    Each NAME is a Saga, a SagaDefinition, or an iterable of them. The last one
    listed of a name is what new sagas get; the others finish theirs. An empty
    setting is an empty registry: the sweeper runs no saga's code.

    Raises:
        DefinitionError: Naming the setting and the part at fault.
    """
    parts = [part.strip() for part in setting.split(",")] if setting else []
    return Registry(tuple(d for part in parts for d in _definitions(part)))


def _definitions(part: str) -> Iterator[SagaDefinition]:
    where = f"{SAGA_DEFINITIONS}: {part!r}"
    if not _PART.fullmatch(part):
        raise DefinitionError(f"{where} is not of the form package.module:NAME")
    try:
        value = pkgutil.resolve_name(part)
    except SagaError as exc:
        raise DefinitionError(f"{where}: {exc}") from exc
    except Exception as exc:
        # Importing a user's module may raise anything, and none of it says for which setting.
        raise DefinitionError(f"{where} cannot be imported: {type(exc).__name__}: {exc}") from exc
    listed = value if isinstance(value, Iterable) else (value,)
    for item in listed:
        yield _definition(where, item)


def _definition(where: str, value: object) -> SagaDefinition:
    if isinstance(value, SagaDefinition):
        return value
    if not isinstance(value, Saga):
        kind = type(value).__name__
        raise DefinitionError(f"{where} is or holds a {kind}, not a Saga or SagaDefinition")
    try:
        return value.build()
    except DefinitionError as exc:
        raise DefinitionError(f"{where}: {exc}") from exc
