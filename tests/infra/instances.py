"""Sagas of every shape, also of shapes that the core never makes."""

from __future__ import annotations

from functools import partial

from hypothesis import strategies as st

from saga_core.calls import Direction
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


def _index(lane: Lane) -> int:
    return lane.index


moments = st.integers(0, 10**13 - 1)
counts = st.integers(0, 10**6)
ids = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", fullmatch=True)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
errors = st.builds(StepError, texts, texts)
contexts = st.one_of(
    texts.map(lambda t: f'"{t}"'),
    st.integers(0, 5_000).map(lambda n: f'"{"abc" * n}"'),
)

steps = st.builds(
    StepRecord,
    name=ids,
    code=st.sampled_from(StepCode),
    order=st.none() | counts,
    doubt=st.booleans(),
    attempts=counts,
    undo_attempts=counts,
    error=st.none() | errors,
    started_at=st.none() | moments,
    ended_at=st.none() | moments,
    chosen=st.booleans(),
    answer=st.none()
    | st.builds(
        GivenAnswer,
        digest=ids,
        ok=st.booleans(),
        by=texts,
        at=moments,
        fields=st.none() | contexts,
        error=st.none() | errors,
        late=st.booleans(),
    ),
    result=st.none() | contexts,
    settled_by=st.none() | ids,
    child=st.none() | ids,
)

_a_lane = partial(
    st.builds,
    Lane,
    epoch=counts,
    attempts=counts,
    reported=counts,
    tries=counts,
    clean=counts,
    due_at=moments,
    lease=st.none() | st.builds(Lease, ids, moments),
    last_id=st.none() | ids,
    nudge=st.none() | st.builds(Nudge, ids, moments),
    began_at=st.none() | moments,
    wait_ms=st.none() | counts,
    woken=st.booleans(),
    order=st.none() | counts,
)
lanes = _a_lane(index=counts)
branches = st.lists(
    _a_lane(index=st.integers(0, 99), branch=st.just(value=True)), max_size=3, unique_by=_index
).map(lambda found: tuple(sorted(found, key=_index)))

causes = st.builds(
    Cause,
    st.sampled_from(CauseKind),
    moments,
    step=st.none() | ids,
    error=st.none() | errors,
    by=st.none() | texts,
)

instances = st.builds(
    SagaInstance,
    id=ids,
    tenant=ids,
    incarnation=st.from_regex(r"[0-9a-f]{8}", fullmatch=True),
    definition_name=ids,
    definition=ids,
    input_fingerprint=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    status=st.sampled_from([s for s in SagaState if s is not SagaState.CREATED]),
    phase=st.sampled_from(Direction),
    lane=lanes,
    branches=branches,
    steps=st.lists(steps, max_size=6).map(tuple),
    context_text=contexts,
    version=counts,
    created_at=moments,
    updated_at=moments,
    deadline_at=moments,
    cancel=st.none() | st.builds(Cancel, texts, moments),
    cause=st.none() | causes,
    why=st.none() | st.sampled_from(Why),
    failure=st.none() | errors,
    stalls=counts,
    hops=counts,
    sweep_at=st.none() | moments,
    sweeps=counts,
    expires_at=st.none() | st.integers(0, 10**10).map(lambda s: s * 1000),
    secret=st.sampled_from(["", "00112233445566778899aabbccddeeff"]),
    parent=st.none() | st.builds(Parent, ids, counts),
)
