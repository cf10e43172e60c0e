"""Hypothesis strategies: an item, and a request whose expressions are about that item.

Drawn at random, an expression hardly ever fits an item: it would test how paths
miss. So paths mostly lead somewhere, and a value is mostly of the type of what it
is compared with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from hypothesis import strategies as st

from tests.simulation.expressions import Path, value_at
from tests.simulation.values import Item, Value

ATTRIBUTES = ("a", "b", "c", "steps", "m")
FIELDS = ("x", "y")

_OF_TYPE: dict[str, st.SearchStrategy[Value]] = {
    "S": st.sampled_from(["", "a", "ab", "b", "é", "\U0001f600"]).map(lambda s: {"S": s}),
    "N": st.sampled_from(["0", "1", "2", "-1", "1.5", "10", "1700000000000"]).map(
        lambda n: {"N": n}
    ),
    "B": st.sampled_from([b"a", b"ab"]).map(lambda b: {"B": b}),
    "BOOL": st.booleans().map(lambda b: {"BOOL": b}),
    "NULL": st.just({"NULL": True}),
}
_NUMBERS = _OF_TYPE["N"]
_FIVE_IN_SIX: st.SearchStrategy[bool] = st.integers(0, 5).map(bool)
_PARTS: st.SearchStrategy[str | int] = st.one_of(st.sampled_from(FIELDS), st.integers(0, 4))
LEAVES: st.SearchStrategy[Value] = st.one_of(_NUMBERS, *_OF_TYPE.values())


def _containers(inside: st.SearchStrategy[Value]) -> st.SearchStrategy[Value]:
    maps = st.dictionaries(st.sampled_from(FIELDS), inside, max_size=2)
    return st.one_of(
        st.lists(inside, max_size=3).map(lambda values: {"L": values}),
        maps.map(lambda values: {"M": values}),
    )


VALUES: st.SearchStrategy[Value] = st.one_of(
    LEAVES, LEAVES, _containers(st.one_of(LEAVES, _containers(LEAVES)))
)

ITEMS: st.SearchStrategy[Item] = st.fixed_dictionaries(
    {},
    optional={
        "a": VALUES,
        "b": _NUMBERS,
        "c": LEAVES,
        "steps": st.lists(_containers(LEAVES), max_size=3).map(lambda values: {"L": values}),
        "m": _containers(VALUES),
    },
)


@dataclass
class Case:
    """An item, None if there is none, and the expressions of a request for it."""

    item: Item | None
    condition: str | None = None
    update: str | None = None
    names: dict[str, str] = field(default_factory=dict)
    values: Item = field(default_factory=dict)

    def literal(self, value: Value) -> str:
        """The placeholder of a value."""
        name = f":v{len(self.values)}"
        self.values[name] = value
        return name

    def parameters(self) -> dict[str, object]:
        """What botocore's methods are called with."""
        given = {
            "ConditionExpression": self.condition,
            "UpdateExpression": self.update,
            "ExpressionAttributeNames": self.names,
            "ExpressionAttributeValues": self.values,
        }
        return {name: value for name, value in given.items() if value}


Accept = Callable[[str, list["Value | None"]], bool]  # an operator and what its operands are


def _paths_in(value: Value, at: Path = ()) -> Iterator[Path]:
    if at:
        yield at
    for name, inside in value.get("M", {}).items():
        yield from _paths_in(inside, (*at, name))
    for n, inside in enumerate(value.get("L", ())):
        yield from _paths_in(inside, (*at, n))


@st.composite
def paths(draw: st.DrawFn, case: Case) -> Path:
    """A path that leads somewhere, or just beside it."""
    there = list(_paths_in({"M": case.item or {}}))
    path: Path = (draw(st.sampled_from(ATTRIBUTES)),)
    if draw(_FIVE_IN_SIX) and there:
        path = draw(st.sampled_from(there))
    if draw(_FIVE_IN_SIX):
        return path
    return (*path, draw(_PARTS))


@st.composite
def _places(draw: st.DrawFn, case: Case) -> Path:
    """A path that can be set: it never leads through a text or a number."""
    path = draw(paths(case))
    *parents, last = path
    parent = _value_there(case, tuple(parents)) if parents else None
    wanted = "L" if isinstance(last, int) else "M"
    return tuple(parents) if parent is not None and wanted not in parent else path


def written(draw: st.DrawFn, case: Case, path: Path) -> str:
    """The path as an expression has it, with some of its names replaced."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        name = part
        if draw(st.booleans()):
            name = f"#{part}"
            case.names[name] = part
        text += f".{name}" if text else name
    return text


def _value_there(case: Case, path: Path) -> Value | None:
    return value_at(case.item, path) if case.item is not None else None


@st.composite
def _literals(draw: st.DrawFn, like: Value | None) -> Value:
    tag = next(iter(like)) if like is not None else "N"
    return draw(_OF_TYPE[tag] if tag in _OF_TYPE and draw(st.integers(0, 4)) else LEAVES)


@st.composite
def tests(draw: st.DrawFn, case: Case, accept: Accept) -> str:
    """One comparison or function that is accepted; else a question for existence."""
    first = draw(paths(case))
    found = _value_there(case, first)
    op = draw(
        st.sampled_from(("=", "<>", "<", "<=", ">", ">=", "BETWEEN", "IN", "begins_with", "exists"))
    )
    count = {"BETWEEN": 2, "IN": draw(st.integers(1, 3)), "exists": 0}.get(op, 1)
    others: list[Path | Value] = [
        draw(_literals(found)) if draw(st.integers(0, 3)) else draw(paths(case))
        for _ in range(count)
    ]
    operands = [found, *(o if isinstance(o, dict) else _value_there(case, o) for o in others)]
    if op == "exists" or first in others or not accept(op, operands):
        function = draw(st.sampled_from(("attribute_exists", "attribute_not_exists")))
        return f"{function}({written(draw, case, first)})"
    left = written(draw, case, first)
    rest = [case.literal(o) if isinstance(o, dict) else written(draw, case, o) for o in others]
    match op:
        case "BETWEEN":
            return f"{left} BETWEEN {rest[0]} AND {rest[1]}"
        case "IN":
            return f"{left} IN ({', '.join(rest)})"
        case "begins_with":
            return f"begins_with({left}, {rest[0]})"
        case _:
            return f"{left} {op} {rest[0]}"


@st.composite
def conditions(draw: st.DrawFn, case: Case, accept: Accept, depth: int = 2) -> str:
    """Tests, joined."""
    kind = draw(st.sampled_from(("test", "AND", "OR", "NOT", "group"))) if depth else "test"
    inner = conditions(case, accept, depth - 1)
    match kind:
        case "test":
            return draw(tests(case, accept))
        case "NOT" if draw(st.booleans()):
            return f"NOT {draw(tests(case, accept))}"
        case "NOT":
            return f"NOT ({draw(inner)})"
        case "group":
            return f"({draw(inner)}) AND {draw(tests(case, accept))}"
        case _:
            return f" {kind} ".join(draw(inner) for _ in range(draw(st.integers(2, 3))))


@st.composite
def _computed(draw: st.DrawFn, case: Case) -> str:
    def operand(values: st.SearchStrategy[Value]) -> str:
        kind = draw(st.sampled_from(("literal", "literal", "path", "if_not_exists")))
        path = draw(_places(case))
        if kind != "literal" and not _is_container(_value_there(case, path)):
            if kind == "path":
                return written(draw, case, path)
            return f"if_not_exists({written(draw, case, path)}, {case.literal(draw(values))})"
        return case.literal(draw(values))

    if draw(st.integers(0, 2)):
        return operand(VALUES)
    return f"{operand(_NUMBERS)} {draw(st.sampled_from('+-'))} {operand(_NUMBERS)}"


def _is_container(value: Value | None) -> bool:
    # moto copies a list or map by reference: `SET b = a, a.x = :v` changes its b, too.
    return value is not None and ("L" in value or "M" in value)


@st.composite
def updates(draw: st.DrawFn, case: Case) -> str:
    """Actions on paths that have nothing to do with one another."""
    targets: list[Path] = []
    for path in draw(st.lists(_places(case), min_size=1, max_size=4)):
        if not any(_meet(path, other) for other in targets):
            targets.append(path)
    sets, removes = [], []
    # What a list is whose elements are set and removed at once AWS does not say.
    lists = {
        path[0]: draw(st.booleans())
        for path in targets
        if any(isinstance(part, int) for part in path)
    }
    for path in targets:
        if lists[path[0]] if path[0] in lists else draw(st.booleans()):
            sets.append(f"{written(draw, case, path)} = {draw(_computed(case))}")
        else:
            removes.append(written(draw, case, path))
    sections = [
        f"{name} {', '.join(actions)}"
        for name, actions in (("SET", sets), ("REMOVE", removes))
        if actions
    ]
    return " ".join(draw(st.permutations(sections)))


def _meet(one: Path, two: Path) -> bool:
    """One leads through the other, they differ in kind, or both lead deep into one list.

    The first two are refused. Of a list moto removes one element after the other,
    and then looks for the next place in what is left.
    """
    for a, b in zip(one, two, strict=False):
        if a != b:
            indexes = isinstance(a, int) + isinstance(b, int)
            return indexes == 1 or (indexes > 1 and len(one) != len(two))
    return True


@st.composite
def cases(
    draw: st.DrawFn, accept: Accept, *, condition: bool = False, update: bool = False
) -> Case:
    """An item or none, with the expressions that are wanted."""
    case = Case(draw(st.one_of(ITEMS, ITEMS, ITEMS, st.none())))
    if update:
        case.update = draw(updates(case))
    if condition:
        case.condition = draw(conditions(case, accept))
    return case
