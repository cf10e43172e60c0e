"""What the sagas of `make e2e` change and are judged by: services behind one SQLite file.

The workers reach it from their own processes and the scenarios from theirs, so the judge need not
believe what the orchestrator reports. The services are well-behaved: one effect for each key, a
tombstone for each undo, and a refusal of what comes after its own undo.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PLACE = "SAGA_E2E_WORLD"  # the environment variable that names the file
FOR_EVER = -1
STEPS = ["reserve", "charge", "ship"]  # of a parcel

_TOKEN = "token "  # the outcome of a call that asked begins so

_TABLES = """
CREATE TABLE IF NOT EXISTS effects (
  key TEXT PRIMARY KEY, customer TEXT, operation TEXT, happened INTEGER, undone INTEGER);
CREATE TABLE IF NOT EXISTS calls (
  at REAL, pid INTEGER, customer TEXT, operation TEXT, key TEXT, attempt INTEGER, outcome TEXT);
CREATE TABLE IF NOT EXISTS switches (
  customer TEXT, operation TEXT, mode TEXT, times INTEGER, seconds REAL,
  PRIMARY KEY (customer, operation, mode));
CREATE INDEX IF NOT EXISTS calls_of ON calls (customer);
CREATE INDEX IF NOT EXISTS effects_of ON effects (customer);
"""


class DeclinedError(Exception):
    """The service says no, and will say so again: nothing happened."""


class BusyError(Exception):
    """The service says: later. Nothing happened."""


@dataclass(frozen=True)
class Call:
    """One call that reached a service."""

    at: float
    pid: int
    customer: str
    operation: str
    key: str
    attempt: int
    outcome: str


class World:
    """The services. A customer is one saga's mark in the world, chosen by who starts it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def here(cls) -> World:
        """The world that this process was started in."""
        return cls(Path(os.environ[PLACE]))

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.path, timeout=30, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous=OFF")  # it must survive processes, not the machine
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")
        finally:
            db.close()  # what is not committed is rolled back

    def make(self) -> None:
        """Nothing happened yet."""
        db = sqlite3.connect(self.path)
        db.execute("PRAGMA journal_mode=WAL")
        db.executescript(_TABLES)
        db.close()

    # -- for the sagas

    def happen(self, operation: str, customer: str, key: str, attempt: int) -> str:
        """Let an effect happen, once for each key, and answer with its reference."""
        if self._takes(operation, customer, "decline"):
            self._note(operation, customer, key, attempt, "declined")
            raise DeclinedError(f"{operation} declined")
        if self._takes(operation, customer, "busy"):
            self._note(operation, customer, key, attempt, "busy")
            raise BusyError(f"{operation} is busy")
        with self._open() as db:
            found = db.execute("SELECT undone FROM effects WHERE key = ?", (key,)).fetchone()
            if found is None:
                effect = (key, customer, operation, 1, 0)
                db.execute("INSERT INTO effects VALUES (?, ?, ?, ?, ?)", effect)
        late = found is not None and found[0]
        outcome = "refused: undone before" if late else "done" if found is None else "repeated"
        self._note(operation, customer, key, attempt, outcome)
        if late:
            raise DeclinedError(f"{operation} was undone before it arrived")
        self._lose_the_answer(operation, customer, key, attempt)
        return f"{operation}-{key[-12:]}"

    def ask(self, customer: str, key: str, attempt: int, token: str) -> None:
        """Lay a question on somebody's desk, who needs the token to answer it."""
        self.happen("ask", customer, key, attempt)
        self._note("ask", customer, key, attempt, _TOKEN + token)

    def undo(self, operation: str, customer: str, key: str, attempt: int) -> None:
        """Undo the effect of a forward call's key; leave a tombstone also if there was none."""
        undo = f"undo {operation}"
        if self._takes(operation, customer, "broken"):
            self._note(undo, customer, key, attempt, "broken")
            raise BusyError(f"{operation} is broken")
        with self._open() as db:
            found = db.execute("SELECT undone FROM effects WHERE key = ?", (key,)).fetchone()
            tombstone = (key, customer, operation, 0, 1)
            db.execute(
                "INSERT INTO effects VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (key) DO UPDATE SET undone = 1",
                tombstone,
            )
        outcome = "nothing to undo" if found is None else "repeated" if found[0] else "done"
        self._note(undo, customer, key, attempt, outcome)

    def _lose_the_answer(self, operation: str, customer: str, key: str, attempt: int) -> None:
        seconds = self._takes(operation, customer, "hang")
        if seconds:
            self._note(operation, customer, key, attempt, "answers late")
            time.sleep(seconds)
        if self._takes(operation, customer, "lose"):
            self._note(operation, customer, key, attempt, "answer lost")
            raise TimeoutError(f"no answer of {operation}")

    def _takes(self, operation: str, customer: str, mode: str) -> float:
        """What a switch says about this call: its seconds, or 0 if it is off; then it is used."""
        place = (customer, operation, mode)
        where = "customer = ? AND operation = ? AND mode = ?"
        with self._open() as db:
            found = db.execute(
                f"SELECT times, seconds FROM switches WHERE {where}", place
            ).fetchone()
            if found is None or found[0] == 0:
                return 0.0
            db.execute(f"UPDATE switches SET times = times - 1 WHERE times > 0 AND {where}", place)
        return float(found[1])

    def _note(self, operation: str, customer: str, key: str, attempt: int, outcome: str) -> None:
        call = (time.time(), os.getpid(), customer, operation, key, attempt, outcome)
        with self._open() as db:
            db.execute("INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?)", call)

    # -- for the scenarios

    def set(
        self, customer: str, operation: str, mode: str, *, times: int = 1, seconds: float = 1
    ) -> None:
        """Have the next calls of this operation for this customer go wrong in this mode.

        decline, busy: nothing happens. lose: it happens, and the answer is lost. hang: it happens,
        and the answer takes so many seconds. broken: an undo that does nothing and says so.
        """
        with self._open() as db:
            switch = (customer, operation, mode, times, seconds)
            db.execute("INSERT OR REPLACE INTO switches VALUES (?, ?, ?, ?, ?)", switch)

    def repair(self, customer: str) -> None:
        """Nothing goes wrong for this customer any more."""
        with self._open() as db:
            db.execute("DELETE FROM switches WHERE customer = ?", (customer,))

    def token(self, customer: str) -> str | None:
        """What whoever was asked about this customer answers with."""
        asked = [c.outcome for c in self.calls(customer) if c.outcome.startswith(_TOKEN)]
        return asked[0].removeprefix(_TOKEN) if asked else None

    def standing(self, customer: str) -> list[str]:
        """The operations whose effect stands."""
        return [name for name, happened, undone in self._effects(customer) if happened > undone]

    def undone(self, customer: str) -> list[str]:
        """The operations whose effect happened and was undone."""
        return [name for name, happened, undone in self._effects(customer) if happened and undone]

    def tally(self, prefix: str) -> list[tuple[int, int]]:
        """For each customer of this prefix, how many effects stand and how many are undone."""
        query = (
            "SELECT SUM(happened > undone), SUM(undone) FROM effects "
            "WHERE customer LIKE ? || '%' GROUP BY customer"
        )
        with self._open() as db:
            return list(db.execute(query, (prefix,)))

    def _effects(self, customer: str) -> list[tuple[str, int, int]]:
        query = "SELECT operation, happened, undone FROM effects WHERE customer = ? ORDER BY rowid"
        with self._open() as db:
            return list(db.execute(query, (customer,)))

    def pids(self, since: float) -> list[int]:
        """The processes that called a service after this time, the latest first."""
        query = "SELECT pid FROM calls WHERE at > ? GROUP BY pid ORDER BY MAX(at) DESC"
        with self._open() as db:
            return [pid for (pid,) in db.execute(query, (since,))]

    def calls(self, customer: str) -> list[Call]:
        """Every call for this customer, in order."""
        with self._open() as db:
            rows = db.execute("SELECT * FROM calls WHERE customer = ? ORDER BY rowid", (customer,))
            return [Call(*row) for row in rows]
