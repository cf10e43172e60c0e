"""DynamoDB's expression language: parsed once per string, then evaluated as closures.

    condition = operand comparator operand | operand BETWEEN operand AND operand
              | operand IN (operand, ...) | function(operand, ...)
              | NOT condition | condition AND condition | condition OR condition | (condition)
    update    = SET path = value, ... | REMOVE path, ... | ADD path :number, ...
    value     = operand [+|- operand]     operand = path | :value | if_not_exists(path, operand)

What AWS has and this table needs not (``size``, ``contains``, ``attribute_type``,
``list_append``, DELETE, sets) raises NotImplementedError: whoever uses it has to
model it first. What AWS refuses raises ValidationError.

Where the AWS guides are silent the rules are dynalite's, which were checked
against AWS: an attribute that is not there makes every comparison false, except
``<>``, which is the opposite of ``=``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Context
from functools import lru_cache
from typing import Any, NoReturn, TypeAlias

from tests.simulation.aws_errors import ValidationError
from tests.simulation.reserved_words import RESERVED_WORDS
from tests.simulation.values import Item, Value, number, number_value, rank

Values: TypeAlias = Mapping[str, Value]
Path: TypeAlias = tuple[str | int, ...]
Names: TypeAlias = tuple[tuple[str, str], ...]  # hashable: part of what a parsed text is cached by

MAX_LENGTH = 4 * 1024  # bytes of an expression
MAX_OPERATORS = 300
MAX_IN = 100  # operands

_CACHED = 4096  # texts: a difference of two items makes many

_TOKEN = re.compile(
    r"\s*(?:(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<name>\#[A-Za-z0-9_]+)|(?P<value>:[A-Za-z0-9_]+)"
    r"|(?P<index>[0-9]+)|(?P<sign><>|<=|>=|[=<>()\[\],.+-])|(?P<end>\Z)|(?P<wrong>.))",
    re.DOTALL,
)
_NOT_MODELLED = frozenset({"size", "contains", "attribute_type", "list_append"})


# -- the parsed form ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attribute:
    """A document path: ``steps[2].n`` is ``("steps", 2, "n")``."""

    path: Path


@dataclass(frozen=True, slots=True)
class Literal:
    """A value that comes with the request."""

    name: str


@dataclass(frozen=True, slots=True)
class IfNotExists:
    """What is there, or else something else."""

    path: Path
    otherwise: Operand


@dataclass(frozen=True, slots=True)
class Sum:
    """Two numbers, added or subtracted."""

    sign: str
    left: Operand
    right: Operand


Operand: TypeAlias = Attribute | Literal | IfNotExists | Sum


@dataclass(frozen=True, slots=True)
class Test:
    """A comparison or function: ``=``, ``BETWEEN``, ``IN``, ``begins_with``, ..."""

    __test__ = False  # not one of pytest's

    op: str
    args: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Junction:
    """AND, OR or NOT."""

    op: str
    parts: tuple[Condition, ...]


Condition: TypeAlias = Test | Junction


@dataclass(frozen=True, slots=True)
class Put:
    """Have a path hold what the operand comes to."""

    path: Path
    operand: Operand


@dataclass(frozen=True, slots=True)
class Drop:
    """Have a path hold nothing."""

    path: Path


Action: TypeAlias = Put | Drop


# -- the parser ---------------------------------------------------------------------


@dataclass(slots=True)
class _Parser:
    """Recursive descent over one text. ``kind`` is the parameter's name, for messages."""

    kind: str
    text: str
    names: Mapping[str, str]
    used_names: set[str] = field(default_factory=set)
    used_values: set[str] = field(default_factory=set)
    operators: int = 0
    _tokens: list[tuple[str, str]] = field(default_factory=list)
    _at: int = 0
    _group: tuple[int, int] = (-1, -1)  # where the last parenthesised condition stood

    def __post_init__(self) -> None:
        if not self.text:
            self.refuse("The expression can not be empty;")
        size = len(self.text.encode())
        if size > MAX_LENGTH:
            self.refuse(
                f"Expression size has exceeded the maximum allowed size; expression size: {size}"
            )
        for match in _TOKEN.finditer(self.text):
            kind = str(match.lastgroup)
            if kind == "wrong":
                self.refuse(f'Syntax error; token: "{match["wrong"]}"')
            self._tokens.append((kind, match[kind]))
            if kind == "end":
                break

    def refuse(self, message: str) -> NoReturn:
        raise ValidationError(f"Invalid {self.kind}: {message}")

    # tokens

    def peek(self) -> str:
        """The next token; keywords in capitals, whatever they were written in."""
        kind, text = self._tokens[self._at]
        return text.upper() if kind == "word" and text.upper() in _KEYWORDS else text

    def ahead(self, text: str) -> bool:
        return self.peek() == text

    def take(self, text: str) -> bool:
        if self.peek() != text or self._tokens[self._at][0] == "end":
            return False
        self._at += 1
        return True

    def expect(self, text: str) -> None:
        if not self.take(text):
            self.unexpected()

    def unexpected(self) -> NoReturn:
        kind, text = self._tokens[self._at]
        self.refuse(f'Syntax error; token: "{"<EOF>" if kind == "end" else text}"')

    def next(self, kind: str) -> str:
        found, text = self._tokens[self._at]
        if found != kind or (kind == "word" and text.upper() in _KEYWORDS):
            self.unexpected()
        self._at += 1
        return text

    def end(self) -> None:
        if self._tokens[self._at][0] != "end":
            self.unexpected()
        if self.operators > MAX_OPERATORS:
            self.refuse(
                f"The expression contains too many operators; operator count: {self.operators}"
            )

    # operands

    def path(self) -> Path:
        parts: list[str | int] = [self._name()]
        while True:
            if self.take("."):
                parts.append(self._name())
            elif self.take("["):
                parts.append(int(self.next("index")))
                self.expect("]")
            else:
                return tuple(parts)

    def _name(self) -> str:
        if self._tokens[self._at][0] != "name":
            word = self.next("word")
            if word.upper() in RESERVED_WORDS:
                self.refuse(f"Attribute name is a reserved keyword; reserved keyword: {word}")
            return word
        alias = self.next("name")
        self.used_names.add(alias)
        if alias not in self.names:
            self.refuse(
                "An expression attribute name used in the document path is not defined;"
                f" attribute name: {alias}"
            )
        return self.names[alias]

    def literal(self) -> Literal:
        name = self.next("value")
        self.used_values.add(name)
        return Literal(name)

    def operand(self) -> Operand:
        if self._tokens[self._at][0] == "value":
            return self.literal()
        if self._tokens[self._at][0] == "word" and self._tokens[self._at + 1][1] == "(":
            return self._function_operand()
        return Attribute(self.path())

    def _function_operand(self) -> Operand:
        name = self.next("word")
        if name in _NOT_MODELLED:
            raise NotImplementedError(f"{name} is not modelled")
        if name != "if_not_exists" or self.kind != "UpdateExpression":
            self.refuse(f"Invalid function name; function: {name}")
        self.operators += 1
        self.expect("(")
        path = self.path()
        self.expect(",")
        otherwise = self.operand()
        self.expect(")")
        return IfNotExists(path, otherwise)

    def value(self) -> Operand:
        left = self.operand()
        for sign in ("+", "-"):
            if self.take(sign):
                self.operators += 1
                return Sum(sign, left, self.operand())
        return left

    # conditions

    def condition(self) -> Condition:
        return self._junction("OR", lambda: self._junction("AND", self._negation))

    def _junction(self, op: str, part: Callable[[], Condition]) -> Condition:
        parts = [part()]
        while self.take(op):
            self.operators += 1
            parts.append(part())
        return parts[0] if len(parts) == 1 else Junction(op, tuple(parts))

    def _negation(self) -> Condition:
        if not self.take("NOT"):
            return self._term()
        self.operators += 1
        return Junction("NOT", (self._term(),))

    def _term(self) -> Condition:
        start = self._at
        if not self.take("("):
            return self._test()
        inside = self.condition()
        if self._group == (start + 1, self._at):
            self.refuse("The expression has redundant parentheses;")
        self.expect(")")
        self._group = (start, self._at)
        return inside

    def _test(self) -> Test:
        self.operators += 1
        name = self._tokens[self._at][1]
        if name in _FUNCTIONS and self._tokens[self._at + 1][1] == "(":
            return self._function(self.next("word"))
        first = self.operand()
        if self.take("BETWEEN"):
            low = self.operand()
            self.expect("AND")
            return self._checked(Test("BETWEEN", (first, low, self.operand())))
        if self.take("IN"):
            self.expect("(")
            choices = self._operands()
            if len(choices) > MAX_IN:
                self.refuse(f"The IN operator is provided with too many operands: {len(choices)}")
            return self._checked(Test("IN", (first, *choices)))
        sign = self.peek()
        if not self.take(sign) or sign not in _COMPARATORS:
            self.unexpected()
        return self._checked(Test(sign, (first, self.operand())))

    def _function(self, name: str) -> Test:
        self.expect("(")
        args = self._operands()
        if len(args) != _FUNCTIONS[name]:
            self.refuse(
                "Incorrect number of operands for operator or function; operator or function:"
                f" {name}, number of operands: {len(args)}"
            )
        if name != "begins_with" and not isinstance(args[0], Attribute):
            self.refuse(
                "Operator or function requires a document path; operator or function: " + name
            )
        return self._checked(Test(name, args))

    def _operands(self) -> tuple[Operand, ...]:
        found = [self.operand()]
        while self.take(","):
            found.append(self.operand())
        self.expect(")")
        return tuple(found)

    def _checked(self, test: Test) -> Test:
        first, *rest = test.args
        if isinstance(first, Attribute) and first in rest:
            self.refuse(
                "The first operand must be distinct from the remaining operands for this operator"
                f" or function; operator: {test.op}, first operand: {list(first.path)}"
            )
        return test

    # updates

    def actions(self) -> Iterator[Action]:
        seen: set[str] = set()
        while not self.ahead(""):
            section = self.peek()
            if section not in _SECTIONS:
                self.unexpected()
            if section in seen:
                self.refuse(
                    f'The "{section}" section can only be used once in an update expression;'
                )
            seen.add(section)
            self.expect(section)
            yield self._action(section)
            while self.take(","):
                yield self._action(section)

    def _action(self, section: str) -> Action:
        self.operators += 1
        path = self.path()
        if section == "REMOVE":
            return Drop(path)
        if section == "SET":
            self.expect("=")
            return Put(path, self.value())
        if section == "ADD" and len(path) == 1:
            added = self.literal()
            return Put(path, Sum("ADD", Attribute(path), added))
        raise NotImplementedError(f"{section} of {path} is not modelled")


_KEYWORDS = frozenset({"AND", "OR", "NOT", "BETWEEN", "IN", "SET", "REMOVE", "ADD", "DELETE"})
_SECTIONS = frozenset({"SET", "REMOVE", "ADD", "DELETE"})
_FUNCTIONS = {"attribute_exists": 1, "attribute_not_exists": 1, "begins_with": 2}
_COMPARATORS = frozenset({"=", "<>", "<", "<=", ">", ">="})


# -- conditions, evaluated ----------------------------------------------------------

Get: TypeAlias = Callable[[Item, Values], "Value | None"]
Holds: TypeAlias = Callable[[Item, Values], bool]
Check: TypeAlias = Callable[[Values], None]


@dataclass(frozen=True, slots=True)
class ConditionText:
    """A condition that is ready to be evaluated.

    Attributes:
        tree: Its parsed form.
        holds: Whether it holds for an item (an empty one: there is none) and values.
        checks: What is refused for its values' sake, before any item is looked at.
        names: The ``#names`` that it uses, and ``values`` the ``:values``.
    """

    tree: Condition
    holds: Holds
    checks: tuple[Check, ...]
    names: frozenset[str]
    values: frozenset[str]


@lru_cache(maxsize=_CACHED)
def condition_text(kind: str, text: str, names: Names) -> ConditionText:
    """Parse a condition.

    Raises:
        ValidationError: As DynamoDB would.
    """
    parser = _Parser(kind, text, dict(names))
    tree = parser.condition()
    parser.end()
    return ConditionText(
        tree,
        _compiled(tree),
        tuple(_checks_of(kind, tree)),
        frozenset(parser.used_names),
        frozenset(parser.used_values),
    )


def _compiled(c: Condition) -> Holds:
    if isinstance(c, Test):
        return _compiled_test(c.op, c.args)
    parts = tuple(map(_compiled, c.parts))
    if c.op == "NOT":
        (part,) = parts
        return lambda item, values: not part(item, values)
    decisive = c.op == "OR"

    def junction(item: Item, values: Values) -> bool:
        for part in parts:
            if part(item, values) is decisive:
                return decisive
        return not decisive

    return junction


def _compiled_test(op: str, args: tuple[Operand, ...]) -> Holds:
    first, *rest = map(_getter, args)
    if op == "attribute_exists":
        return lambda item, values: first(item, values) is not None
    if op == "attribute_not_exists":
        return lambda item, values: first(item, values) is None
    if op == "IN":

        def is_in(item: Item, values: Values) -> bool:
            found = first(item, values)
            return found is not None and any(found == get(item, values) for get in rest)

        return is_in
    if op == "BETWEEN":
        low, high = rest

        def between(item: Item, values: Values) -> bool:
            found = first(item, values)
            return _ordered(operator.le, low(item, values), found) and _ordered(
                operator.le, found, high(item, values)
            )

        return between
    (second,) = rest
    if op == "=":

        def equal(item: Item, values: Values) -> bool:
            left = first(item, values)
            return left is not None and left == second(item, values)

        return equal
    if op == "<>":
        same = _compiled_test("=", args)
        return lambda item, values: not same(item, values)
    if op == "begins_with":
        return lambda item, values: _begins(first(item, values), second(item, values))
    holds = _ORDERS[op]
    return lambda item, values: _ordered(holds, first(item, values), second(item, values))


Holding: TypeAlias = Callable[[Any, Any], bool]

_ORDERS: Mapping[str, Holding] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _ordered(holds: Holding, left: Value | None, right: Value | None) -> bool:
    if left is None or right is None or left.keys() != right.keys():
        return False
    a = rank(left)
    return a is not None and holds(a, rank(right))


def _begins(whole: Value | None, start: Value | None) -> bool:
    if whole is None or start is None:
        return False
    if "S" in whole and "S" in start:
        return str(whole["S"]).startswith(start["S"])
    return "B" in whole and "B" in start and bytes(whole["B"]).startswith(start["B"])


def _checks_of(kind: str, c: Condition) -> Iterator[Check]:
    """What DynamoDB refuses when it reads the request: literals of a type that cannot do."""
    if isinstance(c, Junction):
        for part in c.parts:
            yield from _checks_of(kind, part)
        return
    literals = [a.name for a in c.args if isinstance(a, Literal)]
    if c.op in ("<", "<=", ">", ">=", "BETWEEN"):
        yield _type_check(kind, c.op, literals, ("S", "N", "B"))
    if c.op == "begins_with":
        yield _type_check(kind, c.op, literals, ("S", "B"))
    if c.op == "BETWEEN" and isinstance(c.args[1], Literal) and isinstance(c.args[2], Literal):
        yield _bounds_check(kind, c.args[1].name, c.args[2].name)


def _type_check(kind: str, op: str, literals: list[str], allowed: tuple[str, ...]) -> Check:
    def check(values: Values) -> None:
        for name in literals:
            (tag,) = values[name]
            if tag not in allowed:
                raise ValidationError(
                    f"Invalid {kind}: Incorrect operand type for operator or function;"
                    f" operator or function: {op}, operand type: {tag}"
                )

    return check


def _bounds_check(kind: str, low: str, high: str) -> Check:
    def check(values: Values) -> None:
        if not _ordered(operator.le, values[low], values[high]):
            raise ValidationError(
                f"Invalid {kind}: The BETWEEN operator requires bounds of one type, the upper"
                " greater than or equal to the lower;"
                f" lower bound operand: {values[low]}, upper bound operand: {values[high]}"
            )

    return check


# -- operands, evaluated ------------------------------------------------------------


def _getter(o: Operand) -> Get:
    match o:
        case Literal(literal):
            return lambda _item, values: values[literal]
        case Attribute((str(name),)):
            return lambda item, _values: item.get(name)
        case Attribute(path):
            return lambda item, _values: value_at(item, path)
        case IfNotExists(path, otherwise):
            there, fallback = _getter(Attribute(path)), _getter(otherwise)
            return lambda item, values: there(item, values) or fallback(item, values)
        case Sum(sign, left, right):
            return _sum(sign, _getter(left), _getter(right))


def value_at(item: Item, path: Path) -> Value | None:
    """What stands at a document path."""
    found: Value = {"M": item}
    for part in path:
        inside: Any = found.get("L" if isinstance(part, int) else "M", ())
        there = part < len(inside) if isinstance(part, int) else part in inside
        if not there:
            return None
        found = inside[part]
    return found


_EXACT = Context(prec=1_000)


def _sum(sign: str, left: Get, right: Get) -> Get:
    def compute(item: Item, values: Values) -> Value | None:
        a, b = left(item, values), right(item, values)
        if a is None and sign == "ADD":
            return b
        if a is None or b is None:
            return None
        if "N" not in a or "N" not in b:
            raise ValidationError("An operand in the update expression has an incorrect data type")
        n, m = number(a["N"]), number(b["N"])
        if isinstance(n, int) and isinstance(m, int):
            return number_value(n - m if sign == "-" else n + m)
        return number_value(_EXACT.subtract(n, m) if sign == "-" else _EXACT.add(n, m))

    return compute


# -- updates, evaluated -------------------------------------------------------------

Branch: TypeAlias = "dict[str | int, Branch | Action]"


@dataclass(frozen=True, slots=True)
class UpdateText:
    """An update that is ready to be applied.

    Attributes:
        tree: Its actions by the parts of their paths.
        puts: Each path that is set, and what computes its value.
        checks: As in ConditionText; so are ``names`` and ``values``.
        attributes: The top-level attributes that it touches.
    """

    tree: Branch
    puts: tuple[tuple[Path, Get], ...]
    checks: tuple[Check, ...]
    names: frozenset[str]
    values: frozenset[str]
    attributes: frozenset[str]

    def apply(self, item: Item, values: Values, key: Item) -> Item:
        """The item after the update; what did not change is shared with the one before.

        Every value is computed from the item as it was, whatever the order of actions.

        Args:
            item: As it was; empty if there was none.
            values: The request's.
            key: The item's key, which a new item begins with.

        Raises:
            ValidationError: A value cannot be computed, or a path leads nowhere.
        """
        computed: dict[Path, Value] = {}
        for path, get in self.puts:
            value = get(item, values)
            if value is None:
                raise ValidationError(
                    "The provided expression refers to an attribute that does not exist in the item"
                )
            computed[path] = value
        return _changed({"M": item or key}, self.tree, computed)["M"]  # type: ignore[no-any-return]


@lru_cache(maxsize=_CACHED)
def update_text(text: str, names: Names) -> UpdateText:
    """Parse an update.

    Raises:
        ValidationError: As DynamoDB would.
    """
    parser = _Parser("UpdateExpression", text, dict(names))
    actions = tuple(parser.actions())
    parser.end()
    tree: Branch = {}
    for action in actions:
        _plant(parser, tree, action)
    puts = [a for a in actions if isinstance(a, Put)]
    return UpdateText(
        tree,
        tuple((a.path, _getter(a.operand)) for a in puts),
        tuple(check for a in puts for check in _sum_checks(a.operand)),
        frozenset(parser.used_names),
        frozenset(parser.used_values),
        frozenset(str(a.path[0]) for a in actions),
    )


def _plant(parser: _Parser, tree: Branch, action: Action) -> None:
    """Add an action to the tree, unless it and another one contradict each other."""
    *parents, last = action.path
    branch = tree
    for part in parents:
        _check_kind(parser, branch, part, action)
        child = branch.setdefault(part, {})
        if not isinstance(child, dict):
            _overlap(parser, child.path, action.path)
        branch = child
    _check_kind(parser, branch, last, action)
    if last in branch:
        _overlap(parser, action.path, action.path)
    branch[last] = action


def _check_kind(parser: _Parser, branch: Branch, part: str | int, action: Action) -> None:
    if branch and isinstance(next(iter(branch)), int) != isinstance(part, int):
        parser.refuse(
            "Two document paths conflict with each other; must remove or rewrite one of these"
            f" paths; path one: {list(action.path)}"
        )


def _overlap(parser: _Parser, one: Path, two: Path) -> NoReturn:
    parser.refuse(
        "Two document paths overlap with each other; must remove or rewrite one of these paths;"
        f" path one: {list(one)}, path two: {list(two)}"
    )


def _sum_checks(o: Operand) -> Iterator[Check]:
    if isinstance(o, IfNotExists):
        yield from _sum_checks(o.otherwise)
    if isinstance(o, Sum):
        literals = [a.name for a in (o.left, o.right) if isinstance(a, Literal)]
        yield _type_check("UpdateExpression", o.sign, literals, ("N",))
        yield from _sum_checks(o.left)
        yield from _sum_checks(o.right)


def _changed(old: Value, branch: Branch, computed: Mapping[Path, Value]) -> Value:
    """A list or map with the branch's actions done to it."""
    numbered = isinstance(next(iter(branch), ""), int)
    if ("L" if numbered else "M") not in old:
        raise ValidationError(
            "The document path provided in the update expression is invalid for update"
        )
    if numbered:
        return {"L": _changed_list(old["L"], branch, computed)}
    content: Item = dict(old["M"])
    for part, child in branch.items():
        name = str(part)
        if isinstance(child, Put):
            content[name] = computed[child.path]
        elif isinstance(child, Drop):
            content.pop(name, None)
        else:
            content[name] = _changed(content.get(name, {}), child, computed)
    return {"M": content}


def _changed_list(old: list[Value], branch: Branch, computed: Mapping[Path, Value]) -> list[Value]:
    """Indexes mean the list as it was; what is set beyond its end is appended, in order."""
    content: list[Value | None] = [*old]
    appended: dict[int, Value] = {}
    for part, child in branch.items():
        n = int(part)
        there = n < len(old)
        if isinstance(child, Drop):
            if there:
                content[n] = None
        elif not isinstance(child, Put):
            changed = _changed(old[n] if there else {}, child, computed)
            content[n] = changed  # a path that leads beyond the end was refused
        elif there:
            content[n] = computed[child.path]
        else:
            appended[n] = computed[child.path]
    return [v for v in content if v is not None] + [appended[n] for n in sorted(appended)]
