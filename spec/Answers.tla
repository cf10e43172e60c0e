--------------------------------- MODULE Answers --------------------------------
(*******************************************************************************)
(* One saga with a step that waits for an answer from outside.                 *)
(*                                                                             *)
(* Written as Saga.tla is, and read after it: invocations, effects, capitals,  *)
(* epochs, versions, time and faults are the same. What Saga.tla has shown of  *)
(* every step is taken for granted here: late calls, keys, dead letters, undos *)
(* that fail, pauses before a retry. What is new is that somebody outside      *)
(* settles a step, at any moment, also before it waits and after it was given  *)
(* up. docs/model.md says what is left out.                                    *)
(*******************************************************************************)
EXTENDS Naturals, FiniteSets, Bags, TLC

CONSTANTS
  Steps,       \* how many steps the saga has
  Asks,        \* which of them waits for an answer
  Inv,         \* invocations that may run at one time
  Faults,      \* how many faults one history may have,
  Kinds,       \* and of which kinds (see Spend)
  Refusals,    \* how many calls a service may refuse: known failed
  Requests,    \* how many times a person cancels or resumes
  Answers,     \* how many answers and heartbeats come in, repeats among them
  Deadline,    \* TRUE: the deadline may be over when a claim is granted
  Broken       \* the one rule that is broken, by name; "nothing" is ours

VARIABLES
  saga,     \* what transition.py decides on, of SagaInstance, Lane, StepRecord
  lane,     \* who may move it: the lease, the last commit
  unmoved,  \* the invocations for which UNMOVED holds
  msgs,     \* the messages that are not deleted: a bag
  inv,      \* the invocations
  world,    \* what the services did of each step, and the one who is asked
  told,     \* of which answers it was said that they are accepted (see Hears)
  left      \* what is left of the budgets

vars == <<saga, lane, unmoved, msgs, inv, world, told, left>>

None == "none"
Gone == "gone"  \* an invocation that is over
Max(S) == CHOOSE n \in S : \A k \in S : k <= n
Live(s) == s.st \in {"RUNNING", "COMPENSATING"}
Closed(s) == s.st \in {"COMPLETED", "COMPENSATED"}

(* The kinds of faults are those of Saga.tla, but for two:                     *)
(*   doubt   the reply of a call is lost, whether it took effect or not        *)
(*   park    the saga stops for a person: its deliveries ran out               *)
Spend(kind) == /\ kind \in Kinds /\ left.faults > 0
               /\ left' = [left EXCEPT !.faults = @ - 1]

-------------------------------------------------------------------------------
(* Messages.                                                                   *)

Message(epoch) == [at |-> "queue", epoch |-> epoch, by |-> {}]
One(m) == SetToBag({m})
Put(ms, epoch) == ms (+) One(Message(epoch))
Sent(epoch) == \/ msgs' = Put(msgs, epoch) /\ UNCHANGED left
               \/ msgs' = Put(Put(msgs, epoch), epoch) /\ Spend("copy")

Has(i) == {m \in BagToSet(msgs) : i \in m.by}
Deleted(i) == msgs (-) SetToBag(Has(i))
Released(i) == Deleted(i) (+) SetToBag({[m EXCEPT !.by = @ \ {i}] : m \in Has(i)})

Older(epoch) == IF epoch = "no" THEN "no" ELSE "older"
Aged(ms) == BagOfAll(LAMBDA m : [m EXCEPT !.epoch = "older"], ms)
Outdated(f) == [i \in Inv |-> [f[i] EXCEPT !.epoch = Older(@), !.says = Older(@)]]

-------------------------------------------------------------------------------
(* transition.py. `unsure` counts the attempts that may have happened, the one *)
(* in hand aside (tries - clean): lost, in doubt, or out with the one who is   *)
(* asked. `failed`: one is known to have failed. `lost`: one never reported.   *)

More(n) == IF n = 2 THEN 2 ELSE n + 1
NoAnswer == [is |-> None, pending |-> FALSE, late |-> FALSE]

Fresh(s, n) == [s EXCEPT !.idx = n, !.unsure = 0, !.failed = FALSE, !.lost = FALSE, !.due = "now"]
Code(s, c) == [s EXCEPT !.code[s.idx] = c]
AtIt(s) == s.idx = Asks /\ s.phase = "F"
Pending(s) == AtIt(s) /\ s.answer.pending  \* _pending

GoForward(s) ==  \* _enter
  IF s.idx = Steps THEN [Fresh(s, s.idx) EXCEPT !.st = "COMPLETED"]
                   ELSE Fresh(s, s.idx + 1)

GoBack(s) ==  \* _turn_round, _go_back
  LET open == {n \in 1..Steps : s.code[n] \in {"OK", "U"}}
      t == [s EXCEPT !.phase = "C"]
  IN  IF open = {} THEN [Fresh(t, s.idx) EXCEPT !.st = "COMPENSATED"]
                   ELSE [Fresh(t, Max(open)) EXCEPT !.st = "COMPENSATING"]

LeftOpen(s) ==  \* _left_open
  IF s.unsure > 0 THEN Code(s, "U") ELSE IF s.failed THEN Code(s, "NO") ELSE s

Again(s, t) == IF s.cancel THEN {} ELSE {[t EXCEPT !.due = "now"]}  \* _retry_later
Ended(s) == {GoBack(Code(s, IF s.unsure > 0 THEN "U" ELSE "NO"))}

(* _answered. Whom a failure speaks of is certain of the first attempt only:   *)
(* later it may be a repeat of what was said of the one before.                *)
Answered(s) ==
  LET sure == ~s.failed \/ Broken = "RepeatIsCertain"
      used == [s EXCEPT !.answer.pending = FALSE]
      no == IF sure THEN [used EXCEPT !.unsure = @ - 1, !.failed = TRUE] ELSE used
      ok == [Code(used, "OK") EXCEPT !.fields = "ok"]
  IN  IF s.answer.is = "ok" THEN {IF s.cancel THEN GoBack(ok) ELSE GoForward(ok)}
      ELSE Ended(no) \cup Again(s, [Code(no, "-") EXCEPT !.answer = NoAnswer])

(* _settle, with _step_awaits, _unanswered, _withheld. An answer that is there *)
(* comes first, whatever the attempt came to.                                  *)
Settled(s, event) ==
  LET forward == s.phase = "F"
      tried == [s EXCEPT !.unsure = More(@)]
      clean == [s EXCEPT !.failed = TRUE]
      called == event \in {"waits", "failed", "in doubt"}
      heeded == Pending(s) /\ ~(Broken = "LostBeforeAnswer" /\ event = "lost")
  IN CASE ~forward -> {IF event = "done" THEN GoBack(Code(s, "C")) ELSE s}
       [] heeded -> Answered(IF called THEN tried ELSE s)
       [] event = "done" ->
            {IF s.cancel THEN GoBack(Code(s, "OK")) ELSE GoForward(Code(s, "OK"))}
       [] event = "failed" -> Ended(clean) \cup Again(s, Code(clean, "-"))
       [] event = "in doubt" -> Ended(tried) \cup Again(s, Code(tried, "-"))
       [] event = "waits" ->
            IF s.cancel THEN Ended(tried) ELSE {[Code(tried, "W") EXCEPT !.due = "wait"]}
       [] event = "unanswered" ->
            LET t == IF Broken = "SilenceIsNo" THEN [clean EXCEPT !.unsure = @ - 1] ELSE s
            IN  Ended(t) \cup Again(s, Code(t, "-"))
       [] event \in {"cancelled", "deadline"} -> {GoBack(LeftOpen(s))}
       [] event = "lost" -> {GoBack(Code(s, "U"))}

(* _withhold, in its order.                                                    *)
Withhold(s) ==
  IF s.phase = "C" THEN {"no"}
  ELSE IF Pending(s) /\ Broken # "AnswerIgnoredAtClaim" THEN {"answered"}
  ELSE IF s.cancel THEN {"cancelled"}
  ELSE (IF s.lost THEN {"lost"} ELSE {}) \cup (IF Deadline THEN {"deadline"} ELSE {})
       \cup {IF s.code[s.idx] = "W" THEN "unanswered" ELSE "no"}

-------------------------------------------------------------------------------
(* The life of an invocation, as in Saga.tla. `job` is the step and the way of *)
(* its attempt.                                                                *)

Idle == [pc |-> "idle", epoch |-> "older", says |-> "no", job |-> None, event |-> None,
         before |-> None]
Saying(pc, epoch) == [Idle EXCEPT !.pc = pc, !.says = epoch]
ToAck(i) == inv' = [inv EXCEPT ![i] = Saying("Ack", "no")]

Over(i) ==
  /\ inv' = [inv EXCEPT ![i] = Idle]
  /\ lane' = [lane EXCEPT !.lease = IF @ = i THEN Gone ELSE @,
                          !.last = IF @ = i THEN None ELSE @,
                          !.nudge = IF @ = i THEN None ELSE @]
  /\ unmoved' = unmoved \ {i}
Keep(i) == Over(i) /\ msgs' = Released(i)
Done(i) == ToAck(i) /\ UNCHANGED <<lane, unmoved, msgs>>

Receive(i, m) ==
  /\ inv[i].pc = "idle"
  /\ inv' = [inv EXCEPT ![i] = [Idle EXCEPT !.pc = "Claim", !.epoch = m.epoch]]
  /\ msgs' = (msgs (-) One(m)) (+) One([m EXCEPT !.by = @ \cup {i}])
  /\ IF m.by = {} THEN UNCHANGED left ELSE Spend("repeat")
  /\ UNCHANGED <<saga, lane, unmoved, world, told>>
Deliver(i) == \E m \in BagToSet(msgs) : Receive(i, m)

Send(i) ==
  /\ inv[i].pc = "Send"
  /\ Sent(inv[i].says) /\ ToAck(i)
  /\ UNCHANGED <<saga, lane, unmoved, world, told>>

Ack(i) ==
  /\ inv[i].pc = "Ack" /\ Over(i) /\ msgs' = Deleted(i)
  /\ UNCHANGED <<saga, world, told, left>>

Crash(i) ==
  /\ \/ inv[i].pc \in {"Call", "Commit", "Send", "Ack"}
     \/ inv[i].pc = "Claim" /\ lane.lease = i
     \/ inv[i].pc = "Redispatch" /\ lane.nudge = i
  /\ Spend("crash") /\ Keep(i)
  /\ UNCHANGED <<saga, world, told>>

-------------------------------------------------------------------------------
(* turn.work: claim, call, commit, announce.                                   *)

Attempt(i, s) ==
  \E why \in Withhold(s) :
    inv' = [inv EXCEPT ![i].job = <<s.idx, s.phase>>,
                       ![i].pc = IF why = "no" THEN "Call" ELSE "Commit",
                       ![i].event = IF why = "no" THEN None ELSE why,
                       ![i].before = IF Broken = "TimeoutWithoutVer" THEN <<s>> ELSE <<>>]

Refused(i) ==  \* _refused
  IF ~Live(saga) THEN Done(i)                                  \* CLOSED, PARKED
  ELSE IF inv[i].epoch # "current" THEN
    IF lane.lease # None THEN Done(i)                          \* STALE_CLAIMED
    ELSE /\ inv' = [inv EXCEPT ![i] = Saying("Redispatch", "current")]
         /\ UNCHANGED <<lane, unmoved, msgs>>                  \* STALE_UNCLAIMED
  ELSE Keep(i)                                                 \* LEASED; and early: the wait lasts

Claim(i) ==
  /\ inv[i].pc = "Claim"
  /\ IF /\ inv[i].epoch = "current"                \* CURRENT_ITEM
        /\ Live(saga)                              \* LIVE
        /\ saga.due = "now"                        \* DUE
        /\ lane.lease = None \/ lane.over          \* UNCLAIMED_OR_ABANDONED
     THEN /\ saga' = IF lane.lease = None THEN saga
                     ELSE [saga EXCEPT !.unsure = More(@), !.lost = TRUE]
          /\ lane' = [lane EXCEPT !.lease = i, !.over = FALSE]
          /\ unmoved' = {i} /\ UNCHANGED msgs
          /\ \/ Attempt(i, saga') /\ UNCHANGED left
             \/ Spend("answer") /\ UNCHANGED inv
     ELSE /\ UNCHANGED <<saga, left>>
          /\ IF lane.lease = i                     \* OWN_CLAIM
             THEN Attempt(i, saga) /\ unmoved' = unmoved \cup {i} /\ UNCHANGED <<lane, msgs>>
             ELSE Refused(i)
  /\ UNCHANGED <<world, told>>

(* A service; and the one who is asked, who withdraws the question when it is  *)
(* undone, and is asked anew by an attempt after a refusal.                    *)
Landed(w, n, way) ==
  [w EXCEPT ![n] = IF way = "C" THEN "undone"
                   ELSE IF n # Asks THEN (IF @ = "-" THEN "done" ELSE @)
                   ELSE IF @ \in {"-", "void"} THEN "open" ELSE @]

Call(i) ==
  LET n == inv[i].job[1]
      way == inv[i].job[2]
      became(event) == inv' = [inv EXCEPT ![i].pc = "Commit", ![i].event = event]
  IN /\ inv[i].pc = "Call"
     /\ \/ /\ world' = Landed(world, n, way) /\ UNCHANGED left
           /\ became(IF way = "F" /\ world[n] = "undone" THEN "failed"
                     ELSE IF way = "F" /\ n = Asks THEN "waits" ELSE "done")
        \/ /\ world' \in {world, Landed(world, n, way)} /\ became("in doubt") /\ Spend("doubt")
        \/ /\ left.refusals > 0 /\ left' = [left EXCEPT !.refusals = @ - 1]
           /\ way = "F" /\ became("failed") /\ UNCHANGED world
     /\ UNCHANGED <<saga, lane, unmoved, msgs, told>>

(* `told.now` are the answers to the question at hand that were accepted. It   *)
(* is over with a refusal after which another attempt asks anew.               *)
Forgets(s, t) == s.answer.is # None /\ t.answer.is = None
Hears(s, t) == told' = IF Forgets(s, t) THEN [now |-> {}, before |-> TRUE] ELSE told

Announcing(s) == Live(s) /\ ~(Broken = "WaitUnannounced" /\ s.due = "wait")

Commit(i) ==
  LET mine == lane.lease = i                                       \* HELD_BY_ME
      may == mine /\ (i \in unmoved \/ Broken = "TimeoutWithoutVer")  \* UNMOVED
      before == IF Broken = "TimeoutWithoutVer" THEN inv[i].before[1] ELSE saga
  IN
  /\ inv[i].pc = "Commit"
  /\ IF may THEN                                                   \* _committed
       \E s \in Settled(before, inv[i].event) :
         /\ saga' = IF s.answer = before.answer THEN [s EXCEPT !.answer = saga.answer,
                                                               !.cancel = saga.cancel] ELSE s
         /\ lane' = [lease |-> None, over |-> FALSE, last |-> i, nudge |-> None, recent |-> FALSE]
         /\ unmoved' = {} /\ Hears(before, s)
         /\ msgs' = Aged(msgs)
         /\ \/ /\ inv' = [Outdated(inv) EXCEPT ![i] =
                    IF Announcing(s) THEN Saying("Send", "current") ELSE Saying("Ack", "no")]
               /\ UNCHANGED left
            \/ inv' = Outdated(inv) /\ Spend("answer")
     ELSE /\ UNCHANGED <<saga, left, told>>
          /\ IF lane.last = i THEN                                 \* settled_by
               /\ inv' = [inv EXCEPT ![i] =
                    IF Announcing(saga) THEN Saying("Send", "current") ELSE Saying("Ack", "no")]
               /\ UNCHANGED <<lane, unmoved, msgs>>
             ELSE IF mine THEN  \* only the version moved: decide again from what is true now
               /\ UNCHANGED <<inv, lane, msgs>> /\ unmoved' = unmoved \cup {i}
             ELSE IF ~Live(saga) \/ (inv[i].epoch # "current" /\ lane.lease # None)  \* _fenced
             THEN Done(i) ELSE Keep(i)
  /\ UNCHANGED world

Redispatch(i) ==  \* _redispatch
  /\ inv[i].pc = "Redispatch"
  /\ IF /\ inv[i].says = "current" /\ Live(saga)        \* CURRENT_ITEM, LIVE
        /\ lane.lease = None /\ ~lane.recent            \* UNCLAIMED, NO_RECENT_NUDGE
     THEN /\ lane' = [lane EXCEPT !.nudge = i, !.recent = TRUE]
          /\ \/ inv' = [inv EXCEPT ![i].pc = "Send"] /\ UNCHANGED left
             \/ UNCHANGED inv /\ Spend("answer")
          /\ UNCHANGED <<unmoved, msgs>>
     ELSE /\ IF lane.nudge = i
             THEN inv' = [inv EXCEPT ![i].pc = "Send"] /\ UNCHANGED <<lane, unmoved, msgs>>
             ELSE Keep(i)
          /\ UNCHANGED left
  /\ UNCHANGED <<saga, world, told>>

-------------------------------------------------------------------------------
(* turn.answer. Reading and writing are one action: the write is refused if    *)
(* the version moved in between. The announcement may be lost.                 *)

Came == left.answers > 0
Spent(lost) == left' = [left EXCEPT !.answers = @ - 1, !.faults = IF lost THEN @ - 1 ELSE @]
MayLose == left.faults > 0 /\ "crash" \in Kinds

(* What becomes of an answer, in the order of the checks of _answer. `speaks`: *)
(* it is about the question at hand.                                           *)
Taken(v, speaks) ==
  LET here == AtIt(saga)
      asked == here /\ (saga.unsure > 0 \/ lane.lease # None)
      gone == ~here /\ saga.code[Asks] \in {"U", "C"}  \* given up, and in doubt
      given == [is |-> v, pending |-> TRUE, late |-> FALSE]
      kept == [saga EXCEPT !.answer = given]
      known == saga.answer.is # None /\ ~(Broken = "SecondTaken" /\ asked)
      still == UNCHANGED <<saga, lane, unmoved, msgs, inv>> /\ Spent(FALSE)
      accepted == told' = [told EXCEPT !.now = @ \cup {v}]
      refused == UNCHANGED <<told, world>>
      resolved == world' = [world EXCEPT ![Asks] =
        IF ~speaks \/ @ \notin {"open", "void"} THEN @ ELSE IF v = "ok" THEN "done" ELSE "void"]
  IN IF known THEN still /\ UNCHANGED world /\
       IF v = saga.answer.is /\ ~saga.answer.late THEN accepted  \* REPEATED
                                                  ELSE UNCHANGED told  \* LATE, ANSWERED
     ELSE IF Closed(saga) THEN still /\ refused               \* CLOSED
     ELSE IF ~asked /\ ~gone THEN still /\ refused            \* NOT_ASKED
     ELSE IF ~asked THEN                                      \* LATE: recorded, and refused
       /\ unmoved' = {} /\ UNCHANGED <<lane, msgs, inv, world>> /\ Spent(FALSE)
       /\ saga' = [saga EXCEPT !.answer = [given EXCEPT !.pending = FALSE, !.late = TRUE],
                               !.code[Asks] = IF Broken = "LateCompletes" THEN "OK" ELSE @]
       /\ IF Broken = "LateAccepted" THEN accepted ELSE UNCHANGED told
     ELSE IF Live(saga) /\ lane.lease = None THEN             \* it settles the step itself
       \E s \in Answered(kept), lost \in {FALSE, TRUE} :
         /\ saga' = s /\ unmoved' = {} /\ inv' = Outdated(inv)
         /\ lane' = [lane EXCEPT !.nudge = None, !.recent = FALSE]
         /\ IF Forgets(kept, s) THEN Hears(kept, s) ELSE accepted
         /\ resolved
         /\ lost => MayLose
         /\ Spent(lost)
         /\ msgs' = IF Live(s) /\ ~lost THEN Put(Aged(msgs), "current") ELSE Aged(msgs)
     ELSE                                              \* kept until a claim or a commit finds it
       /\ saga' = IF Broken = "EarlyAnswerDropped" /\ lane.lease # None THEN saga ELSE kept
       /\ unmoved' = {} /\ UNCHANGED <<lane, msgs, inv>>
       /\ accepted /\ resolved /\ Spent(FALSE)

Answer ==  \* by any who has the token: there may be several, who do not agree
  Came /\ world[Asks] # "-" /\ \E v \in {"ok", "no"} : Taken(v, TRUE)

Repeat ==  \* a refusal that was accepted comes a second time: queues deliver twice
  Came /\ told.before /\ Taken("no", FALSE)

Heartbeat ==  \* _heartbeat
  /\ Came /\ world[Asks] # "-"
  /\ AtIt(saga) /\ Live(saga) /\ saga.code[Asks] = "W"
  /\ lane.lease = None \/ Broken = "HeartbeatUnderLease"
  /\ saga' = [saga EXCEPT !.due = "wait"] /\ unmoved' = {}
  /\ Spent(FALSE) /\ UNCHANGED <<lane, msgs, inv, world, told>>

-------------------------------------------------------------------------------
(* turn.request.                                                               *)

Asked(lost) ==
  /\ left.requests > 0
  /\ lost => MayLose
  /\ left' = [left EXCEPT !.requests = @ - 1, !.faults = IF lost THEN @ - 1 ELSE @]

Unparked(s) ==  \* _unparked
  /\ saga' = [s EXCEPT !.due = "now"]
  /\ lane' = [lane EXCEPT !.nudge = None, !.recent = FALSE]
  /\ unmoved' = {} /\ inv' = Outdated(inv)
  /\ msgs' = IF Live(s) THEN Put(Aged(msgs), "current") ELSE Aged(msgs)
  /\ Asked(FALSE) /\ UNCHANGED <<world, told>>

Cancel ==  \* _cancel
  /\ saga.phase = "F" /\ ~Closed(saga)
  /\ IF Live(saga) THEN
       /\ ~saga.cancel
       /\ saga' = [saga EXCEPT !.cancel = TRUE, !.due = "now"]
       /\ unmoved' = {}
       /\ IF lane.lease = None \/ lane.over
          THEN \/ msgs' = Put(msgs, "current") /\ Asked(FALSE)
               \/ UNCHANGED msgs /\ Asked(TRUE)
          ELSE UNCHANGED msgs /\ Asked(FALSE)
       /\ UNCHANGED <<lane, inv, world, told>>
     ELSE Unparked(GoBack(LeftOpen([saga EXCEPT !.cancel = TRUE])))

Resume ==  \* _resume
  /\ saga.st = "FAILED"
  /\ IF saga.phase = "F" THEN Unparked([saga EXCEPT !.st = "RUNNING", !.lost = FALSE])
                         ELSE Unparked(GoBack(saga))

-------------------------------------------------------------------------------
(* Time and the queue.                                                         *)

LeaseRunsOut ==
  /\ lane.lease # None /\ ~lane.over
  /\ lane' = [lane EXCEPT !.over = TRUE]
  /\ IF lane.lease = Gone THEN UNCHANGED left ELSE Spend("expire")
  /\ UNCHANGED <<saga, unmoved, msgs, inv, world, told>>

GuardReopens ==
  /\ lane.recent /\ lane' = [lane EXCEPT !.recent = FALSE]
  /\ UNCHANGED <<saga, unmoved, msgs, inv, world, told, left>>

WaitEnds ==
  /\ saga.due = "wait" /\ Live(saga)
  /\ saga' = [saga EXCEPT !.due = "now"]
  /\ UNCHANGED <<lane, unmoved, msgs, inv, world, told, left>>

Park ==  \* turn.revive for the last time: _park
  /\ Spend("park") /\ Live(saga) /\ saga.due = "now" /\ (lane.lease = None \/ lane.over)
  /\ saga' = [saga EXCEPT !.st = "FAILED", !.unsure = IF lane.lease = None THEN @ ELSE More(@)]
  /\ lane' = [lane EXCEPT !.lease = None, !.over = FALSE, !.nudge = None, !.recent = FALSE]
  /\ unmoved' = {} /\ UNCHANGED <<msgs, inv, world, told>>

-------------------------------------------------------------------------------
Init ==
  /\ saga = [st |-> "RUNNING", phase |-> "F", idx |-> 1, code |-> [n \in 1..Steps |-> "-"],
             unsure |-> 0, failed |-> FALSE, lost |-> FALSE, due |-> "now", cancel |-> FALSE,
             answer |-> NoAnswer, fields |-> None]
  /\ lane = [lease |-> None, over |-> FALSE, last |-> None, nudge |-> None, recent |-> FALSE]
  /\ inv = [i \in Inv |-> Idle] /\ unmoved = {}
  /\ told = [now |-> {}, before |-> FALSE]
  /\ world = [n \in 1..Steps |-> "-"]
  /\ msgs = One(Message("current"))
  /\ left = [faults |-> Faults, refusals |-> Refusals, requests |-> Requests,
             answers |-> Answers]

Step(i) == \/ Claim(i) \/ Call(i) \/ Commit(i) \/ Send(i) \/ Ack(i) \/ Redispatch(i)

Next == \/ \E i \in Inv : Deliver(i) \/ Step(i) \/ Crash(i)
        \/ Answer \/ Repeat \/ Heartbeat
        \/ Cancel \/ Resume
        \/ LeaseRunsOut \/ GuardReopens \/ WaitEnds \/ Park

Spec == Init /\ [][Next]_vars

Delivered(epoch) ==
  LET m == [at |-> "queue", epoch |-> epoch, by |-> {}]
  IN  m \in BagToSet(msgs) /\ \E i \in Inv : Receive(i, m)
FairSpec == /\ Spec
            /\ \A i \in Inv : WF_vars(Step(i))
            /\ \A epoch \in {"current", "older"} : SF_vars(Delivered(epoch))
            /\ WF_vars(LeaseRunsOut /\ UNCHANGED left) /\ WF_vars(GuardReopens)
            /\ WF_vars(WaitEnds)

-------------------------------------------------------------------------------
(* What must hold.                                                             *)

CompletedInFull ==  \* S2
  saga.st = "COMPLETED" => \A n \in 1..Steps : world[n] = "done"

UndoneInFull ==  \* S3, S15: nor is a question left with anybody
  saga.st = "COMPENSATED" => \A n \in 1..Steps : world[n] \notin {"done", "open"}

StandingIsNamed ==  \* S3
  saga.st = "FAILED" => \A n \in 1..Steps : world[n] \in {"done", "open"} =>
    \/ saga.code[n] \in {"OK", "U"}
    \/ saga.phase = "F" /\ saga.idx = n /\ saga.unsure > 0

OneAnswer ==  \* to one question one answer is accepted, however often it comes
  Cardinality(told.now) <= 1

AnswerCounts ==  \* what was accepted is what the step came to, whatever it raced with
  /\ told.now = {"ok"} => /\ saga.code[Asks] # "NO"
                          /\ saga.phase = "C" /\ saga.code[Asks] = "U" => saga.cancel
  /\ told.now = {"no"} => saga.code[Asks] # "OK"

FieldsKept ==  \* and its fields are in the context
  saga.code[Asks] = "OK" => saga.fields = "ok"

LateIsRefused ==  \* nothing is accepted for a step that was given up
  [][\A v \in told'.now \ told.now : AtIt(saga)]_vars

GivenUpStays ==  \* nor does a late answer change what became of it
  [][/\ saga.code[Asks] = "NO" /\ saga.phase = "C" => saga'.code[Asks] = "NO"
     /\ saga.code[Asks] = "U" /\ saga.phase = "C" => saga'.code[Asks] \in {"U", "C"}]_vars

WaitLasts ==  \* a wait that a heartbeat made longer is not over before its time
  \A i \in Inv : inv[i].event = "unanswered" /\ lane.lease = i => saga.due = "now"

NoCallOnceAnswered ==  \* whoever claims after an answer does not ask again
  [][\A i \in Inv : inv'[i].pc = "Call" /\ inv[i].pc # "Call" => ~Pending(saga')]_vars

CancelHolds ==  \* S9, first half
  saga.cancel => saga.st # "COMPLETED"

NoCallOnceTurned ==  \* S9, second half
  [][\A i \in Inv : inv'[i].pc = "Call" /\ inv[i].pc # "Call" /\ inv'[i].job[2] = "F" =>
       saga'.phase = "F" /\ ~saga'.cancel]_vars

Token ==  \* L2: also when the announcement of an answer is lost
  Live(saga) =>
    \/ \E m \in BagToSet(msgs) : m.epoch = "current"
    \/ lane.lease = None /\ msgs # EmptyBag

FewMessages ==  \* S11: one, and one more for each fault, each request, each answer
  LET going == {m \in BagToSet(msgs) : \E i \in m.by : inv[i].pc = "Ack"}
  IN  BagCardinality(msgs) - Cardinality(going)
        <= 1 + (Faults - left.faults) + (Requests - left.requests) + (Answers - left.answers)

ClosedIsFinal ==  \* S4
  [][Closed(saga) => saga' = saga]_vars

OneWay ==  \* S3
  [][saga.phase = "C" => saga'.phase = "C"]_vars

HolderCommits ==  \* S6, S7
  [][\A i \in Inv : lane'.last = i /\ lane.last # i => lane.lease = i /\ i \in unmoved]_vars

Ends ==  \* L1: also when nobody answers, unless a policy without end asks again and again
  LET waits == saga.code[Asks] = "W"
  IN  <>[](~Live(saga)) \/ ([]<>waits /\ []<>(~waits))

Symmetry == Permutations(Inv)
===============================================================================
