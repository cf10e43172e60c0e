"""A trip: book hotel, flight and car, or none of them. In class style, and async.

One class serves all three steps: a step object may carry what it needs.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta

from examples.services import Bookings, SoldOutError
from saga_core import RetryPolicy, SagaDefinition, StepCall, steps


@dataclass(frozen=True, slots=True)
class Trip:
    """Where to stay, how to get there, what to drive; and the booking of each."""

    hotel: str
    flight: str
    car: str
    booked: dict[str, str] = field(default_factory=dict)


class Book:
    """Books what the trip says under this step's name."""

    retry = RetryPolicy(max_attempts=3)
    fatal_on = (SoldOutError,)

    def __init__(self, name: str) -> None:
        self.name = name
        self.bookings = Bookings(name)

    async def execute(self, trip: Trip, call: StepCall) -> Trip:
        """Book it, and give back the trip with the booking in it."""
        booking = await self.bookings.book(getattr(trip, self.name), key=call.idempotency_key)
        return replace(trip, booked={**trip.booked, self.name: booking})

    async def compensate(self, trip: Trip, call: StepCall) -> Trip:
        """Cancel the booking. The forward call's key finds it."""
        await self.bookings.cancel(getattr(trip, self.name), key=call.execute_key)
        return replace(trip, booked={k: v for k, v in trip.booked.items() if k != self.name})


travel = SagaDefinition(
    name="travel",
    context_type=Trip,
    steps=steps(Book("hotel"), Book("flight"), Book("car")),
    timeout=timedelta(minutes=30),
)
