"""The sagas that are deployed: one setting, resolved when a function starts.

All of them are built and checked then, so a wrong one stops the first start of
a deployment and not the thousandth saga.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from infra.settings import SAGA_DEFINITIONS, SAGA_STEP_SECONDS
from saga_core.authoring import Saga
from saga_core.definition import SagaDefinition, over_budget
from saga_core.errors import DefinitionError, SagaError

_PART = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


@dataclass(frozen=True, slots=True)
class Registry:
    """Every definition that can run here, in the order in which they are listed.

    The sagas that their steps start are among them, listed or not.

    Raises:
        DefinitionError: Two of them have the same name and version.
    """

    all: tuple[SagaDefinition, ...]
    _by_ref: dict[str, SagaDefinition] = field(init=False, repr=False, compare=False)
    _newest: dict[str, SagaDefinition] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        listed: dict[str, str] = {}
        for d in self.all:
            label = f"{d.name}@{d.version}"
            if label in listed:
                raise DefinitionError(f"{SAGA_DEFINITIONS}: {label} is listed twice")
            listed[label] = d.ref
        children = [child for d in self.all for child in d.children]
        for d in children:
            label = f"{d.name}@{d.version}"
            if listed.setdefault(label, d.ref) != d.ref:
                raise DefinitionError(f"{SAGA_DEFINITIONS}: {label} means two different sagas")
        everything = {d.ref: d for d in (*children, *self.all)}
        object.__setattr__(self, "_by_ref", everything)
        object.__setattr__(self, "_newest", {d.name: d for d in everything.values()})

    def by_ref(self, ref: str) -> SagaDefinition | None:
        """The definition ``name@version#fingerprint``, exactly; None when not deployed."""
        return self._by_ref.get(ref)

    def newest(self, name: str) -> SagaDefinition | None:
        """The definition that a new saga of this name gets: the one listed last."""
        return self._newest.get(name)

    def check_budget(self, step_ms: int) -> None:
        """Whether every step that states a time-out has the time here.

        Raises:
            DefinitionError: Naming saga, step and setting (SAGA019).
        """
        for d in self._by_ref.values():
            findings = over_budget(d, step_ms)
            if findings:
                listed = "; ".join(map(str, findings))
                raise DefinitionError(f"{SAGA_STEP_SECONDS}: saga {d.name}: {listed}")

    @property
    def refs(self) -> tuple[str, ...]:
        """``name@version#fingerprint`` of each."""
        return tuple(self._by_ref)


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
