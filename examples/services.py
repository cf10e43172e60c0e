"""The services that the example sagas call: small, in memory, and well-behaved.

Well-behaved is what a saga asks of everything it calls, because a step may be
delivered more than once:

* the same key again gives the first answer and does nothing more;
* undoing what never happened succeeds, and leaves a tombstone;
* a call that arrives after its own undo is refused.

A real service keeps these marks in one transaction with its effect. These live
in ``world``, which also lets a test or the demo decide what goes wrong.
"""

from __future__ import annotations

import hashlib
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

DECLINED_CARD = "4000000000000002"
_ON_THE_SHELF = {"tea": 100, "teapot": 3, "unobtainium": 0, "compact": 5, "convertible": 0}


class ServiceError(Exception):
    """The service says no: nothing happened."""


class SoldOutError(ServiceError):
    """There is none left."""


class CardDeclinedError(ServiceError):
    """The bank says no, and will say so again."""


class TombstonedError(ServiceError):
    """The call comes after its own undo: too late, and refused."""


class WorkerKilledError(BaseException):
    """Stands for a process that died: no Exception, so nobody records it as an outcome."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call that reached a service, and what it came to there."""

    operation: str
    subject: str
    key: str
    outcome: str


@dataclass(frozen=True, slots=True)
class Effect:
    """Something that happened, once."""

    operation: str
    subject: str
    reference: str


@dataclass(slots=True)
class World:
    """Everything outside the sagas: what was done, what is left, what will go wrong.

    Attributes:
        done: The effects that happened, by idempotency key.
        undone: Keys whose effect was undone, or must not happen any more.
        calls: Every call in order, repeats included.
        shelf: How many there are left of each thing.
        mail: Questions that somebody was asked, and the token to answer each with.
    """

    done: dict[str, Effect] = field(default_factory=dict)
    undone: set[str] = field(default_factory=set)
    calls: list[Call] = field(default_factory=list)
    shelf: Counter[str] = field(default_factory=lambda: Counter(_ON_THE_SHELF))
    mail: dict[str, str] = field(default_factory=dict)
    _refusals: dict[str, deque[BaseException]] = field(default_factory=dict)
    _losses: dict[str, deque[BaseException]] = field(default_factory=dict)
    _broken: dict[str, Exception] = field(default_factory=dict)

    def reset(self) -> None:
        """Nothing happened yet, and nothing will go wrong."""
        fresh = World()
        for name in World.__slots__:
            setattr(self, name, getattr(fresh, name))

    def refuse(self, operation: str, error: BaseException) -> None:
        """The next call of this operation raises before anything happens."""
        self._refusals.setdefault(operation, deque()).append(error)

    def lose_reply(self, operation: str, error: BaseException) -> None:
        """The next call of this operation takes effect, and raises all the same."""
        self._losses.setdefault(operation, deque()).append(error)

    def break_down(self, operation: str, error: Exception) -> None:
        """Every call of this operation raises until ``repair``."""
        self._broken[operation] = error

    def repair(self, operation: str) -> None:
        """The operation works again."""
        self._broken.pop(operation, None)

    def standing(self) -> list[str]:
        """The operations whose effect stands, in the order in which they happened."""
        return [effect.operation for key, effect in self.done.items() if key not in self.undone]

    def effects(self, operation: str) -> int:
        """How often the operation took effect, undone or not. Repeats do not count."""
        return sum(1 for effect in self.done.values() if effect.operation == operation)

    def happen(self, operation: str, subject: str, key: str, take: Callable[[], None]) -> str:
        """Let an effect happen, once for each key, and answer with its reference."""
        self._strike(operation, subject, key)
        if key in self.undone:
            self._note(operation, subject, key, "refused: undone before")
            raise TombstonedError(f"{operation} was undone before it arrived")
        repeated = key in self.done
        if not repeated:
            try:
                take()
            except ServiceError as error:
                self._note(operation, subject, key, f"refused: {error}")
                raise
            reference = hashlib.sha256(key.encode()).hexdigest()[:8]
            self.done[key] = Effect(operation, subject, reference)
        self._note(operation, subject, key, "repeated" if repeated else "done")
        self._lose(operation)
        return self.done[key].reference

    def undo(self, operation: str, key: str, give_back: Callable[[], None]) -> None:
        """Undo the effect of a key, once; a tombstone is left also when there was none."""
        subject = self.done[key].subject if key in self.done else "nothing"
        self._strike(operation, subject, key)
        if key in self.undone:
            outcome = "repeated"
        elif key in self.done:
            give_back()
            outcome = "done"
        else:
            outcome = "nothing to undo"
        self.undone.add(key)
        self._note(operation, subject, key, outcome)
        self._lose(operation)

    def _strike(self, operation: str, subject: str, key: str) -> None:
        planned = self._refusals.get(operation)
        error = planned.popleft() if planned else self._broken.get(operation)
        if error is not None:
            self._note(operation, subject, key, f"refused: {error}")
            raise error

    def _lose(self, operation: str) -> None:
        planned = self._losses.get(operation)
        if planned:
            raise planned.popleft()

    def _note(self, operation: str, subject: str, key: str, outcome: str) -> None:
        self.calls.append(Call(operation, subject, key, outcome))


world = World()


class Orders:
    """Keeps the order book."""

    def create(self, sku: str, quantity: int, *, key: str) -> str:
        """Open an order for so many of a thing."""
        return world.happen("orders.create", f"{quantity} {sku}", key, lambda: None)

    def cancel(self, *, key: str) -> None:
        """Close the order that was created under this key."""
        world.undo("orders.cancel", key, lambda: None)


class Stock:
    """Counts what is on the shelf."""

    def reserve(self, sku: str, quantity: int, *, key: str) -> str:
        """Take it off the shelf. Raises SoldOutError when there is too little."""

        def take() -> None:
            if world.shelf[sku] < quantity:
                raise SoldOutError(f"{quantity} {sku} asked, {world.shelf[sku]} left")
            world.shelf[sku] -= quantity

        return world.happen("stock.reserve", f"{quantity} {sku}", key, take)

    def release(self, sku: str, quantity: int, *, key: str) -> None:
        """Put back what was reserved under this key."""

        def give_back() -> None:
            world.shelf[sku] += quantity

        world.undo("stock.release", key, give_back)


class Payments:
    """Talks to the bank."""

    def charge(self, card: str, *, key: str) -> str:
        """Take the money. Raises CardDeclinedError."""

        def take() -> None:
            if card == DECLINED_CARD:
                raise CardDeclinedError("the card was declined")

        return world.happen("payments.charge", f"card …{card[-4:]}", key, take)

    def refund(self, *, key: str) -> None:
        """Give back what was charged under this key."""
        world.undo("payments.refund", key, lambda: None)


class Budgets:
    """Knows how much may still be spent."""

    def hold(self, amount: int, *, key: str) -> str:
        """Set so much aside."""
        return world.happen("budgets.hold", str(amount), key, lambda: None)

    def release(self, *, key: str) -> None:
        """Let go of what was held under this key."""
        world.undo("budgets.release", key, lambda: None)


class Approvals:
    """Writes to the people who decide."""

    def ask(self, question: str, *, token: str, key: str) -> None:
        """Send the question, and what to answer it with."""
        world.happen("approvals.ask", question, key, lambda: None)
        world.mail[question] = token

    def withdraw(self, *, key: str) -> None:
        """Tell them that it is settled."""
        world.undo("approvals.withdraw", key, lambda: None)


class Shipping:
    """Hands parcels to a carrier."""

    def ship(self, order_id: str, *, key: str) -> str:
        """Send the parcel and answer with its tracking number."""
        return world.happen("shipping.ship", f"order {order_id}", key, lambda: None)

    def recall(self, *, key: str) -> None:
        """Have the parcel that was sent under this key brought back."""
        world.undo("shipping.recall", key, lambda: None)


class Bookings:
    """Books one kind of thing for a traveller, over an asynchronous client."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    async def book(self, what: str, *, key: str) -> str:
        """Book it. Raises SoldOutError when it is one of the things that run out."""

        def take() -> None:
            if what in world.shelf:
                if world.shelf[what] < 1:
                    raise SoldOutError(f"no {what} left")
                world.shelf[what] -= 1

        return world.happen(f"{self.kind}.book", what, key, take)

    async def cancel(self, what: str, *, key: str) -> None:
        """Give the booking back."""

        def give_back() -> None:
            if what in world.shelf:
                world.shelf[what] += 1

        world.undo(f"{self.kind}.cancel", key, give_back)
