"""The item: its layout, its size, and what it may not do to a reader."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.codec import RecordCodec
from infra.packing import MAX_CONTEXT, Item, item_size, pack_context, unpack_context
from saga_core.calls import Direction
from saga_core.errors import StoreError
from saga_core.instance import (
    Cancel,
    Cause,
    CauseKind,
    GivenAnswer,
    Lane,
    Lease,
    Nudge,
    Parent,
    SagaInstance,
    SagaState,
    StepCode,
    StepRecord,
    Why,
)
from saga_core.outcome import StepError
from tests.contracts.sagas import (
    at_version,
    claimed,
    compensated,
    compensating,
    completed,
    definition,
    failed,
    new,
    parked,
    succeeded,
)
from tests.infra.instances import instances

CODEC = RecordCodec()
RECORDS = Path(__file__).parent / "records"

# What queries, operators and the conditions read: PROTOCOL 3.2. Changing one of these
# names takes a new record version, and an upcaster.
ALWAYS = {
    *("pk", "sk", "v", "tenant", "saga_id", "name", "def", "fp", "inst"),
    *("st", "phase", "idx", "epoch", "ver", "due_at", "deadline_at"),
    *("att", "tries", "hops", "steps", "ctx", "created_at", "updated_at", "ls_pk", "ls_sk"),
}
SOMETIMES = {
    *("why", "failure", "cause", "cancel", "cancel_at", "rep", "clean", "began_at"),
    *("lease_id", "lease_until", "last_id", "nudge_id", "nudge_at", "stall"),
    *("expires_at", "gs_pk", "sweep_at", "sweeps"),
}

# To read one. Keys are derived, and a counter that is not there is 0.
NEEDED = ALWAYS - {"pk", "sk", "ls_pk", "ls_sk", "att", "tries", "hops"}

BOOM = StepError("Boom", "it broke")
# Something in every attribute. Spelt out, so that no change elsewhere can change it.
FULL = SagaInstance(
    id="s1",
    tenant="acme",
    incarnation="0badcafe",
    definition_name="order",
    definition="order@1#0123456789abcdef",
    input_fingerprint="f" * 64,
    status=SagaState.COMPENSATING,
    phase=Direction.COMPENSATION,
    lane=Lane(
        index=1,
        epoch=7,
        attempts=3,
        reported=1,
        tries=4,
        clean=2,
        due_at=1_800_000_001_234,
        lease=Lease("c7", 1_800_000_035_000),
        last_id="c6",
        nudge=Nudge("n1", 1_800_000_000_500),
        began_at=1_800_000_000_400,
    ),
    steps=(
        StepRecord(
            name="reserve",
            code=StepCode.UNKNOWN,
            order=1,
            doubt=True,
            attempts=2,
            undo_attempts=3,
            error=BOOM,
            started_at=1_800_000_000_100,
            ended_at=1_800_000_000_200,
        ),
        StepRecord(name="charge", code=StepCode.DONE, order=2, attempts=1),
        StepRecord(name="ship"),
    ),
    context_text='{"sku":"x"}',
    version=14,
    created_at=1_800_000_000_000,
    updated_at=1_800_000_000_400,
    deadline_at=1_800_000_300_000,
    cancel=Cancel("someone", 1_800_000_000_300),
    cause=Cause(CauseKind.STEP_FAILED, 1_800_000_000_200, step="reserve", error=BOOM, by="someone"),
    why=Why.STALLED,
    failure=BOOM,
    stalls=2,
    hops=9,
    sweep_at=1_800_000_600_000,
    sweeps=1,
    expires_at=1_802_592_000_000,
)


# The same for what layout 2 has added: an open group, answers, conditions, children.
GROUP = SagaInstance(
    id="s2",
    tenant="acme",
    incarnation="0badcafe",
    definition_name="order",
    definition="order@1#0123456789abcdef",
    input_fingerprint="f" * 64,
    status=SagaState.RUNNING,
    phase=Direction.FORWARD,
    lane=Lane(index=1, epoch=3, due_at=1_800_000_001_234, last_id="c2", wait_ms=60_000, woken=True),
    branches=(
        Lane(
            index=1,
            branch=True,
            epoch=2,
            attempts=1,
            reported=1,
            tries=2,
            clean=1,
            due_at=1_800_000_002_000,
            lease=Lease("c5", 1_800_000_035_000),
            last_id="c3",
            nudge=Nudge("n1", 1_800_000_000_500),
            began_at=1_800_000_001_300,
            wait_ms=300_000,
            order=4,
        ),
        Lane(index=2, branch=True, due_at=1_800_000_001_234),
    ),
    steps=(
        StepRecord(name="look", code=StepCode.SKIPPED, ended_at=1_800_000_000_200),
        StepRecord(
            name="ask",
            code=StepCode.WAITING,
            order=4,
            attempts=1,
            started_at=1_800_000_001_300,
            chosen=True,
            answer=GivenAnswer(
                digest="0123456789abcdef",
                ok=True,
                by="ann",
                at=1_800_000_001_400,
                fields='{"approved":true}',
            ),
            result='[{"asked":"ann"},[]]',
        ),
        StepRecord(name="hold", settled_by="c4"),
        StepRecord(
            name="pay",
            code=StepCode.DONE,
            answer=GivenAnswer(
                digest="fedcba9876543210",
                ok=False,
                by="bob",
                at=1_800_000_001_500,
                error=BOOM,
                late=True,
            ),
            child="c1h2i3l4d5",
        ),
    ),
    context_text='{"sku":"x"}',
    version=9,
    created_at=1_800_000_000_000,
    updated_at=1_800_000_001_400,
    deadline_at=1_800_000_300_000,
    hops=4,
    sweep_at=1_800_000_600_000,
    secret="00112233445566778899aabbccddeeff",
    parent=Parent("parent", 3),
)


def recorded(name: str) -> Item:
    item: Item = json.loads((RECORDS / f"{name}.json").read_text())
    if "secret" in item:
        item["secret"] = {"B": bytes.fromhex(str(item["secret"]["B"]))}  # JSON has no bytes
    return item


# -- layout ----------------------------------------------------------------------


def test_the_attributes_have_the_names_that_the_protocol_gives_them():
    assert set(CODEC.encode(new())) == ALWAYS | {"gs_pk", "sweep_at"}
    assert set(CODEC.encode(FULL)) == ALWAYS | SOMETIMES
    group = {"br", "b1", "b2", "wait", "woken", "secret", "parent"}
    assert set(CODEC.encode(GROUP)) == ALWAYS | group | {"gs_pk", "sweep_at", "last_id"}


def test_a_branch_has_the_names_that_the_main_lane_has():
    branch = set(CODEC.encode(GROUP)["b1"]["M"])
    assert branch - {"q", "wait"} <= (ALWAYS | SOMETIMES) - {"idx"}
    assert CODEC.encode(GROUP)["br"] == {"N": "2"}


def test_a_step_has_the_short_names_that_the_protocol_gives_it():
    first, _, last = CODEC.encode(FULL)["steps"]["L"]
    assert set(first["M"]) == {"n", "s", "q", "d", "a", "ca", "e", "sa", "ea"}
    assert set(first["M"]["e"]["M"]) == {"k", "m"}
    _, ask, hold, pay = CODEC.encode(GROUP)["steps"]["L"]
    assert set(ask["M"]) == {"n", "s", "q", "a", "sa", "w", "an", "r"}
    assert set(hold["M"]) == {"n", "c"}
    assert set(pay["M"]) == {"n", "s", "an", "ch"}
    assert set(ask["M"]["an"]["M"]) == {"h", "ok", "by", "at", "f"}
    assert set(pay["M"]["an"]["M"]) == {"h", "ok", "by", "at", "e", "l"}
    assert set(last["M"]) < set(first["M"])


def test_an_untouched_step_costs_its_name():
    steps = CODEC.encode(new())["steps"]["L"]
    assert steps == [{"M": {"n": {"S": f"step{n}"}}} for n in range(3)]


def test_keys_name_tenant_and_saga():
    item = CODEC.encode(new("s1", tenant="acme"))
    assert (item["pk"], item["sk"]) == ({"S": "S#acme#s1"}, {"S": "STATE"})
    assert item["ls_sk"] == {"S": "1800000000000#s1"}


@pytest.mark.parametrize(
    ("instance", "work", "listed"),
    [
        (new(), "W#", "RUNNING"),
        (succeeded(claimed(new())), "W#", "RUNNING"),
        (compensating(), "W#", "COMPENSATING"),
        (parked(), "P#", "FAILED"),
        (completed(new()), None, "COMPLETED"),
        (compensated(new()), None, "COMPENSATED"),
    ],
    ids=["created", "running", "compensating", "failed", "completed", "compensated"],
)
def test_an_item_is_in_the_work_index_until_it_is_closed(instance, work, listed):
    item = CODEC.encode(instance)
    assert item["ls_pk"]["S"].startswith(f"L#default#{listed}#")
    if work is None:
        assert "gs_pk" not in item
        assert "sweep_at" not in item
        assert int(item["expires_at"]["N"]) * 1000 == instance.expires_at
    else:
        assert item["gs_pk"]["S"].startswith(work)
        assert "expires_at" not in item


def test_expiry_is_in_seconds_as_the_time_to_live_wants_it():
    item = CODEC.encode(completed(new()))
    assert item["expires_at"] == {"N": str(1_800_000_000 + 30 * 86_400)}


# -- there and back --------------------------------------------------------------


@given(instances)
def test_what_is_written_is_read(instance):
    assert CODEC.decode(CODEC.encode(instance)) == instance


def test_an_attribute_from_elsewhere_is_not_in_the_way():
    item = CODEC.encode(FULL)
    assert CODEC.decode({**item, "wid": {"S": "x"}, "lanes": {"M": {}}}) == FULL


@pytest.mark.parametrize("text", ["half a pair: \ud83d", "\udfff"])
def test_an_error_that_is_not_unicode_does_not_stop_the_saga(text):
    i = new()
    noted = replace(i.steps[0], error=StepError("Boom", text))
    item = CODEC.encode(replace(i, steps=(noted, *i.steps[1:])))
    json.dumps(item, ensure_ascii=False).encode()
    assert item_size(item) > 0


# -- versions --------------------------------------------------------------------


def test_a_record_of_version_one_is_read_for_ever():
    assert CODEC.decode(recorded("v1")) == FULL


def test_version_two_adds_to_version_one_and_changes_nothing_of_it():
    assert CODEC.encode(FULL) == {**recorded("v1"), "v": {"N": "2"}}


def test_a_record_of_version_two_is_read_for_ever():
    assert CODEC.decode(recorded("v2")) == GROUP


def test_a_record_of_version_two_is_still_what_is_written():
    # When this fails, the layout has changed: give it a new version and an upcaster.
    assert CODEC.encode(GROUP) == recorded("v2")


def test_a_record_from_the_future_says_that_newer_code_is_needed():
    item: Item = {**CODEC.encode(new()), "v": {"N": "3"}}
    with pytest.raises(StoreError, match=r"S#default#s1 has layout 3.*deploy the newer code") as e:
        CODEC.decode(item)
    assert not e.value.ambiguous


def test_an_older_record_is_brought_up_version_by_version():
    def spelt_out(item: Item) -> Item:
        item = dict(item)
        item["def"] = item.pop("definition")
        return item

    def in_milliseconds(item: Item) -> Item:
        return {**item, "due_at": {"N": item["due_at"]["N"] + "000"}}

    newest = RecordCodec(version=3, upcasters={1: spelt_out, 2: in_milliseconds})
    item = newest.encode(new())
    old: Item = {**item, "v": {"N": "1"}, "definition": item["def"]}
    old["due_at"] = {"N": item["due_at"]["N"][:-3]}
    del old["def"]
    assert newest.decode(old) == new()
    assert newest.is_older(old)
    assert not newest.is_older(item)


def test_a_record_too_old_to_be_read_is_an_error():
    with pytest.raises(StoreError, match="cannot be read"):
        RecordCodec(version=3).decode(CODEC.encode(new()))


@pytest.mark.parametrize("missing", sorted(NEEDED))
def test_a_record_with_a_hole_is_an_error_that_names_the_saga(missing):
    item = CODEC.encode(new())
    del item[missing]
    with pytest.raises(StoreError, match=r"S#default#s1 cannot be read"):
        CODEC.decode(item)


def test_something_that_is_no_record_is_an_error():
    with pytest.raises(StoreError, match="an item without a key"):
        CODEC.decode({})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("st", {"S": "ELSEWHERE"}),
        ("ver", {"N": "one"}),
        ("ver", {"S": "1"}),
        ("steps", {"L": [{}]}),
    ],
)
def test_a_record_with_nonsense_in_it_is_an_error(name, value):
    with pytest.raises(StoreError, match="cannot be read"):
        CODEC.decode({**CODEC.encode(new()), name: value})


# -- the context -----------------------------------------------------------------


def test_a_small_context_stays_text_that_an_operator_can_read():
    assert pack_context('{"sku":"x"}') == {"S": '{"sku":"x"}'}


def test_a_context_is_compressed_once_that_saves_a_kilobyte():
    saves_less = f'"{"a" * 1_030}"'
    saves_more = f'"{"a" * 1_050}"'
    assert pack_context(saves_less) == {"S": saves_less}
    assert pack_context(saves_more) == {"B": zlib.compress(saves_more.encode())}


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 3_000))
@example("é", 2_000)
def test_a_context_comes_back_as_it_was(part, times):
    assert unpack_context(pack_context(part * times)) == part * times


def test_a_zip_bomb_does_not_go_off():
    bomb = zlib.compress(b"0" * (MAX_CONTEXT + 1))
    assert len(bomb) < 5_000
    with pytest.raises(StoreError, match="larger than any that was written"):
        CODEC.decode({**CODEC.encode(new()), "ctx": {"B": bomb}})


def test_the_largest_context_that_is_compressed_can_be_read():
    largest = "0" * MAX_CONTEXT
    assert "B" in pack_context(largest)
    assert unpack_context(pack_context(largest)) == largest


def test_a_context_that_could_not_be_read_back_is_not_compressed():
    assert "S" in pack_context("0" * (MAX_CONTEXT + 1))


@pytest.mark.parametrize("data", [b"", b"x", zlib.compress(b'"a"')[:-3], zlib.compress(b"\xff")])
def test_compressed_data_that_is_damaged_is_an_error(data):
    with pytest.raises(StoreError, match="cannot be read"):
        CODEC.decode({**CODEC.encode(new()), "ctx": {"B": data}})


# -- sizes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("item", "size"),
    [
        ({"a": {"S": ""}}, 1),
        ({"né": {"S": "é"}}, 3 + 2),
        ({"a": {"N": "0"}}, 1 + 2),
        ({"a": {"N": "1"}}, 1 + 1 + 1),
        ({"a": {"N": "1234567890123"}}, 1 + 7 + 1),
        ({"a": {"N": "1800000000000"}}, 1 + 1 + 1),  # trailing zeroes are free
        ({"a": {"N": "-12"}}, 1 + 1 + 1),
        ({"a": {"B": b"xyz"}}, 1 + 3),
        ({"a": {"BOOL": True}}, 1 + 1),
        ({"a": {"NULL": True}}, 1 + 1),
        ({"a": {"L": []}}, 1 + 3),
        ({"a": {"L": [{"S": "bc"}]}}, 1 + 3 + 1 + 2),
        ({"a": {"M": {"k": {"S": "bc"}}}}, 1 + 3 + 1 + 1 + 2),
    ],
)
def test_an_item_weighs_what_dynamodb_says(item, size):
    assert item_size(item) == size


def test_a_saga_of_a_hundred_steps_is_light_when_all_are_done():
    saga = definition("long-haul", steps=100)
    i = new(saga=saga, context="")
    for n, step in enumerate(i.steps):
        done = replace(
            step,
            name=f"a-step-with-a-long-name-{n}",
            code=StepCode.COMPENSATED,
            order=n,
            attempts=3,
            undo_attempts=12,
            started_at=1_812_345_678_901,
            ended_at=1_812_345_678_902,
        )
        i = replace(i, steps=(*i.steps[:n], done, *i.steps[n + 1 :]))
    assert item_size(CODEC.encode(i)) < 10_000


def test_a_saga_of_a_hundred_steps_fits_25_kb_with_an_error_at_each():
    saga = definition("long-haul", steps=100)
    i = new(saga=saga, context="")
    error = StepError("PaymentDeclinedError", "insufficient funds on the card ending in 4242" * 2)
    steps = tuple(
        replace(
            s,
            code=StepCode.NO,
            order=n,
            doubt=True,
            attempts=3,
            undo_attempts=12,
            error=error,
            started_at=1_812_345_678_901,
            ended_at=1_812_345_678_902,
        )
        for n, s in enumerate(i.steps)
    )
    assert item_size(CODEC.encode(replace(i, steps=steps))) < 25_000


def test_a_saga_that_has_just_begun_is_one_write_unit():
    assert item_size(CODEC.encode(at_version(new(), 1))) < 1_024
    assert item_size(CODEC.encode(at_version(failed(claimed(new())), 3))) < 1_024
