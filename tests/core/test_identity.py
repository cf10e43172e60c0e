from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saga_core.identity import (
    IDEMPOTENCY_KEY,
    SAGA_ID,
    SHARDS,
    TENANT,
    decode_cursor,
    encode_cursor,
    input_fingerprint,
    place_of,
    saga_id_for,
    shard_of,
)


def test_a_sagas_id_is_what_it_always_was():
    """Stored ids depend on it: if this changes, repeated starts find nothing."""
    assert saga_id_for("default", "key-1") == "ki4vjo6o3oyxshl3x5o2jy6r7u"
    digest = hashlib.sha256(b"default\0key-1").digest()
    assert base64.b32encode(digest).decode().lower()[:26] == saga_id_for("default", "key-1")


def test_tenant_and_key_cannot_be_mixed_up():
    assert saga_id_for("a", "bc") != saga_id_for("ab", "c")


@given(st.text(), st.text())
def test_every_id_is_url_safe(tenant, key):
    saga_id = saga_id_for(tenant, key)
    assert re.fullmatch(r"[a-z2-7]{26}", saga_id)
    assert SAGA_ID.fullmatch(saga_id)


def test_a_fingerprint_does_not_see_the_order_of_keys_or_spaces():
    one = input_fingerprint("order", '{"a":1,"b":{"c":2,"d":3}}')
    assert one == input_fingerprint("order", '{ "b": {"d":3, "c":2}, "a": 1 }')
    canonical = '["order",{"a":1,"b":{"c":2,"d":3}}]'
    assert one == hashlib.sha256(canonical.encode()).hexdigest()


def test_a_fingerprint_sees_the_name_and_every_value():
    one = input_fingerprint("order", '{"a":[1,2]}')
    assert one != input_fingerprint("other", '{"a":[1,2]}')
    assert one != input_fingerprint("order", '{"a":[2,1]}')


def test_a_saga_has_a_shard_that_is_what_it_always_was():
    assert SHARDS == 16
    assert [shard_of(f"saga-{n}") for n in range(4)] == [15, 9, 3, 5]


def test_sagas_spread_over_every_shard():
    assert {shard_of(saga_id_for("t", str(n))) for n in range(500)} == set(range(16))


def test_a_place_sorts_by_time_and_then_by_id():
    assert place_of(1_700_000_000_000, "abc") == "1700000000000#abc"
    assert place_of(7, "abc") == "0000000000007#abc"
    assert place_of(7, "z") < place_of(8, "a") < place_of(8, "b") < place_of(1_700_000_000_000, "a")


@given(st.integers(0, 10**13 - 1), st.from_regex(SAGA_ID, fullmatch=True))
def test_a_cursor_gives_back_its_place(at, saga_id):
    cursor = encode_cursor(place_of(at, saga_id))
    assert re.fullmatch(r"[A-Za-z0-9_-]+", cursor)
    assert decode_cursor(cursor) == place_of(at, saga_id)


def forged(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "é",
        "!!!!",
        forged("text"),
        forged(7),
        forged([]),
        forged([1]),
        forged([1, "0000000000007#a", 3]),
        forged([2, "0000000000007#a"]),
        forged([1, 7]),
        forged([1, "7#a"]),
        forged([1, "0000000000007#a/b"]),
        forged([1, "0000000000007#a\n"]),
        forged({"1": 2, "3": 4}),
    ],
)
def test_what_is_no_cursor_is_refused(cursor):
    with pytest.raises(ValueError, match=r"^not a cursor$"):
        decode_cursor(cursor)


@pytest.mark.parametrize("pattern", [SAGA_ID, TENANT], ids=["id", "tenant"])
def test_ids_and_tenants_are_safe_in_keys_and_urls(pattern):
    for good in ("a", "A9", "a_b.c-d", "x" * 64):
        assert pattern.fullmatch(good)
    for bad in ("", "-a", ".a", "a/b", "a#b", "a b", "x" * 65, "é"):
        assert not pattern.fullmatch(bad)


def test_an_idempotency_key_is_up_to_128_printable_characters():
    for good in ("k", "!", "~", "a/b#c", "x" * 128):
        assert IDEMPOTENCY_KEY.fullmatch(good)
    for bad in ("", "a b", "a\n", "é", "x" * 129):
        assert not IDEMPOTENCY_KEY.fullmatch(bad)
