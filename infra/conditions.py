"""Every clause of every conditional write, with the race that it settles.

``#name`` stands for the attribute of that name, always: DynamoDB reserves some
six hundred words, ``name`` and ``status`` among them. ``:name`` is a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from infra.packing import Item, Value


def _all(*clauses: str) -> str:
    return " AND ".join(clauses)


# -- a start ---------------------------------------------------------------------
#
# An id is derived from the client's idempotency key, so a repeated start meets the first:
#
#   A   put ok ............................................. expires_at ... deleted by TTL
#   B        put refused, A's saga comes back      refused | put ok (days before the deletion)

# Nobody has used the key.
NO_ITEM = "attribute_not_exists(#pk)"
# Somebody has, and it is over: TTL deletes days late, and expired is gone for our purposes.
# False for an open or FAILED saga, which has no expires_at: those are never replaced.
EXPIRED = "#expires_at < :now_s"
CREATE = f"{NO_ITEM} OR {EXPIRED}"

# -- a claim ---------------------------------------------------------------------
#
# One claim at a time, and each on the work item that its message announced:
#
#   A   claim e=4 ok ...... handler ...... commit e=5
#   B       claim e=4: held      |             claim e=4: not the current item
#   C                            killed: lease ends, claim e=4 ok, same idempotency key

# A redelivered or duplicate message: the item that it announced was settled long ago.
# Also a message from the future, after a point-in-time restore of the table.
CURRENT_ITEM = "#epoch = :epoch"
# A message of another incarnation's or deployment's saga must not be run by this code.
SAME_DEFINITION = "#def = :def"
# Ended, or parked for a person: whatever is still in a queue moves it no more.
LIVE = "#st IN (:running, :compensating)"
# A message can come before its time: queue delays are whole seconds, clocks differ, and a
# repeated message may be from before a back-off. The second of grace is EARLY_MS.
DUE = "#due_at <= :soon"
# Somebody is making the attempt. The lease outlives its holder's invocation, so a holder
# that still runs is never overtaken by a well-set clock; a badly set one is caught at the
# commit. A holder that was killed is taken over once the lease is past.
UNCLAIMED = "attribute_not_exists(#lease_id)"
UNCLAIMED_OR_ABANDONED = f"({UNCLAIMED} OR #lease_until < :now)"
# During a deployment an older worker meets an item that a newer one wrote. It must leave it
# alone before anything is spent: it could not read what it had claimed.
READABLE = "#v <= :v"
CLAIM = _all(CURRENT_ITEM, SAME_DEFINITION, LIVE, DUE, UNCLAIMED_OR_ABANDONED, READABLE)
# sweep_at stays: a claim moves it nowhere, which saves two index writes per attempt. The
# sweeper looks at the lease before it sends.
CLAIM_UPDATE = (
    "SET #lease_id = :claim, #lease_until = :until, #updated_at = :now,"
    " #began_at = if_not_exists(#began_at, :now),"
    " #att = #att + :one, #tries = #tries + :one, #hops = #hops + :one, #ver = #ver + :one"
)

# -- a commit --------------------------------------------------------------------
#
#   A   claim ok ......... handler ........ commit: refused, ver moved; decide again, commit ok
#   P              cancel ok, ver+1
#
#   A   claim ok .. stalls past its lease ............. commit: refused, fenced off
#   B                                     claim ok .............. commit ok

# Somebody took over after the lease had run out. The version alone would do for that, but
# not tell the holder whether it may decide again.
HELD_BY_ME = "#lease_id = :claim"
# Somebody moved it since it was read: a cancel that was acknowledged must not be overwritten.
UNMOVED = "#ver = :ver"
# The item is of the layout that the difference was computed in; see DynamoDBSagaStore._move.
SAME_LAYOUT = "#v = :v"
COMMIT = _all(HELD_BY_ME, UNMOVED)

# -- a surplus message -----------------------------------------------------------
#
# The guard is not a state write: it counts no version, so that it never disturbs a commit.
# In return it cannot run under a lease, and a commit removes it.
#
#   A   stale message, guard ok, send ..... dies before acknowledging, comes back, guard ok
#   B   stale message, guard refused: its message waits for a minute
#   C                                       claim ok, guard refused until the commit

# The last one is a minute old: re-dispatches stay rare however many messages are about.
NO_RECENT_NUDGE = "(attribute_not_exists(#nudge_id) OR #nudge_at <= :minute_ago)"
REDISPATCH = _all(CURRENT_ITEM, UNCLAIMED, LIVE, NO_RECENT_NUDGE)
REDISPATCH_UPDATE = "SET #nudge_id = :nudge, #nudge_at = :now"

# -- a request, or a dead letter -------------------------------------------------
#
# Both read, decide and write under the version. A nudge since the reading counts no version,
# and yet a surplus message is out: the decision to send another was made without it.

RECORD = UNMOVED  # and, for each lane, one of these two
NOT_NUDGED_SINCE = "attribute_not_exists(#nudge_id)"
SAME_NUDGE = "#nudge_id = :nudge"

# -- a sweep ---------------------------------------------------------------------
#
# Two sweepers see the same line of the index: one of them moves the mark, once. Nor is a
# mark moved that a commit has just set anew, or one put back on a saga that has ended.

UNSWEPT = "#sweep_at = :sweep_at"
MARK_SWEPT = _all(UNSWEPT, LIVE)
MARK_SWEPT_UPDATE = "SET #sweep_at = :next, #sweeps = :sweeps"

# -- a save (the in-process orchestrator) ----------------------------------------

# What is over counts as not there; with a version in hand there is nothing to replace then.
NOT_EXPIRED = "(attribute_not_exists(#expires_at) OR #expires_at >= :now_s)"
SAVE = _all(UNMOVED, NOT_EXPIRED)

# Written by mark_swept, which counts no version. What a mover read of them may be old although
# the version is not, so it writes them whether they changed for it or not.
UNVERSIONED = ("sweep_at", "sweeps")
# A nudge counts none either. None comes to a lane under a lease, and a record has them all in
# its condition; but while a branch is worked on, the main lane can be nudged. The commit that
# moves the main lane on ends that nudge unseen; any other leaves it alone.
NUDGE = ("nudge_id", "nudge_at")

# -- a branch of a group ---------------------------------------------------------
#
# Each branch has a lane of its own, in a map of its own, so that the clauses above hold for
# it as they stand. What it shares with the others is the version: two that settle at once
# both think that they are not the last, until the second is refused and decides again.

# While a group is open the main lane rests: a message of its own can only be of the past.
NO_GROUP = "attribute_not_exists(#br)"
# The version ranks the starts: whatever is started later is undone earlier.
_CLAIM_BRANCH_UPDATE = f"{CLAIM_UPDATE}, #q = if_not_exists(#q, #ver)"
_OF_A_LANE = re.compile(
    "#(epoch|due_at|lease_id|lease_until|began_at|att|tries|nudge_id|nudge_at|q)\\b"
)


def of_lane(expression: str, name: str | None) -> str:
    """The expression about a branch's attributes; None: about the main lane's, as it stands."""
    return expression if name is None else _OF_A_LANE.sub(rf"#{name}.#\1", expression)


def claim(name: str | None) -> tuple[str, str]:
    """Update and condition of a claim."""
    if name is None:
        return CLAIM_UPDATE, _all(CLAIM, NO_GROUP)
    return of_lane(_CLAIM_BRANCH_UPDATE, name), of_lane(CLAIM, name)


def record(nudges: Mapping[str | None, str | None]) -> tuple[str, Item]:
    """The condition of a request's write, by lane the nudge that was read, and its values."""
    clauses = [RECORD]
    values: Item = {}
    for name, nudge in nudges.items():
        if nudge is None:
            clauses.append(of_lane(NOT_NUDGED_SINCE, name))
            continue
        placeholder = f":nudge{len(values)}"
        clauses.append(of_lane(SAME_NUDGE, name).replace(":nudge", placeholder))
        values[placeholder] = {"S": nudge}
    return _all(*clauses), values


_NAME = re.compile(r"#([a-z_][a-z0-9_]*)")


def names_in(*expressions: str) -> dict[str, str]:
    """The attribute names that the expressions use, as DynamoDB wants them: no more, no less."""
    return {f"#{name}": name for text in expressions for name in _NAME.findall(text)}


def difference(before: Item, after: Item) -> tuple[str, Item]:
    """The update that turns one item into the other, and its values.

    Only what changed goes over the wire, of the steps only the ones that
    changed; besides that, what ``before`` may be behind on.
    """
    sets: list[str] = []
    values: Item = {}
    for name, value in after.items():
        if name == "steps":
            changed = _changed_steps(before, after)
        elif name in UNVERSIONED or before.get(name) != value:
            changed = {f"#{name}": value}
        else:
            continue
        for path, new in changed.items():
            placeholder = f":new{len(values)}"
            sets.append(f"{path} = {placeholder}")
            values[placeholder] = new
    unseen = NUDGE if before.get("epoch") != after["epoch"] else ()
    gone = [f"#{n}" for n in sorted({*before, *UNVERSIONED, *unseen} - set(after))]
    remove = f" REMOVE {', '.join(gone)}" if gone else ""
    return f"SET {', '.join(sets)}{remove}", values


def _changed_steps(before: Item, after: Item) -> dict[str, Value]:
    """Paths and records; the whole list where an older layout had another."""
    old, new = before.get("steps", {}).get("L", []), after["steps"]["L"]
    if len(old) != len(new):
        return {"#steps": after["steps"]}
    return {f"#steps[{n}]": new[n] for n in range(len(new)) if old[n] != new[n]}
