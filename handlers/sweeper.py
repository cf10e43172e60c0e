"""Looks, every minute, after the open sagas whose message may have been lost."""

from __future__ import annotations

from dataclasses import dataclass

from handlers._application import Application
from handlers._bootstrap import entry_point
from handlers._driver import Driver
from handlers._records import LambdaContext
from saga_core.errors import StoreError
from saga_core.identity import SHARDS
from saga_core.ports import DueSaga
from saga_core.turn import Verdict, sweep

RESERVE_MS = 10_000  # left to end in peace; the rest waits a minute
PAGE = 1_000  # of one shard in one run; time runs out before
LOOK_AHEAD_MS = 60_000  # to the next run


@dataclass(slots=True)
class _Run:
    """What one run of the sweeper came to."""

    nudged: int = 0
    looked_at: int = 0
    lag_ms: int = 0
    complete: bool = True


def handle(app: Application, _event: object, context: LambdaContext) -> dict[str, object]:
    """Announce what is due, oldest first, shard after shard, while time remains.

    Two sweepers at once are harmless: the mark is conditional, and a surplus
    message dies at its first conflict.

    Raises:
        StoreError: A shard could not be read. The others were looked after first.
    """
    ends_at = app.clock.now_ms() + context.get_remaining_time_in_millis() - RESERVE_MS
    correlation_id = app.clock.new_id()
    run, trouble = _Run(), None
    # Every run begins elsewhere, so that a run cut short starves no shard.
    first = int(app.clock.jitter() * SHARDS)
    for offset in range(SHARDS):
        if app.clock.now_ms() >= ends_at:
            run.complete = False
            break
        try:
            _sweep_shard(app, (first + offset) % SHARDS, run, ends_at, correlation_id)
        except StoreError as exc:
            run.complete, trouble = False, exc
    if trouble is not None:
        raise trouble  # and no lag is told: that it is missing sounds an alarm
    app.telemetry.swept(
        lag_s=run.lag_ms / 1000,
        nudged=run.nudged,
        looked_at=run.looked_at,
        complete=run.complete,
    )
    return {"looked_at": run.looked_at, "nudged": run.nudged, "complete": run.complete}


def _sweep_shard(
    app: Application, shard: int, run: _Run, ends_at: int, correlation_id: str
) -> None:
    for due in app.store.due(shard, app.clock.now_ms() + LOOK_AHEAD_MS, PAGE):
        if app.clock.now_ms() >= ends_at:
            run.complete = False
            return
        run.lag_ms = max(run.lag_ms, app.clock.now_ms() - due.sweep_at)
        run.looked_at += 1
        run.nudged += _look_after(app, due, correlation_id)


def _look_after(app: Application, due: DueSaga, correlation_id: str) -> int:
    at = app.clock.now_ms()
    decision = Driver(app, correlation_id).run(sweep(due, at=at))
    app.telemetry.decided(
        "sweeper", decision, key=due.key, correlation_id=correlation_id, now=at, hop_max=None
    )
    return 1 if decision.verdict is Verdict.SENT else 0


handler = entry_point("sweeper", handle)
