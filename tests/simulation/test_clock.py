"""Time, ids and chance by hand."""

from __future__ import annotations

from tests.simulation.clock import BEGINNING_MS, SandboxClock, WorldTime


def test_time_passes_by_hand_and_never_back():
    world = WorldTime()
    world.advance(5)
    world.advance(-5)
    world.advance_to(BEGINNING_MS)
    assert world() == BEGINNING_MS + 5
    world.advance_to(BEGINNING_MS + 9)
    assert world() == BEGINNING_MS + 9


def test_a_sandbox_may_have_the_wrong_time():
    world = WorldTime()
    ahead, behind = SandboxClock(world, "a", skew_ms=40_000), SandboxClock(world, "b", skew_ms=-3)
    assert (ahead.now_ms(), behind.now_ms()) == (BEGINNING_MS + 40_000, BEGINNING_MS - 3)
    ahead.skew_ms = 0
    assert ahead.now_ms() == BEGINNING_MS


def test_who_sleeps_lets_the_world_go_on():
    world = WorldTime()
    SandboxClock(world, "a").sleep_ms(50)
    SandboxClock(world, "a").sleep_ms(-50)
    assert world() == BEGINNING_MS + 50


def test_sleeping_may_be_the_scheduler_s_part():
    world, slept = WorldTime(), list[int]()
    SandboxClock(world, "a", sleep=slept.append).sleep_ms(50)
    assert slept == [50]
    assert world() == BEGINNING_MS


def test_one_seed_draws_the_same_ids_and_chances():
    def drawn(seed: str) -> list[object]:
        clock = SandboxClock(WorldTime(), seed)
        return [clock.new_id(), clock.new_incarnation(), clock.jitter(), clock.new_id()]

    assert drawn("a") == drawn("a") != drawn("b")


def test_ids_and_chances_look_like_the_real_ones():
    clock = SandboxClock(WorldTime(), "a")
    ids = {clock.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert {len(i) for i in ids} == {32}
    assert len(clock.new_incarnation()) == 8
    assert all(0 <= clock.jitter() < 1 for _ in range(100))


def test_one_id_more_changes_no_chance():
    one, other = SandboxClock(WorldTime(), "a"), SandboxClock(WorldTime(), "a")
    one.new_id()
    assert one.jitter() == other.jitter()
