"""Sagas of every shape, also of shapes that the core never makes."""

from __future__ import annotations

from hypothesis import strategies as st

from saga_core.calls import Direction
from saga_core.instance import (
    Cancel,
    Cause,
    CauseKind,
    Lane,
    Lease,
    Nudge,
    SagaInstance,
    SagaState,
    StepCode,
    StepRecord,
    Why,
)
from saga_core.outcome import StepError

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
)

lanes = st.builds(
    Lane,
    index=counts,
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
)

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
)
