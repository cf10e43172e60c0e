---------------------------------- MODULE Lanes ---------------------------------
(*******************************************************************************)
(* One saga with a parallel group: its main lane, a lane for each branch, the  *)
(* messages of all of them.                                                    *)
(*                                                                             *)
(* Written as Saga.tla is, and read after it: invocations, effects, capitals,  *)
(* epochs, versions, time and faults are the same. What Saga.tla has shown of  *)
(* one lane is taken for granted here: due times, late calls, keys, undos that *)
(* fail. What is new is what several lanes share: one item, one version, one   *)
(* context, one way back. docs/model.md says what is left out.                 *)
(*******************************************************************************)
EXTENDS Naturals, FiniteSets, Sequences, Bags, TLC

CONSTANTS
  Steps,       \* how many steps the saga has
  Group,       \* which of them begin together: neighbours
  Shared,      \* branches that write one and the same field of the context
  Inv,         \* invocations that may run at one time
  Faults,      \* how many faults one history may have,
  Kinds,       \* and of which kinds (see Spend)
  Refusals,    \* how many calls a service may refuse: known failed
  Requests,    \* how many times a person cancels or resumes
  MaxStalls,   \* MAX_STALLS
  Deadline,    \* TRUE: the deadline may be over when a claim is granted
  Sweeper,     \* TRUE: the sweeper runs, and what only it repairs may happen
  Broken       \* the one rule that is broken, by name; "nothing" is ours

VARIABLES
  saga,     \* the item: what is decided on, and the lanes
  unmoved,  \* the invocations for which UNMOVED holds
  msgs,     \* the messages that are not deleted: a bag
  inv,      \* the invocations
  world,    \* what the services did of each step
  left      \* what is left of the budgets

vars == <<saga, unmoved, msgs, inv, world, left>>

None == "none"
Gone == "gone"  \* an invocation that is over
Main == 0       \* the number of the main lane; a branch's is its step's
Nowhere == Steps + 1  \* the number of no lane
Lanes == {Main} \cup Group
Max(S) == CHOOSE n \in S : \A k \in S : k <= n
Min(S) == CHOOSE n \in S : \A k \in S : n <= k
Live(s) == s.st \in {"RUNNING", "COMPENSATING"}
Closed(s) == s.st \in {"COMPLETED", "COMPENSATED"}

(* The kinds of faults are those of Saga.tla, but for one:                     *)
(*   doubt   the reply of a call is lost, whether it took effect or not        *)
Spend(kind) == /\ kind \in Kinds /\ left.faults > 0
               /\ left' = [left EXCEPT !.faults = @ - 1]

-------------------------------------------------------------------------------
(* Messages. One names its lane; `open` branches have current messages, and to *)
(* those of a branch that is not open any more it is all the same.             *)

Message(l, epoch) == [at |-> "queue", lane |-> l, epoch |-> epoch, by |-> {}]
One(m) == SetToBag({m})
Put(ms, l, epoch) == ms (+) One(Message(l, epoch))
All(ms, ls) == ms (+) SetToBag({Message(l, "current") : l \in ls})
Sent(l, epoch) == \/ msgs' = Put(msgs, l, epoch) /\ UNCHANGED left
                  \/ msgs' = Put(Put(msgs, l, epoch), l, epoch) /\ Spend("copy")

Has(i) == {m \in BagToSet(msgs) : i \in m.by}  \* one, or none if it was deleted
Deleted(i) == msgs (-) SetToBag(Has(i))
Released(i) == Deleted(i) (+) SetToBag({[m EXCEPT !.by = @ \ {i}] : m \in Has(i)})

(* The work items of these lanes are settled, or the lanes closed.             *)
Older(l, ls, epoch) == IF l \in ls /\ epoch = "current" THEN "older" ELSE epoch
Aged(ms, ls) == BagOfAll(LAMBDA m : [m EXCEPT !.epoch = Older(m.lane, ls, @)], ms)
Outdated(f, ls) == [i \in Inv |->
  [f[i] EXCEPT !.epoch = Older(f[i].lane, ls, @), !.read = Older(f[i].guard, ls, @),
               !.says = [l \in Lanes |-> Older(l, ls, f[i].says[l])]]]

-------------------------------------------------------------------------------
(* transition.py. Of the attempts of a lane it is kept whether one of them,    *)
(* the one in hand aside, may have happened (`doubt`), and whether one is      *)
(* known to have failed. `began` has the steps by their first claim: it stands *)
(* for the version at that claim, which is only ever compared.                 *)

Shut == [open |-> FALSE, doubt |-> FALSE, failed |-> FALSE, lease |-> None, over |-> FALSE,
         last |-> None, nudge |-> None, recent |-> FALSE, surplus |-> 0]

Branches(s) == {l \in Group : s.lane[l].open}
Open(s) == IF Branches(s) # {} THEN Branches(s) ELSE {Main}
StepOf(s, l) == IF l = Main THEN s.idx ELSE l
Way(s, l) == IF l = Main \/ Broken = "BranchesGoBack" THEN s.phase ELSE "F"
Turning(s) == s.cancel \/ s.phase = "C"  \* _turning
Place(s, n) == CHOOSE k \in 1..Len(s.began) : s.began[k] = n
Began(s) == {s.began[k] : k \in 1..Len(s.began)}

Fresh(s, n) == [s EXCEPT !.idx = n, !.lane[Main].doubt = FALSE, !.lane[Main].failed = FALSE]
After(n) == IF n \in Group THEN Max(Group) + 1 ELSE n + 1

Enter(s, n) ==  \* _enter: on to a step, or all branches of the group that begins there
  IF n > Steps THEN [Fresh(s, n) EXCEPT !.st = "COMPLETED"]
  ELSE IF n \in Group
       THEN [Fresh(s, n) EXCEPT !.lane = [l \in Lanes |->
              IF l = Main THEN Fresh(s, n).lane[l] ELSE [Shut EXCEPT !.open = TRUE]]]
       ELSE Fresh(s, n)

GoBack(s) ==  \* _go_back, _newest_open: to the newest start that is not undone yet
  LET open == {n \in 1..Steps : s.code[n] \in {"OK", "U"}}
      rank(n) == IF Broken = "DefinitionOrder" THEN n ELSE Place(s, n)
  IN  IF open = {} THEN [Fresh(s, s.idx) EXCEPT !.st = "COMPENSATED"]
      ELSE [Fresh(s, CHOOSE n \in open : \A k \in open : rank(k) <= rank(n))
              EXCEPT !.st = "COMPENSATING"]

Joined(s) ==  \* _joined: what the branches changed, put together
  [s EXCEPT !.ctx = @ \cup s.kept, !.kept = {},
            !.lane = [l \in Lanes |-> IF l = Main THEN s.lane[l] ELSE Shut]]

Without(s, l) == IF l = Main THEN s ELSE [s EXCEPT !.lane[l] = Shut]  \* _without

BranchGone(s, l) ==  \* _branch_gone
  LET t == Without(s, l)
  IN  IF Branches(t) # {} THEN t
      ELSE IF t.phase = "C" THEN GoBack(Joined(t)) ELSE Enter(Joined(t), After(t.idx))

LeftOpen(s, l) ==  \* _left_open
  IF s.lane[l].doubt THEN [s EXCEPT !.code[StepOf(s, l)] = "U"]
  ELSE IF s.lane[l].failed THEN [s EXCEPT !.code[StepOf(s, l)] = "NO"] ELSE s

(* _turn_round. Unclaimed branches start no more; those that somebody works on *)
(* stay. `mine` is the lane that turned it. Who was late keeps the cause.      *)
TurnRound(s, mine, cause) ==
  LET dropped == {l \in Branches(s) : l = mine \/ s.lane[l].lease = None
                                      \/ Broken = "InFlightDropped"}
      doubtful(l) == s.lane[l].doubt \/ (l # mine /\ s.lane[l].lease # None)
      code(n) == IF n \in dropped \ {mine}
                 THEN IF doubtful(n) THEN "U" ELSE IF s.lane[n].failed THEN "NO" ELSE s.code[n]
                 ELSE s.code[n]
      t == [s EXCEPT !.phase = "C", !.st = "COMPENSATING",
                     !.cause = IF s.phase = "C" /\ Broken # "LastCauseWins" THEN @ ELSE cause,
                     !.code = [n \in 1..Steps |-> code(n)],
                     !.lane = [l \in Lanes |-> IF l \in dropped THEN Shut ELSE s.lane[l]]]
  IN  IF Branches(t) # {} THEN t ELSE GoBack(Joined(t))

GivenUp(s, l) ==  \* _given_up
  IF s.phase = "C" THEN BranchGone(s, l)
  ELSE TurnRound(s, l, IF s.cancel THEN "cancelled" ELSE "failed")

Clashes(s, l) ==  \* _with_context: two that write one field
  l \in Shared /\ (s.kept \cap Shared) \ {l} # {} /\ Broken # "LastWriterWins"

(* _settle. A set: whether the policy allows one more attempt is left open.    *)
Settled(s, l, event) ==
  LET n == StepOf(s, l)
      coded(c) == [s EXCEPT !.code[n] = c]
      doubtful == [coded("U") EXCEPT !.lane[l].doubt = TRUE]
      failed == [coded(IF s.lane[l].doubt THEN "U" ELSE "NO") EXCEPT !.lane[l].failed = TRUE]
      again(t) == IF Turning(s) THEN {} ELSE {t}
      done == [coded("OK") EXCEPT !.kept = IF l = Main THEN @ ELSE @ \cup {l}]
  IN CASE Way(s, l) = "C" ->
            {IF event # "done" THEN s
             ELSE IF l = Main THEN GoBack(coded("C")) ELSE BranchGone(coded("C"), l)}
       [] event = "done" ->
            IF Clashes(s, l) THEN {GivenUp(doubtful, l)}
            ELSE IF s.cancel /\ s.phase = "F" THEN {TurnRound(done, l, "cancelled")}
            ELSE IF l = Main THEN {Enter(done, After(n))} ELSE {BranchGone(done, l)}
       [] event = "failed" -> {GivenUp(failed, l)} \cup again([failed EXCEPT !.code[n] = s.code[n]])
       [] event = "in doubt" -> {GivenUp(doubtful, l)} \cup again(doubtful)
       [] event = "lost" -> {GivenUp(coded("U"), l)}
       [] event \in {"cancelled", "deadline"} -> {TurnRound(LeftOpen(s, l), l, event)}
       [] event = "rolling back" -> {BranchGone(LeftOpen(s, l), l)}

(* _withhold. A branch never goes back: it is only told that nobody needs it.  *)
Withhold(s, l) ==
  IF Way(s, l) = "C" THEN {"no"}
  ELSE IF s.phase = "C" /\ Broken # "FailureIgnoredAtClaim" THEN {"rolling back"}
  ELSE IF s.cancel THEN {"cancelled"}
  ELSE {"no"} \cup (IF s.lane[l].doubt THEN {"lost"} ELSE {})
              \cup (IF Deadline THEN {"deadline"} ELSE {})

(* _committed: which lane's work item is settled by the commit of lane l.      *)
Mover(before, s, l) ==
  LET still == Branches(before) \cap Branches(s)
  IN  IF l \in still THEN l ELSE IF still # {} THEN Nowhere ELSE Main
Mark(s, l, i) == [s EXCEPT !.lane[l].lease = None, !.lane[l].over = FALSE, !.lane[l].last = i,
                           !.lane[l].nudge = None, !.lane[l].recent = FALSE,
                           !.lane[l].surplus = 0]
Committed(before, s, l, i) ==
  LET by == Mover(before, s, l)
  IN  IF by = Nowhere THEN [s EXCEPT !.lane[l].last = i] ELSE Mark(s, by, i)
Moved(before, s, l) ==  \* the lanes of whose messages none is current any more
  (IF Mover(before, s, l) = Nowhere THEN {} ELSE {Mover(before, s, l)})
    \cup (Branches(before) \ Branches(s))
News(before, s, l) ==  \* to_announce
  IF ~Live(s) THEN {} ELSE {n \in Open(s) : n \notin Open(before) \/ n = Mover(before, s, l)}

-------------------------------------------------------------------------------
(* The life of an invocation. It holds a message of a `lane`, and `says` of    *)
(* each lane with which epoch it will send a message, if any. `read` is the    *)
(* epoch of the lane whose guard it needs, as it saw it; `job` the step and    *)
(* the way of its attempt.                                                     *)

Silent == [l \in Lanes |-> "no"]
Idle == [pc |-> "idle", lane |-> Main, epoch |-> "older", guard |-> Main, read |-> "older",
         says |-> Silent, job |-> None, event |-> None, before |-> None]
Saying(pc, ls) == [Idle EXCEPT !.pc = IF ls = {} THEN "Ack" ELSE pc,
                               !.says = [l \in Lanes |-> IF l \in ls THEN "current" ELSE "no"]]
ToAck(i) == inv' = [inv EXCEPT ![i] = Saying("Ack", {})]

Forgotten(i) == [saga EXCEPT !.lane = [l \in Lanes |->
  [saga.lane[l] EXCEPT !.lease = IF @ = i THEN Gone ELSE @,
                       !.last = IF @ = i THEN None ELSE @,
                       !.nudge = IF @ = i THEN None ELSE @]]]
Over(i) ==
  /\ inv' = [inv EXCEPT ![i] = Idle]
  /\ saga' = Forgotten(i)
  /\ unmoved' = unmoved \ {i}
Keep(i) == Over(i) /\ msgs' = Released(i)  \* _keep: it comes back
Done(i) == ToAck(i) /\ UNCHANGED <<saga, unmoved, msgs>>  \* _done

Receive(i, m) ==  \* by the function that the queue is mapped to
  /\ inv[i].pc = "idle"
  /\ inv' = [inv EXCEPT ![i] = [Idle EXCEPT !.pc = IF m.at = "queue" THEN "Claim" ELSE "Find",
                                            !.lane = m.lane, !.epoch = m.epoch]]
  /\ msgs' = (msgs (-) One(m)) (+) One([m EXCEPT !.by = @ \cup {i}])
  /\ IF m.by = {} THEN UNCHANGED left ELSE Spend("repeat")
  /\ UNCHANGED <<saga, unmoved, world>>
Deliver(i) == \E m \in BagToSet(msgs) : Receive(i, m)

Send(i) ==  \* _send: one lane after the other, in definition order
  LET rest == {l \in Lanes : inv[i].says[l] # "no"}
      l == Min(rest)
  IN /\ inv[i].pc = "Send"
     /\ Sent(l, inv[i].says[l])
     /\ IF rest = {l} THEN ToAck(i) ELSE inv' = [inv EXCEPT ![i].says[l] = "no"]
     /\ UNCHANGED <<saga, unmoved, world>>

Ack(i) ==
  /\ inv[i].pc = "Ack" /\ Over(i) /\ msgs' = Deleted(i)
  /\ UNCHANGED <<world, left>>

Holds(i) == \E l \in Lanes : saga.lane[l].lease = i
Crash(i) ==
  /\ \/ inv[i].pc \in {"Call", "Commit", "Send", "Ack"}
     \/ inv[i].pc = "Claim" /\ Holds(i)
     \/ inv[i].pc = "Redispatch" /\ \E l \in Lanes : saga.lane[l].nudge = i
  /\ Spend("crash") /\ Keep(i)
  /\ UNCHANGED world

-------------------------------------------------------------------------------
(* turn.work: claim, call, commit, announce.                                   *)

Attempt(i, s, l) ==  \* _attempt and next_action, on the saga as it was claimed
  \E why \in Withhold(s, l) :
    inv' = [inv EXCEPT ![i].job = <<StepOf(s, l), Way(s, l)>>,
                       ![i].pc = IF why = "no" THEN "Call" ELSE "Commit",
                       ![i].event = IF why = "no" THEN None ELSE why,
                       ![i].before = IF Broken = "JoinWithoutVer" THEN s ELSE None]

Surplus(i) ==  \* _redispatch, until its write: the branch, or whatever nobody has claimed
  LET l == inv[i].lane
      wanted == IF l \in Open(saga) THEN {l} ELSE Open(saga)
      free == {n \in wanted : saga.lane[n].lease = None}
      said == IF Broken = "OneBranchAnnounced" THEN {Min(free)}
              ELSE IF Broken = "MainAnnounced" THEN {IF l \in Open(saga) THEN l ELSE Main} ELSE free
  IN inv' = [inv EXCEPT ![i] = [Saying("Redispatch", said) EXCEPT
               !.guard = IF l \in Open(saga) THEN l ELSE Main, !.read = "current"]]

Claimed(l) ==  \* _stale: somebody has the successor of what the message announced
  IF l \in Open(saga) THEN saga.lane[l].lease # None
  ELSE IF Broken = "SettledAcked" /\ l # Main THEN TRUE
  ELSE IF l # Main /\ Branches(saga) # {} THEN TRUE
  ELSE IF Broken = "OneClaimIsEnough" THEN \E n \in Open(saga) : saga.lane[n].lease # None
  ELSE \A n \in Open(saga) : saga.lane[n].lease # None
Current(i) == inv[i].lane \in Open(saga) /\ inv[i].epoch = "current"

(* _refused. The branches stand in the order of the checks of `refusal`.       *)
Refused(i) ==
  IF ~Live(saga) THEN Done(i)                                  \* CLOSED, PARKED
  ELSE IF ~Current(i) THEN
    IF Claimed(inv[i].lane) THEN Done(i)                       \* STALE_CLAIMED
    ELSE Surplus(i) /\ UNCHANGED <<saga, unmoved, msgs>>       \* STALE_UNCLAIMED
  ELSE Keep(i)                                                 \* LEASED

Claim(i) ==
  LET l == inv[i].lane
      lane == saga.lane[l]
      n == StepOf(saga, l)
      first == Way(saga, l) = "F" /\ n \notin Began(saga)
  IN
  /\ inv[i].pc = "Claim"
  /\ IF /\ Current(i)                              \* CURRENT_ITEM, NO_GROUP
        /\ Live(saga)                              \* LIVE
        /\ lane.lease = None \/ lane.over          \* UNCLAIMED_OR_ABANDONED
     THEN /\ saga' = [saga EXCEPT
               !.lane[l].doubt = @ \/ lane.lease # None,  \* the attempt before this one is lost
               !.lane[l].lease = i, !.lane[l].over = FALSE,
               !.began = IF first THEN Append(@, n) ELSE @]
          /\ unmoved' = {i} /\ UNCHANGED msgs
          /\ \/ Attempt(i, saga', l) /\ UNCHANGED left
             \/ Spend("answer") /\ UNCHANGED inv   \* _write says it again
     ELSE /\ UNCHANGED left
          /\ IF lane.lease = i                     \* OWN_CLAIM
             THEN Attempt(i, saga, l) /\ unmoved' = unmoved \cup {i} /\ UNCHANGED <<saga, msgs>>
             ELSE Refused(i)
  /\ UNCHANGED world

(* A service. That it takes a repeat for what it is, and refuses an act whose  *)
(* undo came first, is shown in Saga.tla.                                      *)
Landed(w, n, way) ==
  IF way = "F" THEN [w EXCEPT ![n] = IF @ = "-" THEN "done" ELSE @]
               ELSE [w EXCEPT ![n] = IF @ = "done" THEN "undone" ELSE IF @ = "-" THEN "never" ELSE @]

Call(i) ==
  LET n == inv[i].job[1]
      way == inv[i].job[2]
      became(event) == inv' = [inv EXCEPT ![i].pc = "Commit", ![i].event = event]
  IN /\ inv[i].pc = "Call"
     /\ \/ /\ world' = Landed(world, n, way) /\ UNCHANGED left
           /\ became(IF way = "F" /\ world[n] \in {"undone", "never"} THEN "failed" ELSE "done")
        \/ /\ world' \in {world, Landed(world, n, way)} /\ became("in doubt") /\ Spend("doubt")
        \/ /\ left.refusals > 0 /\ left' = [left EXCEPT !.refusals = @ - 1]
           /\ way = "F" /\ became("failed") /\ UNCHANGED world
     /\ UNCHANGED <<saga, unmoved, msgs>>

Difference(b, t) ==  \* `difference`: only what changed is written, of the lanes, too
  LET new(x, y, z) == IF x # y THEN y ELSE z
      set(x, y, z) == (z \cup (y \ x)) \ (x \ y)
  IN [saga EXCEPT !.st = new(b.st, t.st, @), !.phase = new(b.phase, t.phase, @),
                  !.idx = new(b.idx, t.idx, @), !.stalls = t.stalls, !.cause = new(b.cause, t.cause, @),
                  !.code = [n \in 1..Steps |-> new(b.code[n], t.code[n], saga.code[n])],
                  !.lane = [l \in Lanes |-> new(b.lane[l], t.lane[l], saga.lane[l])],
                  !.kept = set(b.kept, t.kept, @), !.ctx = set(b.ctx, t.ctx, @)]

Commit(i) ==
  LET l == inv[i].lane
      mine == saga.lane[l].lease = i                                \* HELD_BY_ME
      may == mine /\ (i \in unmoved \/ Broken = "JoinWithoutVer")   \* UNMOVED
      before == IF Broken = "JoinWithoutVer" THEN inv[i].before ELSE saga
  IN
  /\ inv[i].pc = "Commit"
  /\ IF may THEN
       \E s \in Settled(before, l, inv[i].event) :
         LET t == [Committed(before, s, l, i) EXCEPT !.stalls = 0]
             old == Moved(before, s, l)
         IN
         /\ saga' = Difference(before, t)
         /\ unmoved' = {}
         /\ msgs' = Aged(msgs, old)
         /\ \/ /\ inv' = [Outdated(inv, old) EXCEPT ![i] = Saying("Send", News(before, saga', l))]
               /\ UNCHANGED left
            \/ inv' = Outdated(inv, old) /\ Spend("answer")         \* _write says it again
     ELSE /\ UNCHANGED left
          /\ IF \E n \in Lanes : saga.lane[n].last = i THEN         \* settled_by
               \* to_announce: its own lane's work item, and whatever else has moved since
               /\ LET own == IF l \in Open(saga) THEN {l}
                             ELSE IF l # Main /\ Branches(saga) # {} THEN {} ELSE Open(saga)
                  IN  \E others \in SUBSET (Branches(saga) \ own) : inv' = [inv EXCEPT ![i] =
                        Saying("Send", IF Live(saga) THEN own \cup others ELSE {})]
               /\ UNCHANGED <<saga, unmoved, msgs>>
             ELSE IF mine THEN  \* only the version moved: decide again from what is true now
               /\ inv' = [inv EXCEPT ![i].before = None]
               /\ unmoved' = unmoved \cup {i} /\ UNCHANGED <<saga, msgs>>
             ELSE IF ~Live(saga) \/ (~Current(i) /\ Claimed(l))     \* _fenced, superseded
             THEN Done(i) ELSE Keep(i)
  /\ UNCHANGED world

(* _redispatch: its write is the guard of one surplus message to a lane a      *)
(* minute. guard_lane: the branch's own, or the main lane's.                   *)
Redispatch(i) ==
  LET g == inv[i].guard
      held == IF g \in Open(saga) THEN g ELSE Main
  IN
  /\ inv[i].pc = "Redispatch"
  /\ IF \/ Broken = "UnguardedGroup" /\ g = Main /\ Live(saga)
        \/ /\ inv[i].read = "current" /\ Live(saga)                  \* CURRENT_ITEM, LIVE
           /\ g = Main \/ g \in Open(saga)
           /\ saga.lane[g].lease = None /\ ~saga.lane[g].recent      \* UNCLAIMED, NO_RECENT_NUDGE
     THEN /\ saga' = [saga EXCEPT !.lane[g].nudge = i, !.lane[g].recent = TRUE,
                                  !.lane[g].surplus = @ + 1]
          /\ \/ inv' = [inv EXCEPT ![i].pc = "Send"] /\ UNCHANGED left
             \/ UNCHANGED inv /\ Spend("answer")           \* the client says it again
          /\ UNCHANGED <<unmoved, msgs>>
     ELSE /\ IF saga.lane[held].nudge = i
             THEN inv' = [inv EXCEPT ![i].pc = "Send"] /\ UNCHANGED <<saga, unmoved, msgs>>
             ELSE Keep(i)
          /\ UNCHANGED left
  /\ UNCHANGED world

-------------------------------------------------------------------------------
(* turn.revive, as in Saga.tla.                                                *)

Parked(s) ==  \* _park: every lease is gone, and what was in flight may have happened
  [s EXCEPT !.st = "FAILED", !.lane = [l \in Lanes |->
    [s.lane[l] EXCEPT !.doubt = @ \/ s.lane[l].lease # None, !.lease = None, !.over = FALSE,
                      !.nudge = None, !.recent = FALSE, !.surplus = 0]]]

Find(i) ==
  LET l == inv[i].lane
      g == IF l \in Open(saga) THEN l ELSE Main                          \* guard_lane
      lane == saga.lane[g]
      stall == [saga EXCEPT !.stalls = @ + 1]
  IN
  /\ inv[i].pc = "Find"
  /\ IF ~Live(saga) THEN Done(i)                                         \* CLOSED, PARKED
     ELSE IF (lane.lease # None /\ ~lane.over) \/ lane.recent THEN Keep(i)  \* LEASED, NUDGED
     ELSE IF ~Current(i) THEN
       IF Claimed(l) THEN Done(i)                                        \* STALE_CLAIMED
       ELSE Surplus(i) /\ UNCHANGED <<saga, unmoved, msgs>>              \* STALE_UNCLAIMED
     ELSE IF stall.stalls >= MaxStalls THEN
       /\ saga' = Parked(stall) /\ unmoved' = {} /\ ToAck(i) /\ UNCHANGED msgs
     ELSE
       /\ saga' = [stall EXCEPT !.lane[g].nudge = i, !.lane[g].recent = TRUE,
                                !.lane[g].surplus = @ + 1]
       /\ unmoved' = {} /\ inv' = [inv EXCEPT ![i] = Saying("Send", {g})] /\ UNCHANGED msgs
  /\ UNCHANGED <<world, left>>

-------------------------------------------------------------------------------
(* turn.request.                                                               *)

Asked(lost) ==
  /\ left.requests > 0
  /\ lost => left.faults > 0 /\ "crash" \in Kinds
  /\ left' = [left EXCEPT !.requests = @ - 1, !.faults = IF lost THEN @ - 1 ELSE @]

Abandoned(s) == {l \in Open(s) : s.lane[l].lease = None \/ s.lane[l].over}  \* _idle

(* _unparked and what follows: new work items, with no messages but these.     *)
Unparked(s) ==
  /\ saga' = [s EXCEPT !.stalls = 0]
  /\ unmoved' = {} /\ inv' = Outdated(inv, Lanes)
  /\ \/ msgs' = (IF Live(s) THEN All(Aged(msgs, Lanes), Open(s)) ELSE Aged(msgs, Lanes))
        /\ Asked(FALSE)
     \/ msgs' = Aged(msgs, Lanes) /\ Sweeper /\ Asked(TRUE)
  /\ UNCHANGED world

Cancel ==  \* _cancel
  /\ saga.phase = "F" /\ ~Closed(saga)
  /\ IF Live(saga) THEN
       /\ ~saga.cancel
       /\ saga' = [saga EXCEPT !.cancel = TRUE]
       /\ unmoved' = {}
       /\ \/ msgs' = All(msgs, Abandoned(saga)) /\ Asked(FALSE)
          \/ UNCHANGED msgs /\ Abandoned(saga) # {} /\ Asked(TRUE)
       /\ UNCHANGED <<inv, world>>
     ELSE LET s == [saga EXCEPT !.cancel = TRUE]
              t == IF Branches(s) = {} THEN LeftOpen(s, Main) ELSE s
          IN  Unparked(TurnRound(t, Nowhere, "cancelled"))

Resume ==  \* _resume
  /\ saga.st = "FAILED"
  /\ IF saga.phase = "F" THEN Unparked([saga EXCEPT !.st = "RUNNING"])
     ELSE IF Branches(saga) # {} THEN Unparked([saga EXCEPT !.st = "COMPENSATING"])
     ELSE Unparked(GoBack(saga))

-------------------------------------------------------------------------------
(* Time, the queue, the sweeper.                                               *)

LeaseRunsOut ==
  /\ \E l \in Lanes :
       /\ saga.lane[l].lease # None /\ ~saga.lane[l].over
       /\ saga' = [saga EXCEPT !.lane[l].over = TRUE]
       /\ IF saga.lane[l].lease = Gone THEN UNCHANGED left ELSE Spend("expire")
  /\ UNCHANGED <<unmoved, msgs, inv, world>>

GuardReopens ==
  /\ \E l \in Lanes : saga.lane[l].recent
       /\ saga' = [saga EXCEPT !.lane[l].recent = FALSE, !.lane[l].surplus = 0]
  /\ UNCHANGED <<unmoved, msgs, inv, world, left>>

Redrive ==
  /\ Spend("dead")
  /\ \E m \in BagToSet(msgs) :
       m.at = "queue" /\ msgs' = (msgs (-) One(m)) (+) One([m EXCEPT !.at = "dead", !.by = {}])
  /\ UNCHANGED <<saga, unmoved, inv, world>>

Lose ==
  /\ Sweeper /\ Spend("lose")
  /\ \E m \in BagToSet(msgs) : msgs' = msgs (-) One(m)
  /\ UNCHANGED <<saga, unmoved, inv, world>>

Sweep ==  \* turn.sweep: every lane that nobody works on
  LET lanes == Abandoned(saga)
      lost == {l \in lanes : \A m \in BagToSet(msgs) : m.lane # l}
  IN
  /\ Sweeper /\ Live(saga) /\ lanes # {}
  /\ msgs' = All(msgs, lanes)
  /\ IF lost = lanes THEN UNCHANGED left ELSE Spend("sweep")
  /\ UNCHANGED <<saga, unmoved, inv, world>>

-------------------------------------------------------------------------------
Init ==  \* turn.start: stored, then announced, once for every lane
  /\ saga = Enter([st |-> "RUNNING", phase |-> "F", idx |-> 1, code |-> [n \in 1..Steps |-> "-"],
                   lane |-> [l \in Lanes |-> Shut], began |-> <<>>, kept |-> {}, ctx |-> {},
                   cancel |-> FALSE, cause |-> None, stalls |-> 0], 1)
  /\ inv = [i \in Inv |-> Idle] /\ unmoved = {}
  /\ world = [n \in 1..Steps |-> "-"]
  /\ msgs = All(EmptyBag, Open(saga))
  /\ left = [faults |-> Faults, refusals |-> Refusals, requests |-> Requests]

Step(i) == \/ Claim(i) \/ Call(i) \/ Commit(i) \/ Send(i) \/ Ack(i)
           \/ Redispatch(i) \/ Find(i)

Next == \/ \E i \in Inv : Deliver(i) \/ Step(i) \/ Crash(i)
        \/ Cancel \/ Resume
        \/ LeaseRunsOut \/ GuardReopens
        \/ Redrive \/ Lose \/ Sweep

Spec == Init /\ [][Next]_vars

Delivered(at, l, epoch) ==
  LET m == [at |-> at, lane |-> l, epoch |-> epoch, by |-> {}]
  IN  m \in BagToSet(msgs) /\ \E i \in Inv : Receive(i, m)
FairSpec == /\ Spec
            /\ \A i \in Inv : WF_vars(Step(i))
            /\ \A at \in {"queue"} \cup (IF "dead" \in Kinds THEN {"dead"} ELSE {}),
                  l \in Lanes, epoch \in {"current", "older"} :
                 SF_vars(Delivered(at, l, epoch))
            /\ WF_vars(LeaseRunsOut /\ UNCHANGED left) /\ WF_vars(GuardReopens)
            /\ WF_vars(Sweep /\ UNCHANGED left)

-------------------------------------------------------------------------------
(* What must hold.                                                             *)

CompletedInFull ==  \* S2
  saga.st = "COMPLETED" => \A n \in 1..Steps : world[n] = "done"

UndoneInFull ==  \* S3, S15
  saga.st = "COMPENSATED" => \A n \in 1..Steps : world[n] # "done"

StandingIsNamed ==  \* S3
  saga.st = "FAILED" => \A n \in 1..Steps : world[n] = "done" =>
    \/ saga.code[n] \in {"OK", "U"}
    \/ \E l \in Open(saga) : StepOf(saga, l) = n /\ saga.lane[l].doubt

InOrder ==  \* S8: stage by stage forward; back by their starts, the newest first
  /\ \A n \in 1..Steps, k \in 1..Steps :
       k < n /\ ~({k, n} \subseteq Group) /\ world[n] \in {"done", "undone"} =>
         world[k] \in {"done", "undone"}
  /\ \A n \in Began(saga), k \in Began(saga) :
       world[n] \in {"undone", "never"} /\ Place(saga, n) < Place(saga, k) => world[k] # "done"

CancelHolds ==  \* S9, first half
  saga.cancel => saga.st # "COMPLETED"

NoCallOnceTurned ==  \* S9, second half: nor is a branch begun once another has failed
  [][\A i \in Inv : inv'[i].pc = "Call" /\ inv[i].pc # "Call" /\ inv'[i].job[2] = "F" =>
       saga'.phase = "F" /\ ~saga'.cancel]_vars

UndoAlone ==  \* S8: nothing is undone while a branch is open
  \A i \in Inv : inv[i].pc = "Call" /\ inv[i].job[2] = "C" => Branches(saga) = {}

Joins ==  \* a group is left forward with the results of all its branches
  saga.phase = "F" /\ saga.idx > Max(Group) => saga.ctx = Group /\ saga.kept = {}

OneWriter ==  \* of the branches that write one field, one at most is kept
  Cardinality((saga.ctx \cup saga.kept) \cap Shared) <= 1

Token ==  \* L2, of every lane: while it is open something will come back to it
  Live(saga) /\ ~Sweeper => \A l \in Open(saga) : \E m \in BagToSet(msgs) :
    \/ m.lane = l /\ m.epoch = "current"
    \/ /\ saga.lane[l].lease = None
       /\ m.lane \in {l, Main} \/ l = Main

OneSurplusAMinute ==  \* S11, for each lane's guard
  \A l \in Lanes : saga.lane[l].surplus <= 1

FewMessages ==  \* S11: one for each branch, and for each fault and request a group's more
  LET going == {m \in BagToSet(msgs) : \E i \in m.by : inv[i].pc \in {"Send", "Ack"}}
  IN  BagCardinality(msgs) - Cardinality(going)
        <= Cardinality(Group) * (1 + (Faults - left.faults) + (Requests - left.requests))

ClosedIsFinal ==  \* S4
  [][Closed(saga) => saga'.st = saga.st /\ saga'.code = saga.code]_vars

OneWay ==  \* S3
  [][saga.phase = "C" => saga'.phase = "C"]_vars

OneCause ==  \* it is written once, with the write that turns the saga round
  [][saga.phase = "C" => saga'.cause = saga.cause]_vars

HolderCommits ==  \* S6, S7: who is the last to settle a lane held one, over what it saw
  [][\A i \in Inv : (\E l \in Lanes : saga'.lane[l].last = i /\ saga.lane[l].last # i) =>
       saga.lane[inv[i].lane].lease = i /\ i \in unmoved]_vars

LeaseHolds ==  \* S7: but for a stop, nobody else ends a lease that has not run out
  [][\A i \in Inv, l \in Lanes :
       saga.lane[l].lease = i /\ saga'.lane[l].lease # i =>
         saga.lane[l].over \/ saga'.st = "FAILED" \/ inv[i].pc = "Commit" \/ inv'[i].pc = "idle"]_vars

Ends ==  \* L1
  <>[](~Live(saga))

Symmetry == Permutations(Inv)
===============================================================================
