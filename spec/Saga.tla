---------------------------------- MODULE Saga ----------------------------------
(*******************************************************************************)
(* One saga: its item in the table, its messages, the services that it calls.  *)
(*                                                                             *)
(* An invocation is one delivery of one message, to the worker (turn.work) or  *)
(* to the dead-letter function (turn.revive). Its program counter is the       *)
(* effect that it yields next: what can happen between two yields of turn.py   *)
(* can happen between two actions here. A remark in capitals is a clause of    *)
(* infra/conditions.py or a Reason of transition.py; one that begins with an   *)
(* underscore is a function of turn.py or transition.py.                       *)
(*                                                                             *)
(* What is only ever compared for equality is not counted:                     *)
(*   epoch  a message is of the "current" work item or of an "older" one       *)
(*   ver    `unmoved` holds the invocations that saw the version as it is now  *)
(*   ids    a lease, a nudge, a commit name their invocation, and nobody once  *)
(*          that is over: the next delivery has another id                     *)
(* Nor is time: whatever may run out may do so at any moment, under every      *)
(* clock, right or wrong. docs/model.md says what is left out.                 *)
(*******************************************************************************)
EXTENDS Naturals, FiniteSets, Bags, TLC

CONSTANTS
  Steps,       \* how many steps the saga has
  Inv,         \* invocations that may run at one time
  Faults,      \* how many faults one history may have,
  Kinds,       \* and of which kinds (see Spend)
  Refusals,    \* how many calls a service may refuse: known failed
  Requests,    \* how many times a person cancels, resumes, or repeats either
  MaxStalls,   \* MAX_STALLS
  Deadline,    \* TRUE: the deadline may be over when a claim is granted
  LongTimers,  \* TRUE: a retry may be further off than a queue can delay
  Sweeper,     \* TRUE: the sweeper runs, and what only it repairs may happen
  Broken       \* the one rule that is broken, by name; "nothing" is ours

VARIABLES
  saga,     \* what transition.py decides on, of SagaInstance, Lane, StepRecord
  lane,     \* who may move it: the lease, the last commit, the nudge
  unmoved,  \* the invocations for which UNMOVED holds
  msgs,     \* the messages that are not deleted: a bag
  inv,      \* the invocations
  world,    \* what the services did: effects, counted, and tombstones
  late,     \* calls that are still on their way to a service
  surplus,  \* surplus messages decided on since the guard was last open
  left      \* what is left of the budgets

vars == <<saga, lane, unmoved, msgs, inv, world, late, surplus, left>>

None == "none"
Gone == "gone"  \* an invocation that is over
Max(S) == CHOOSE n \in S : \A k \in S : k <= n
Min(S) == CHOOSE n \in S : \A k \in S : n <= k
Live(s) == s.st \in {"RUNNING", "COMPENSATING"}
Closed(s) == s.st \in {"COMPLETED", "COMPENSATED"}

(* A fault costs one of the budget. The kinds:                                 *)
(*   crash   an invocation dies between two effects; a request is not announced*)
(*   repeat  a message is delivered while an earlier delivery of it still runs *)
(*   expire  a lease runs out while its holder still runs, and goes on: zombie *)
(*   late    a call times out, and arrives at the service when it likes, also  *)
(*           at once: then only its reply was lost                             *)
(*   answer  a write took effect, and its answer is lost                       *)
(*   copy    a send is stored twice                                            *)
(*   dead    a message runs out of deliveries                                  *)
(*   sweep   the sweeper sends although nothing was lost                       *)
(*   lose    a message is lost: only where the sweeper runs                    *)
Spend(kind) == /\ kind \in Kinds /\ left.faults > 0
               /\ left' = [left EXCEPT !.faults = @ - 1]

-------------------------------------------------------------------------------
(* Messages, in the work queue or the dead letters. `by` are the invocations   *)
(* that have a delivery of it. Delays are not kept: a message may come early.  *)

Message(epoch) == [at |-> "queue", epoch |-> epoch, by |-> {}]
One(m) == SetToBag({m})
Put(ms, epoch) == ms (+) One(Message(epoch))
Sent(epoch) == \/ msgs' = Put(msgs, epoch) /\ UNCHANGED left
               \/ msgs' = Put(Put(msgs, epoch), epoch) /\ Spend("copy")

Has(i) == {m \in BagToSet(msgs) : i \in m.by}  \* one, or none if it was deleted
Deleted(i) == msgs (-) SetToBag(Has(i))
Released(i) == Deleted(i) (+) SetToBag({[m EXCEPT !.by = @ \ {i}] : m \in Has(i)})

Older(epoch) == IF epoch = "next" THEN "current" ELSE "older"
Aged(ms) == BagOfAll(LAMBDA m : [m EXCEPT !.epoch = Older(@)], ms)
Outdated(f) == [i \in Inv |-> [f[i] EXCEPT !.epoch = Older(@), !.says = Older(@)]]

-------------------------------------------------------------------------------
(* transition.py: what is true after an attempt. Pure, as it is there.         *)

Fresh(s, n) == [s EXCEPT !.idx = n, !.tries = 0, !.clean = 0, !.due = "now"]
Code(s, c) == [s EXCEPT !.code[s.idx] = c]

GoForward(s) ==  \* _enter
  IF s.idx = Steps THEN [Fresh(s, s.idx) EXCEPT !.st = "COMPLETED"]
                   ELSE Fresh(s, s.idx + 1)

GoBack(s) ==  \* _turn_round and _go_back: to the newest step not undone yet
  LET undo == IF Broken = "UnknownNotUndone" THEN {"OK"} ELSE {"OK", "U"}
      open == {n \in 1..Steps : s.code[n] \in undo}
      t == [s EXCEPT !.phase = "C"]
  IN  IF open = {} THEN [Fresh(t, s.idx) EXCEPT !.st = "COMPENSATED"]
                   ELSE [Fresh(t, Max(open)) EXCEPT !.st = "COMPENSATING"]

Doubt(s) ==  \* some attempt went unreported, or reported that it cannot tell
  Broken # "DoubtForgotten" /\ s.tries > s.clean

LeftOpen(s) ==  \* _left_open: the current step, as the turn round finds it
  IF Doubt(s) THEN Code(s, "U") ELSE IF s.clean > 0 THEN Code(s, "NO") ELSE s

Later(s) ==  \* _retry_later
  {[s EXCEPT !.due = d] : d \in {"later"} \cup (IF LongTimers THEN {"long"} ELSE {})}

Parked(s) == [s EXCEPT !.st = "FAILED"]  \* _park

(* _settle. A set: whether the policy allows one more attempt is left open.    *)
Settled(s, event) ==
  LET forward == s.phase = "F"
      clean == [s EXCEPT !.clean = @ + 1]
      uncalled == [s EXCEPT !.tries = @ - 1]
      again(t) == IF s.cancel THEN {} ELSE Later(t)
  IN CASE event = "done" /\ forward ->
            {IF s.cancel THEN GoBack(Code(s, "OK")) ELSE GoForward(Code(s, "OK"))}
       [] event = "failed" /\ forward ->
            {GoBack(Code(clean, IF Doubt(clean) THEN "U" ELSE "NO"))}
              \cup again(Code(clean, IF Doubt(clean) THEN "U" ELSE "P"))
       [] event = "in doubt" /\ forward -> {GoBack(Code(s, "U"))} \cup again(Code(s, "U"))
       [] event = "done" /\ ~forward -> {GoBack(Code(s, "C"))}
       [] event \in {"failed", "in doubt"} /\ ~forward ->
            {Parked(Code(s, "CF"))} \cup Later(s)
       [] event \in {"cancelled", "deadline"} -> {GoBack(LeftOpen(uncalled))}
       [] event = "lost" /\ forward -> {GoBack(Code(uncalled, "U"))}
       [] event = "lost" /\ ~forward -> {Parked(Code(uncalled, "CF"))}

(* _withhold: why an attempt just claimed must not call; "no" if it may. That  *)
(* attempts were lost needs one before this that is not known to have failed.  *)
Withhold(s) ==
  IF s.phase = "F" /\ s.cancel /\ Broken # "CancelIgnoredAtClaim" THEN {"cancelled"}
  ELSE {"no"} \cup (IF s.tries - 1 > s.clean THEN {"lost"} ELSE {})
              \cup (IF s.phase = "F" /\ Deadline THEN {"deadline"} ELSE {})

-------------------------------------------------------------------------------
(* The life of an invocation. It holds a message and that message's epoch, the *)
(* epoch that it `says` when it sends, the saga as it saw it (`before` in      *)
(* _commit) and the event that its attempt came to.                            *)

Idle == [pc |-> "idle", epoch |-> "older", says |-> "older", before |-> None, event |-> None]
Saying(pc, epoch) == [Idle EXCEPT !.pc = pc, !.says = epoch]
Say(i, pc) == inv' = [inv EXCEPT ![i] = Saying(pc, "current")]
ToAck(i) == inv' = [inv EXCEPT ![i] = Saying("Ack", "older")]

Over(i) ==
  /\ inv' = [inv EXCEPT ![i] = Idle]
  /\ lane' = [lane EXCEPT !.lease = IF @ = i THEN Gone ELSE @,
                          !.last = IF @ = i THEN None ELSE @,
                          !.nudge = IF @ = i THEN None ELSE @]
  /\ unmoved' = unmoved \ {i}
Keep(i) == Over(i) /\ msgs' = Released(i)  \* _keep: it comes back
Done(i) == ToAck(i) /\ UNCHANGED <<lane, unmoved, msgs>>  \* _done

Receive(i, m) ==  \* by the function that the queue is mapped to
  /\ inv[i].pc = "idle"
  /\ inv' = [inv EXCEPT ![i] =
       [Idle EXCEPT !.pc = IF m.at = "queue" THEN "Claim" ELSE "Find", !.epoch = m.epoch]]
  /\ msgs' = (msgs (-) One(m)) (+) One([m EXCEPT !.by = @ \cup {i}])
  /\ IF m.by = {} THEN UNCHANGED left ELSE Spend("repeat")
  /\ UNCHANGED <<saga, lane, unmoved, world, late, surplus>>
Deliver(i) == \E m \in BagToSet(msgs) : Receive(i, m)

Send(i) ==
  /\ inv[i].pc = "Send"
  /\ Sent(inv[i].says) /\ ToAck(i)
  /\ UNCHANGED <<saga, lane, unmoved, world, late, surplus>>

Ack(i) ==
  /\ inv[i].pc = "Ack" /\ Over(i) /\ msgs' = Deleted(i)
  /\ UNCHANGED <<saga, world, late, surplus, left>>

(* Or killed, or store or queue stayed out of reach until its end. Before its  *)
(* first write it has done nothing: that is the same as no delivery.           *)
Crash(i) ==
  /\ \/ inv[i].pc \in {"Call", "SendFirst", "Commit", "Send", "Ack"}
     \/ inv[i].pc = "Claim" /\ lane.lease = i
     \/ inv[i].pc = "Redispatch" /\ lane.nudge = i
  /\ Spend("crash") /\ Keep(i)
  /\ \/ UNCHANGED late
     \/ /\ inv[i].pc = "Call"
        /\ late' = late \cup {<<inv[i].before.idx, inv[i].before.phase>>}
  /\ UNCHANGED <<saga, world, surplus>>

-------------------------------------------------------------------------------
(* turn.work: claim, call, commit, announce.                                   *)

Outcome == IF Broken = "SendBeforeCommit" THEN "SendFirst" ELSE "Commit"

Attempt(i, s) ==  \* _attempt and next_actions, on the saga as it was claimed
  \E why \in Withhold(s) :
    inv' = [inv EXCEPT ![i].before = s,
                       ![i].pc = IF why = "no" THEN "Call" ELSE Outcome,
                       ![i].event = IF why = "no" THEN None ELSE why]

Surplus(i) ==  \* _redispatch, until its write
  IF saga.due = "long" THEN Done(i) ELSE Say(i, "Redispatch") /\ UNCHANGED <<lane, unmoved, msgs>>

(* _refused. The branches stand in the order of the checks of `refusal`.       *)
Refused(i) ==
  IF ~Live(saga) THEN Done(i)                                  \* CLOSED, PARKED
  ELSE IF inv[i].epoch # "current" THEN
    IF lane.lease # None \/ Broken = "StaleOnlyAcked" THEN Done(i)  \* STALE_CLAIMED
    ELSE Surplus(i)                                            \* STALE_UNCLAIMED
  ELSE IF lane.lease # None /\ ~lane.over THEN                 \* LEASED
    IF Broken = "AckOnLeaseConflict" THEN Done(i) ELSE Keep(i)
  ELSE                                                         \* EARLY
    IF saga.due = "long" \/ Broken = "EarlyDropped" THEN Done(i) ELSE Keep(i)

Claim(i) ==
  /\ inv[i].pc = "Claim"
  /\ IF /\ inv[i].epoch = "current" \/ Broken = "StaleTakesOver"  \* CURRENT_ITEM
        /\ Live(saga)                              \* LIVE
        /\ saga.due = "now"                        \* DUE
        /\ lane.lease = None \/ lane.over          \* UNCLAIMED_OR_ABANDONED
     THEN /\ saga' = [saga EXCEPT !.tries = @ + 1]
          /\ lane' = [lane EXCEPT !.lease = i, !.over = FALSE]
          /\ unmoved' = {i} /\ UNCHANGED msgs
          /\ \/ Attempt(i, saga') /\ UNCHANGED left
             \/ Spend("answer") /\ UNCHANGED inv   \* _write says it again
     ELSE /\ UNCHANGED <<saga, left>>
          /\ IF lane.lease = i                     \* OWN_CLAIM
             THEN Attempt(i, saga) /\ unmoved' = unmoved \cup {i} /\ UNCHANGED <<lane, msgs>>
             ELSE Refused(i)
  /\ UNCHANGED <<world, late, surplus>>

(* A service, when a call arrives. A repeat has no effect, for it comes with   *)
(* the same key; an undo of what never happened leaves a tombstone, which      *)
(* refuses the act when it comes after all.                                    *)
Landed(w, n, phase) ==
  IF phase = "F" THEN
    IF w.tomb[n] \/ (w.act[n] > 0 /\ Broken # "KeyPerAttempt") THEN w
    ELSE [w EXCEPT !.act[n] = @ + 1]
  ELSE
    LET t == [w EXCEPT !.tomb[n] = Broken # "NoTombstone"]
    IN  IF w.act[n] > w.comp[n] THEN [t EXCEPT !.comp[n] = @ + 1] ELSE t

Call(i) ==
  LET n == inv[i].before.idx
      phase == inv[i].before.phase
      became(event) == inv' = [inv EXCEPT ![i].pc = Outcome, ![i].event = event]
  IN /\ inv[i].pc = "Call"
     /\ \/ /\ world' = Landed(world, n, phase)
           /\ became(IF phase = "F" /\ world.tomb[n] THEN "failed" ELSE "done")
           /\ UNCHANGED <<late, left>>
        \/ /\ late' = late \cup {<<n, phase>>} /\ became("in doubt")
           /\ Spend("late") /\ UNCHANGED world
        \/ /\ left.refusals > 0 /\ left' = [left EXCEPT !.refusals = @ - 1]
           /\ became("failed") /\ UNCHANGED <<world, late>>
     /\ UNCHANGED <<saga, lane, unmoved, msgs, surplus>>

(* The work item that was current is settled: all that speaks of it is older.  *)
EpochMoves(ms, f) == msgs' = Aged(ms) /\ inv' = Outdated(f)

Announcing(s) == Live(s) /\ s.due # "long" /\ Broken # "SendBeforeCommit"

Commit(i) ==
  LET mine == lane.lease = i                                        \* HELD_BY_ME
      may == /\ mine \/ Broken = "CommitWithoutLease"
             /\ i \in unmoved \/ Broken = "CommitWithoutVer"        \* UNMOVED
      again == mine \/ (Broken = "CommitWithoutLease" /\ Live(saga)
                        /\ saga.phase = inv[i].before.phase)
      kept == IF Broken = "AckBeforeSend" THEN Deleted(i) ELSE msgs
  IN
  /\ inv[i].pc = "Commit"
  /\ IF may THEN                                                    \* _committed
       \E s \in Settled(inv[i].before, inv[i].event) :
         /\ saga' = [s EXCEPT !.stalls = 0, !.cancel = saga.cancel]  \* `difference`
         /\ lane' = [lease |-> None, over |-> FALSE, last |-> i,
                     nudge |-> None, recent |-> FALSE]
         /\ unmoved' = {} /\ surplus' = 0
         /\ \/ /\ EpochMoves(kept, [inv EXCEPT ![i] =
                    IF Announcing(s) THEN Saying("Send", "next") ELSE Saying("Ack", "older")])
               /\ UNCHANGED left
            \/ EpochMoves(kept, inv) /\ Spend("answer")             \* _write says it again
     ELSE /\ UNCHANGED <<saga, surplus, left>>
          /\ IF lane.last = i THEN
               IF Announcing(saga) THEN Say(i, "Send") /\ UNCHANGED <<lane, unmoved, msgs>>
                                   ELSE Done(i)
             ELSE IF again THEN  \* only the version moved: decide again from what is true now
               /\ inv' = [inv EXCEPT ![i].before = saga]
               /\ unmoved' = unmoved \cup {i} /\ UNCHANGED <<lane, msgs>>
             ELSE IF \/ ~Live(saga)                                 \* _fenced
                     \/ inv[i].epoch # "current" /\ (lane.lease # None \/ Broken = "FencedAck")
             THEN Done(i) ELSE Keep(i)
  /\ UNCHANGED <<world, late>>

SendFirst(i) ==  \* only if SendBeforeCommit is broken
  /\ inv[i].pc = "SendFirst"
  /\ Sent("next") /\ inv' = [inv EXCEPT ![i].pc = "Commit"]
  /\ UNCHANGED <<saga, lane, unmoved, world, late, surplus>>

(* _redispatch: its write is the guard of one surplus message a minute.        *)
Redispatch(i) ==
  /\ inv[i].pc = "Redispatch"
  /\ IF \/ Broken = "UnguardedRedispatch"
        \/ /\ inv[i].says = "current" /\ Live(saga)        \* CURRENT_ITEM, LIVE
           /\ lane.lease = None /\ ~lane.recent            \* UNCLAIMED, NO_RECENT_NUDGE
     THEN /\ lane' = [lane EXCEPT !.nudge = i, !.recent = TRUE]
          /\ surplus' = surplus + 1
          /\ \/ inv' = [inv EXCEPT ![i].pc = "Send"] /\ UNCHANGED left
             \/ UNCHANGED inv /\ Spend("answer")           \* the client says it again
          /\ UNCHANGED <<unmoved, msgs>>
     ELSE /\ IF lane.nudge = i
             THEN inv' = [inv EXCEPT ![i].pc = "Send"] /\ UNCHANGED <<lane, unmoved, msgs>>
             ELSE IF Broken = "GuardLosersAck" THEN Done(i) ELSE Keep(i)
          /\ UNCHANGED <<surplus, left>>
  /\ UNCHANGED <<saga, world, late>>

-------------------------------------------------------------------------------
(* turn.revive. Find and Record are one action: the record is refused if the   *)
(* version or the nudge moved since the reading, and a refusal keeps the       *)
(* message. The branches stand in the order of `delivery_exhausted`.           *)

Find(i) ==
  LET stall == [saga EXCEPT !.stalls = @ + 1] IN
  /\ inv[i].pc = "Find"
  /\ IF Broken = "DeadLettersBlind" /\ Live(saga) THEN
       /\ surplus' = surplus + 1 /\ Say(i, "Send") /\ UNCHANGED <<saga, lane, unmoved, msgs>>
     ELSE IF ~Live(saga) THEN Done(i) /\ UNCHANGED <<saga, surplus>>
     ELSE IF (lane.lease # None /\ ~lane.over) \/ lane.recent THEN  \* LEASED, NUDGED
       /\ IF Broken = "DeadLettersDropped" THEN Done(i) ELSE Keep(i)
       /\ UNCHANGED <<saga, surplus>>
     ELSE IF inv[i].epoch # "current" THEN
       /\ IF lane.lease # None THEN Done(i) ELSE Surplus(i)         \* STALE_CLAIMED, _UNCLAIMED
       /\ UNCHANGED <<saga, surplus>>
     ELSE IF saga.due # "now" THEN Surplus(i) /\ UNCHANGED <<saga, surplus>>  \* EARLY
     ELSE IF stall.stalls >= MaxStalls THEN
       /\ saga' = Parked(stall)
       /\ lane' = [lane EXCEPT !.lease = None, !.over = FALSE, !.nudge = None, !.recent = FALSE]
       /\ unmoved' = {} /\ surplus' = 0 /\ ToAck(i) /\ UNCHANGED msgs
     ELSE
       /\ saga' = [stall EXCEPT !.due = "later"]
       /\ lane' = [lane EXCEPT !.nudge = i, !.recent = TRUE]
       /\ unmoved' = {} /\ surplus' = surplus + 1 /\ Say(i, "Send") /\ UNCHANGED msgs
  /\ UNCHANGED <<world, late, left>>

-------------------------------------------------------------------------------
(* turn.request. Write and announcement are one action, or the announcement is *)
(* lost: one that is sent late is no different from one that comes late.       *)

Asked(lost) ==
  /\ left.requests > 0
  /\ lost => left.faults > 0 /\ "crash" \in Kinds
  /\ left' = [left EXCEPT !.requests = @ - 1, !.faults = IF lost THEN @ - 1 ELSE @]

Announced == \/ msgs' = Put(msgs, "current") /\ Asked(FALSE)
             \/ UNCHANGED msgs /\ Asked(TRUE)

(* _unparked and what follows: a new work item, with no message but this one.  *)
Unparked(s) ==
  /\ saga' = s
  /\ lane' = [lane EXCEPT !.nudge = None, !.recent = FALSE]
  /\ unmoved' = {} /\ surplus' = 0 /\ inv' = Outdated(inv)
  /\ \/ /\ msgs' = IF Live(s) THEN Put(Aged(msgs), "current") ELSE Aged(msgs)
        /\ Asked(FALSE)
     \/ msgs' = Aged(msgs) /\ Sweeper /\ Asked(TRUE)
  /\ UNCHANGED <<world, late>>

Cancel ==  \* _cancel
  /\ saga.phase = "F" /\ ~Closed(saga)
  /\ IF Live(saga) THEN
       /\ ~saga.cancel
       /\ saga' = [saga EXCEPT !.cancel = TRUE, !.due = "now"]
       /\ unmoved' = {}
       /\ IF lane.lease = None \/ lane.over                        \* _idle
          THEN Announced
          ELSE UNCHANGED msgs /\ Asked(FALSE)
       /\ UNCHANGED <<lane, inv, world, late, surplus>>
     ELSE Unparked(GoBack(LeftOpen([saga EXCEPT !.cancel = TRUE, !.stalls = 0])))

Resume ==  \* _resume
  LET fresh == [saga EXCEPT !.stalls = 0, !.due = "now"]
      forgetful == IF Broken = "TriesResetOnResume"
                   THEN [fresh EXCEPT !.tries = 0, !.clean = 0] ELSE fresh
      open == [n \in 1..Steps |-> IF saga.code[n] = "CF" THEN "U" ELSE saga.code[n]]
  IN /\ saga.st = "FAILED"
     /\ IF saga.phase = "F" THEN Unparked([forgetful EXCEPT !.st = "RUNNING"])
                            ELSE Unparked(GoBack([fresh EXCEPT !.code = open]))

Repeat ==  \* _not_moved: a request that is under way wakes the saga behind the guard
  /\ Live(saga) /\ lane.lease = None /\ ~lane.recent /\ saga.due # "long"
  /\ lane' = [lane EXCEPT !.nudge = None, !.recent = TRUE]
  /\ surplus' = surplus + 1
  /\ Announced
  /\ UNCHANGED <<saga, unmoved, inv, world, late>>

-------------------------------------------------------------------------------
(* Time, the queue, the sweeper.                                               *)

LeaseRunsOut ==
  /\ lane.lease # None /\ ~lane.over
  /\ lane' = [lane EXCEPT !.over = TRUE]
  /\ IF lane.lease = Gone THEN UNCHANGED left ELSE Spend("expire")
  /\ UNCHANGED <<saga, unmoved, msgs, inv, world, late, surplus>>

GuardReopens ==
  /\ lane.recent /\ lane' = [lane EXCEPT !.recent = FALSE] /\ surplus' = 0
  /\ UNCHANGED <<saga, unmoved, msgs, inv, world, late, left>>

DueComes ==
  /\ saga.due # "now" /\ Live(saga)
  /\ saga' = [saga EXCEPT !.due = IF @ = "long" THEN "later" ELSE "now"]
  /\ UNCHANGED <<lane, unmoved, msgs, inv, world, late, surplus, left>>

LateLands ==
  /\ \E r \in late : world' = Landed(world, r[1], r[2]) /\ late' = late \ {r}
  /\ UNCHANGED <<saga, lane, unmoved, msgs, inv, surplus, left>>

Redrive ==  \* maxReceiveCount is reached: to the dead letters, and older handles are void
  /\ Spend("dead")
  /\ \E m \in BagToSet(msgs) :
       m.at = "queue" /\ msgs' = (msgs (-) One(m)) (+) One([m EXCEPT !.at = "dead", !.by = {}])
  /\ UNCHANGED <<saga, lane, unmoved, inv, world, late, surplus>>

Lose ==
  /\ Sweeper /\ Spend("lose")
  /\ \E m \in BagToSet(msgs) : msgs' = msgs (-) One(m)
  /\ UNCHANGED <<saga, lane, unmoved, inv, world, late, surplus>>

Sweep ==  \* turn.sweep: `sweep_at` comes round, sooner or later, while a saga is live
  /\ Sweeper /\ Live(saga) /\ saga.due # "long"
  /\ lane.lease = None \/ (lane.over /\ Broken # "LeaseHidesFromSweeper")
  /\ msgs' = Put(msgs, "current")
  /\ IF msgs = EmptyBag THEN UNCHANGED left ELSE Spend("sweep")
  /\ UNCHANGED <<saga, lane, unmoved, inv, world, late, surplus>>

-------------------------------------------------------------------------------
Zero == [n \in 1..Steps |-> 0]

Init ==  \* turn.start: stored, then announced; the announcement may be lost, or stored twice
  /\ saga = [st |-> "RUNNING", phase |-> "F", idx |-> 1, code |-> [n \in 1..Steps |-> "-"],
             tries |-> 0, clean |-> 0, due |-> "now", cancel |-> FALSE, stalls |-> 0]
  /\ lane = [lease |-> None, over |-> FALSE, last |-> None, nudge |-> None, recent |-> FALSE]
  /\ inv = [i \in Inv |-> Idle] /\ unmoved = {}
  /\ world = [act |-> Zero, comp |-> Zero, tomb |-> [n \in 1..Steps |-> FALSE]] /\ late = {}
  /\ surplus = 0
  /\ \E n \in 0..2 :
       /\ n = 0 => Sweeper /\ Faults > 0
       /\ n = 2 => "copy" \in Kinds /\ Faults > 0
       /\ msgs = IF n = 0 THEN EmptyBag ELSE Message("current") :> n
       /\ left = [faults |-> IF n = 1 THEN Faults ELSE Faults - 1,
                  refusals |-> Refusals, requests |-> Requests]

Step(i) == \/ Claim(i) \/ Call(i) \/ Commit(i) \/ Send(i) \/ Ack(i)
           \/ Redispatch(i) \/ Find(i) \/ SendFirst(i)

Next == \/ \E i \in Inv : Deliver(i) \/ Step(i) \/ Crash(i)
        \/ Cancel \/ Resume \/ Repeat
        \/ LeaseRunsOut \/ GuardReopens \/ DueComes \/ LateLands
        \/ Redrive \/ Lose \/ Sweep

Spec == Init /\ [][Next]_vars

Delivered(at, epoch) ==
  LET m == [at |-> at, epoch |-> epoch, by |-> {}]
  IN  m \in BagToSet(msgs) /\ \E i \in Inv : Receive(i, m)
FairSpec == /\ Spec
            /\ \A i \in Inv : WF_vars(Step(i))
            /\ \A at \in {"queue", "dead"}, epoch \in {"current", "older"} :
                 SF_vars(Delivered(at, epoch))
            /\ WF_vars(LeaseRunsOut /\ UNCHANGED left) /\ WF_vars(GuardReopens)
            /\ WF_vars(DueComes) /\ WF_vars(Sweep /\ UNCHANGED left)

-------------------------------------------------------------------------------
(* What must hold. Most of it judges the world, not the orchestrator's report. *)

OneEffect ==  \* S1
  \A n \in 1..Steps : world.act[n] <= 1 /\ world.comp[n] <= world.act[n]

CompletedInFull ==  \* S2
  saga.st = "COMPLETED" => \A n \in 1..Steps : world.act[n] = 1 /\ world.comp[n] = 0

UndoneInFull ==  \* S3, S15: nor does anything land later
  saga.st = "COMPENSATED" => \A n \in 1..Steps : world.act[n] = world.comp[n]

InOrder ==  \* S8: forward one after the other, back newest first
  /\ \A n \in 2..Steps : world.act[n] > 0 => world.act[n - 1] > 0
  /\ \A n \in 1..Steps : world.comp[n] > 0 =>
       \A k \in n + 1..Steps : world.act[k] = world.comp[k]

CancelHolds ==  \* S9, first half
  saga.cancel => saga.st # "COMPLETED"

NoCallOnceTurned ==  \* S9, second half: what is claimed later does not go forward
  \A i \in Inv : inv[i].pc = "Call" /\ inv[i].before.phase = "F" =>
    inv[i].before.st = "RUNNING" /\ ~inv[i].before.cancel

Token ==  \* L2: while it is live and the sweeper is off, something will come back
  Live(saga) /\ ~Sweeper =>
    \/ \E m \in BagToSet(msgs) : m.epoch = "current"
    \/ lane.lease = None /\ msgs # EmptyBag

OneSurplusAMinute ==  \* S11
  surplus <= 1

FewMessages ==  \* S11: without faults and requests there is one
  LET going == {m \in BagToSet(msgs) : \E i \in m.by : inv[i].pc = "Ack"}
  IN  BagCardinality(msgs) - Cardinality(going)
        <= 1 + (Faults - left.faults) + (Requests - left.requests)

StandingIsNamed ==  \* S3: a saga that stopped says of every effect that it stands, or may
  saga.st = "FAILED" => \A n \in 1..Steps : world.act[n] > world.comp[n] =>
    \/ saga.code[n] \in {"OK", "U", "CF"}
    \/ saga.phase = "F" /\ saga.idx = n /\ saga.tries > saga.clean

ClosedIsFinal ==  \* S4
  [][Closed(saga) => saga' = saga]_vars

OneWay ==  \* S3: it turns round at most once
  [][saga.phase = "C" => saga'.phase = "C"]_vars

HolderCommits ==  \* S6, S7
  [][\A i \in Inv : lane'.last = i /\ lane.last # i => lane.lease = i /\ i \in unmoved]_vars

Ends ==  \* L1: it ends, or stops for a person, once faults and requests do
  <>[](~Live(saga))

Symmetry == Permutations(Inv)
===============================================================================
