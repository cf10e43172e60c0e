import pytest

from examples.services import Payments, SoldOutError, Stock, TombstonedError, World


def test_the_same_key_again_does_nothing_more(the_world: World):
    assert Payments().charge("1" * 16, key="k") == Payments().charge("1" * 16, key="k")
    assert the_world.effects("payments.charge") == 1


def test_what_never_happened_can_be_undone_and_cannot_happen_afterwards(the_world: World):
    Payments().refund(key="k")
    with pytest.raises(TombstonedError):
        Payments().charge("1" * 16, key="k")
    assert the_world.standing() == []


def test_undoing_twice_gives_back_once(the_world: World):
    Stock().reserve("tea", 5, key="k")
    Stock().release("tea", 5, key="k")
    Stock().release("tea", 5, key="k")
    assert the_world.shelf["tea"] == 100


def test_a_refused_call_leaves_the_key_free(the_world: World):
    with pytest.raises(SoldOutError, match="5 teapot asked, 3 left"):
        Stock().reserve("teapot", 5, key="k")
    Stock().reserve("teapot", 3, key="k")
    assert the_world.shelf["teapot"] == 0


def test_no_card_number_is_kept(the_world: World):
    Payments().charge("4242424242424242", key="k")
    assert "4242424242" not in repr(the_world)
