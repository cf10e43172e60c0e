"""Which engine runs what, and what is known not to work on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

TABLE_ENGINES = ("moto", "ministack", "dynalite", "roto")
OPTIONAL = ("dynamodb-local",)
QUEUE_ENGINES = ("moto", "ministack", "roto")


Test = TypeVar("Test", bound=Callable[..., object])


def on(*engines: str) -> Callable[[Test], Test]:
    """Run a test on these engines; otherwise its module's ENGINES count, or all."""

    def mark(test: Test) -> Test:
        test.engines = engines  # type: ignore[attr-defined]  # read by conftest.py
        return test

    return mark


@dataclass(frozen=True, slots=True)
class Deviation:
    """What an engine does otherwise than AWS documents, and the tests that show it.

    Attributes:
        tests: ``module::test``, without their ``test_``.
    """

    engine: str
    reason: str
    tests: tuple[str, ...]


DEVIATIONS = (
    Deviation(
        "dynalite",
        "a refused write does not hand over the item in the way",
        ("unaided::a_refusal_hands_over_what_stood_in_the_way",),
    ),
    Deviation(
        "roto",
        "a refused write does not hand over the item in the way",
        ("unaided::a_refusal_hands_over_what_stood_in_the_way",),
    ),
    Deviation(
        "roto",
        "a standard queue refuses a message with a MessageGroupId",
        (
            "unaided::a_message_for_a_standard_queue_may_have_a_group",
            "queue::a_message_is_grouped_by_a_hash_of_its_tenant",
            "work_queue::an_announcement_keeps_its_group",
        ),
    ),
    Deviation(
        "ministack",
        "a message that is deleted cannot be deleted again",
        ("work_queue::a_message_may_be_deleted_twice",),
    ),
    Deviation(
        "ministack",
        "a message that moves to its dead-letter queue brings the receives it had along",
        ("work_queue::a_dead_letter_has_receives_of_its_own_before_it_is_parked",),
    ),
)
