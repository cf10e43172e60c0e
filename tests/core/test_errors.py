from __future__ import annotations

import inspect

import pytest

from saga_core import errors
from saga_core.errors import (
    AlreadyCompletedError,
    CompensationFailedError,
    DefinitionMismatchError,
    DuplicateSagaError,
    ItemTooLargeError,
    NotAllowedError,
    SagaError,
    SagaNotFoundError,
    SagaTimeoutError,
    StaleInstanceError,
    StepFailedError,
    StoreError,
)


def drawn() -> dict[str, int]:
    """The classes of the tree in the module's docstring, and how deep each stands."""
    assert errors.__doc__ is not None
    tree = [line for line in errors.__doc__.splitlines() if "Error" in line]
    found = {}
    for line in tree:
        name = line.strip(" │├└─").split()[0]
        found[name] = (len(line) - len(line.lstrip(" │├└─"))) // 4 - 1
    return found


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes():
    classes = {
        name: len(cls.__mro__) - len(SagaError.__mro__)
        for name, cls in vars(errors).items()
        if inspect.isclass(cls) and issubclass(cls, SagaError)
    }
    assert drawn() == classes


@pytest.mark.parametrize(
    ("make", "message", "attributes"),
    [
        (
            lambda: DefinitionMismatchError("s1", "order@1#aa", ("order@2#bb", "order@3#cc")),
            "saga s1 needs definition order@1#aa; deployed: order@2#bb, order@3#cc",
            {"saga_id": "s1", "wanted": "order@1#aa", "deployed": ("order@2#bb", "order@3#cc")},
        ),
        (
            lambda: DefinitionMismatchError("s1", "order@1#aa", ()),
            "saga s1 needs definition order@1#aa; deployed: none",
            {"deployed": ()},
        ),
        (lambda: StoreError("down"), "down", {"ambiguous": False}),
        (lambda: StoreError("lost", ambiguous=True), "lost", {"ambiguous": True}),
        (
            lambda: ItemTooLargeError("s1", 9, 8),
            "saga s1 would take 9 bytes; the limit is 8",
            {"saga_id": "s1", "size": 9, "limit": 8, "ambiguous": False},
        ),
        (
            lambda: StaleInstanceError("s1", 3),
            "saga s1 is no longer at version 3",
            {"saga_id": "s1", "version": 3},
        ),
        (lambda: SagaNotFoundError("s1"), "no saga s1", {"saga_id": "s1"}),
        (
            lambda: DuplicateSagaError("s1"),
            "the idempotency key of saga s1 was used with another input",
            {"saga_id": "s1"},
        ),
        (
            lambda: AlreadyCompletedError("s1", "COMPLETED"),
            "saga s1 is COMPLETED",
            {"saga_id": "s1", "state": "COMPLETED"},
        ),
        (
            lambda: NotAllowedError("s1", "FAILED", "closed"),
            "saga s1 is FAILED: closed",
            {"saga_id": "s1", "state": "FAILED", "reason": "closed"},
        ),
        (
            lambda: StepFailedError("s1", "charge", 3, "Declined: no"),
            "saga s1: step charge failed at attempt 3: Declined: no",
            {"saga_id": "s1", "step": "charge", "attempts": 3},
        ),
        (
            lambda: SagaTimeoutError("s1"),
            "saga s1: its deadline passed and it was rolled back",
            {"saga_id": "s1"},
        ),
        (
            lambda: CompensationFailedError("s1", "charge", 2, ("charge", "reserve")),
            (
                "saga s1: the compensation of step charge failed at attempt 2; "
                "standing: charge, reserve"
            ),
            {"saga_id": "s1", "step": "charge", "attempts": 2, "standing": ("charge", "reserve")},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_says_whom_it_is_about_and_carries_it(make, message, attributes):
    error = make()
    assert str(error) == message
    assert {name: getattr(error, name) for name in attributes} == attributes
    assert isinstance(error, SagaError)
