from examples.travel import Trip, travel
from saga_core import SagaState, lint

ALL = ["hotel.book", "flight.book", "car.book"]


def test_the_example_is_free_of_findings():
    assert lint(travel) == ()


def test_all_three_are_booked(run, the_world):
    saga = run(travel, Trip("Astoria", "LH 1", "compact"))

    assert saga.state is SagaState.COMPLETED
    assert the_world.standing() == ALL
    assert set(saga.context.booked) == {"hotel", "flight", "car"}


def test_a_car_that_is_sold_out_gives_back_flight_and_hotel(run, the_world):
    saga = run(travel, Trip("Astoria", "LH 1", "convertible"))

    assert saga.state is SagaState.COMPENSATED
    assert the_world.standing() == []
    assert [c.operation for c in the_world.calls][-2:] == ["flight.cancel", "hotel.cancel"]
    assert saga.context.booked == {}


def test_a_flight_in_doubt_is_cancelled_too(run, the_world):
    for _ in range(3):
        the_world.lose_reply("flight.book", TimeoutError("no answer"))

    saga = run(travel, Trip("Astoria", "LH 1", "compact"))

    assert saga.state is SagaState.COMPENSATED
    assert the_world.effects("flight.book") == 1
    assert the_world.effects("car.book") == 0
    assert the_world.standing() == []


def test_a_car_in_doubt_goes_back_on_the_shelf(run, the_world):
    for _ in range(3):
        the_world.lose_reply("car.book", TimeoutError("no answer"))

    saga = run(travel, Trip("Astoria", "LH 1", "compact"))

    assert saga.state is SagaState.COMPENSATED
    assert the_world.shelf["compact"] == 5
