"""Looks, every minute, after the open sagas whose message may have been lost."""

from __future__ import annotations

from handlers._application import Application
from handlers._bootstrap import entry_point
from handlers._driver import Driver
from handlers._records import LambdaContext
from saga_core.identity import SHARDS
from saga_core.ports import DueSaga
from saga_core.turn import Verdict, sweep

RESERVE_MS = 10_000  # left to end in peace; the rest waits a minute
PAGE = 1_000  # of one shard in one run; time runs out before
LOOK_AHEAD_MS = 60_000  # to the next run


def handle(app: Application, _event: object, context: LambdaContext) -> dict[str, object]:
    """Announce what is due, oldest first, shard after shard, while time remains.

    Two sweepers at once are harmless: the mark is conditional, and a surplus
    message dies at its first conflict.
    """
    ends_at = app.clock.now_ms() + context.get_remaining_time_in_millis() - RESERVE_MS
    correlation_id = app.clock.new_id()
    nudged = looked_at = 0
    lag_ms, complete = 0, True
    # Every run begins elsewhere, so that a run cut short starves no shard.
    first = int(app.clock.jitter() * SHARDS)
    for offset in range(SHARDS):
        for due in _due(app, (first + offset) % SHARDS):
            if app.clock.now_ms() >= ends_at:
                complete = False
                break
            lag_ms = max(lag_ms, app.clock.now_ms() - due.sweep_at)
            looked_at += 1
            nudged += _look_after(app, due, correlation_id)
    app.telemetry.swept(
        lag_s=max(0, lag_ms) / 1000, nudged=nudged, looked_at=looked_at, complete=complete
    )
    return {"looked_at": looked_at, "nudged": nudged, "complete": complete}


def _due(app: Application, shard: int) -> list[DueSaga]:
    return app.store.due(shard, app.clock.now_ms() + LOOK_AHEAD_MS, PAGE)


def _look_after(app: Application, due: DueSaga, correlation_id: str) -> int:
    at = app.clock.now_ms()
    decision = Driver(app, correlation_id).run(sweep(due, at=at))
    app.telemetry.decided("sweeper", decision, correlation_id=correlation_id, now=at, hop_max=None)
    return 1 if decision.verdict is Verdict.SENT else 0


handler = entry_point("sweeper", handle)
