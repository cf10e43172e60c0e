from __future__ import annotations

import http.client

import pytest

from saga_core.outcome import (
    LOST_REPLIES,
    MAX_MESSAGE,
    Done,
    Failed,
    Fatal,
    InDoubt,
    OutcomeUnknown,
    StepError,
    classify,
)


class MineError(Exception):
    """A user's own error."""


class OursError(MineError):
    """Another."""


def verdict(error: Exception, *, fatal_on=(), in_doubt_on=()):
    return classify(error, fatal_on=fatal_on, in_doubt_on=in_doubt_on)


def foreign(qualified: str, *bases: type[Exception]) -> Exception:
    """An exception of a library that is not installed."""
    module, _, name = qualified.rpartition(".")
    named = {"__module__": module, "__qualname__": name}
    cls: type[Exception] = type(name, bases or (Exception,), named)
    return cls("lost")


def raised(error: Exception, *cause: Exception | None) -> Exception:
    """The exception as it arrives when it was raised, from a cause if one is given."""
    error.__context__ = TimeoutError("read")  # it was raised while a time-out was handled
    for given in cause:
        error.__cause__ = given  # sets __suppress_context__, as `raise ... from` does
    return error


def test_a_plain_exception_is_known_failed_and_may_be_tried_again():
    assert verdict(MineError("no")) == Failed(StepError("MineError", "no"), fatal=False)


def test_fatal_is_known_failed_and_not_tried_again():
    assert verdict(Fatal("no")) == Failed(StepError("Fatal", "no"), fatal=True)
    assert verdict(OursError("no"), fatal_on=(MineError,)) == Failed(
        StepError("OursError", "no"), fatal=True
    )


def test_outcome_unknown_is_in_doubt_and_may_be_tried_again():
    assert verdict(OutcomeUnknown("?")) == InDoubt(StepError("OutcomeUnknown", "?"), final=False)


def test_in_doubt_on_may_go_up_to_every_exception():
    assert verdict(MineError("?"), in_doubt_on=(Exception,)) == InDoubt(
        StepError("MineError", "?"), final=False
    )


def test_doubt_wins_over_certainty_and_keeps_that_trying_again_is_pointless():
    error = StepError("OursError", "?")
    assert verdict(OursError("?"), fatal_on=(OursError,), in_doubt_on=(MineError,)) == InDoubt(
        error, final=True
    )
    assert verdict(Fatal("?"), in_doubt_on=(Exception,)) == InDoubt(
        StepError("Fatal", "?"), final=True
    )


@pytest.mark.parametrize(
    "error",
    [TimeoutError("t"), ConnectionError("c"), ConnectionResetError("c"), BrokenPipeError("p")],
    ids=repr,
)
def test_a_lost_reply_of_the_standard_library_is_in_doubt(error):
    assert isinstance(verdict(error), InDoubt)
    assert not verdict(error).final


@pytest.mark.parametrize("qualified", sorted(LOST_REPLIES))
def test_a_lost_reply_of_a_client_library_is_in_doubt_by_its_name(qualified):
    assert isinstance(verdict(foreign(qualified)), InDoubt)


def test_a_subclass_of_a_lost_reply_is_one():
    parent = type(foreign("httpx.ReadTimeout"))
    assert isinstance(verdict(foreign("mine.SlowError", parent)), InDoubt)


def test_the_real_name_of_the_standard_librarys_incomplete_read_is_on_the_list():
    assert isinstance(verdict(http.client.IncompleteRead(b"")), InDoubt)


@pytest.mark.parametrize(
    "qualified",
    [
        "httpx.ConnectTimeout",
        "botocore.exceptions.ConnectTimeoutError",
        "urllib3.exceptions.NewConnectionError",
        "mine.ReadTimeout",
    ],
)
def test_a_request_that_never_left_is_known_failed(qualified):
    assert isinstance(verdict(foreign(qualified)), Failed)


def test_wrapping_a_lost_reply_does_not_make_the_effect_go_away():
    assert isinstance(verdict(raised(MineError("wrapped"), TimeoutError("read"))), InDoubt)
    assert isinstance(verdict(raised(MineError("forgotten"))), InDoubt)
    assert isinstance(verdict(raised(MineError("?"), OutcomeUnknown("inner"))), InDoubt)


def test_the_error_that_is_kept_is_the_one_that_was_raised():
    assert verdict(raised(MineError("wrapped"), TimeoutError("read"))).error == StepError(
        "MineError", "wrapped"
    )


def test_from_none_says_that_the_effect_did_not_happen():
    assert isinstance(verdict(raised(MineError("certain"), None)), Failed)


def test_another_cause_hides_the_lost_reply_behind_it():
    assert isinstance(verdict(raised(MineError("?"), ValueError("bad"))), Failed)


def test_a_chain_is_followed_to_its_end():
    inner = raised(ValueError("two"))
    assert isinstance(verdict(raised(MineError("three"), inner)), InDoubt)


def test_a_fatal_error_is_believed_whatever_it_wraps():
    assert verdict(raised(Fatal("no"), TimeoutError("read"))) == Failed(
        StepError("Fatal", "no"), fatal=True
    )
    assert isinstance(verdict(raised(MineError("no")), fatal_on=(MineError,)), Failed)


def test_one_lost_reply_in_a_group_puts_the_whole_in_doubt():
    group = ExceptionGroup("all", [ValueError("no"), ExceptionGroup("some", [TimeoutError("t")])])
    assert isinstance(verdict(group), InDoubt)
    assert isinstance(verdict(ExceptionGroup("all", [ValueError("no")])), Failed)


def test_a_member_that_stands_twice_in_a_group_hides_nothing():
    twice = ValueError("no")
    assert isinstance(verdict(ExceptionGroup("all", [TimeoutError("t"), twice, twice])), InDoubt)


def test_a_chain_that_bites_its_tail_ends():
    one, two = MineError("one"), OursError("two")
    one.__cause__, two.__cause__ = two, one
    assert isinstance(verdict(one), Failed)


def test_the_kept_part_of_a_message_is_bounded():
    assert MAX_MESSAGE == 200
    assert StepError.of(MineError("x" * 200)) == StepError("MineError", "x" * 200)
    assert StepError.of(MineError("x" * 201)).message == "x" * 200


def test_outcomes_say_their_kind():
    error = StepError("a", "b")
    assert [o.kind for o in (Done("{}"), Failed(error), InDoubt(error))] == [
        "done",
        "failed",
        "in_doubt",
    ]
    assert (Failed(error).fatal, InDoubt(error).final) == (False, False)


def test_a_message_is_cut_in_bytes_and_never_inside_a_letter():
    message = StepError.of(MineError("é" * 150)).message
    assert message == "é" * 100
    assert StepError.of(MineError("x" + "é" * 150)).message == "x" + "é" * 99


def test_a_message_that_no_store_could_write_is_made_writable():
    assert StepError.of(MineError("lone \ud800 half")).message == "lone ? half"
