"""What the source of a saga's handlers tells before it runs: rules SAGA103 to SAGA105.

The rules of ``definition`` look at a saga as a value. These read code, which takes files
and time: ``saga lint`` and tests ask for them, a function that starts does not.

No handler is called, and none is followed into what it calls. What cannot be read is
passed over without a word: a rule that guesses is soon switched off.
"""

from __future__ import annotations

import ast
import builtins
import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import TypeAlias

from saga_core.definition import (
    Finding,
    Function,
    Handler,
    SagaDefinition,
    Severity,
    StepDefinition,
)

# The way from the context to something in it: ctx.order["id"] is ("order", "id").
Way: TypeAlias = tuple[str | int, ...]
_Callable: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda

# By name, because the core imports none of them.
_CHANCE = re.compile(
    r"uuid\.uuid[1467]"
    r"|os\.(urandom|getrandom)"
    r"|secrets\.(choice|randbelow|randbits|token_bytes|token_hex|token_urlsafe)"
    r"|random\.(?!seed$|getstate$|setstate$|Random$)\w+"
)
_CLOCK = re.compile(r"time\.time(_ns)?|datetime\.(datetime\.(now|utcnow|today)|date\.today)")
_SLEEP = re.compile(r"time\.sleep|asyncio\.(tasks\.)?sleep")
_PURE = re.compile(r"builtins\.(str|int|repr|format|range)")
# What services call the thing by which they know a request again.
_KEY = re.compile(r"(.*_)?(key|token)|.*(Token|DeduplicationId)")
_UNKNOWN = ""
_SAME_MODULE = {"posix": "os", "nt": "os"}
_PLAIN = (BuiltinFunctionType, FunctionType, MethodType, ModuleType, type)


@dataclass(frozen=True, slots=True)
class Place:
    """A line of a file, counted from 1."""

    path: str
    line: int


def lint_source(definition: SagaDefinition) -> tuple[Finding, ...]:
    """Every finding in the source of a definition's handlers, in rule order."""
    found = [*_unsaved(definition), *_other_every_time(definition)]
    return tuple(sorted(found, key=lambda f: f.rule))


def place(function: Function) -> Place | None:
    """Where a handler is written, its decorators included; None when no file says so."""
    plain = _plain(function)
    if plain is None or plain[0].__code__.co_filename.startswith("<"):
        return None
    code = plain[0].__code__
    return Place(code.co_filename, code.co_firstlineno)


# -- the rules -----------------------------------------------------------------------


def _unsaved(definition: SagaDefinition) -> Iterator[Finding]:
    """SAGA103: an undo that needs what nobody has saved when its step is in doubt."""
    given = _required(definition.context_type)
    before: list[Way] = []
    for step in definition.steps:
        execute = _Source.of(step.execute)
        own = list(execute.writes(definition.context_type)) if execute is not None else []
        undo = _Source.of(step.compensate) if step.compensate is not None else None
        if undo is not None and not undo.finds_by_itself():
            added = [
                way
                for way, anew in own
                if anew and way not in given and not any(_overlap(way, other) for other in before)
            ]
            yield from _needs(step, undo, added)
        if step.pivot:
            return  # no step after it is ever undone
        before += [way for way, _ in own]
        if step.into is not None:
            before.append((step.into,))


def _needs(step: StepDefinition, undo: _Source, added: list[Way]) -> Iterator[Finding]:
    set_here: dict[Way, int] = {}
    for node, way in undo.stores():
        set_here[way] = min(node.lineno, set_here.get(way, node.lineno))
    told: set[Way] = set()
    for node, way in sorted(undo.reads(), key=lambda read: (read[0].lineno, read[0].col_offset)):
        for written in added:
            if way[: len(written)] == written and written not in told:
                told.add(written)
                if node.lineno <= set_here.get(written, node.lineno):
                    yield undo.finding(
                        "SAGA103",
                        f"its undo reads {ast.unparse(node)}, which no step before it writes: "
                        "in doubt it was not saved; find the effect by call.execute_key",
                        step,
                        node,
                    )


def _other_every_time(definition: SagaDefinition) -> Iterator[Finding]:
    """SAGA104 and SAGA105: what is another value at the next attempt."""
    for step in definition.steps:
        for handler in (step.execute, step.compensate):
            source = _Source.of(handler) if handler is not None else None
            if source is None:
                continue
            for node, name in source.draws():
                yield source.finding(
                    "SAGA104",
                    f"{name}() is another value at every attempt; "
                    "take keys from call.idempotency_key",
                    step,
                    node,
                )
            for node, name in source.dated_keys():
                yield source.finding(
                    "SAGA105",
                    f"a key made with {name}() is another one at every attempt; "
                    "take keys from call.idempotency_key",
                    step,
                    node,
                )


def _required(context_type: type | None) -> set[Way]:
    """The fields that an input must have, so that they are there whatever happens."""
    models: object = getattr(context_type, "model_fields", None)
    if isinstance(models, dict):
        return {(name,) for name, described in models.items() if described.is_required()}
    if context_type is not None and is_dataclass(context_type):
        nothing = (MISSING, MISSING)
        return {
            (f.name,) for f in fields(context_type) if (f.default, f.default_factory) == nothing
        }
    return set()


def _overlap(one: Way, other: Way) -> bool:
    """One is within the other."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


# -- reading one handler -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Source:
    """The code of one handler: its tree, and what its parameters are called in it."""

    function: FunctionType
    nodes: tuple[ast.AST, ...]
    context: str
    call: str | None
    bound: frozenset[str]
    imported: dict[str, str]

    @classmethod
    def of(cls, handler: Handler) -> _Source | None:
        """Read a handler; None when it has no source, or it is not clear which it is."""
        plain = _plain(handler.function)
        tree = _tree(plain[0]) if plain is not None else None
        if plain is None or tree is None:
            return None
        function, given = plain
        names = [a.arg for a in (*tree.args.posonlyargs, *tree.args.args)][given:]
        if len(names) != 1 + handler.takes_call:
            return None  # a decorator calls it in another way
        body = tree.body if isinstance(tree.body, list) else [tree.body]
        nodes = tuple(node for part in body for node in ast.walk(part))
        return cls(
            function,
            nodes,
            names[0],
            names[1] if handler.takes_call else None,
            frozenset(_bound(tree.args, nodes)),
            dict(_imported(nodes)),
        )

    def finding(self, rule: str, message: str, step: StepDefinition, node: ast.expr) -> Finding:
        """A warning about a line of it."""
        path = self.function.__code__.co_filename
        return Finding(rule, Severity.WARNING, message, step.name, path, node.lineno)

    # -- the context

    def way(self, node: ast.AST) -> Way | None:
        """What of the context an expression names; () is all of it, None nothing."""
        key: str | int
        match node:
            case ast.Name(id=self.context):
                return ()
            case ast.Attribute(value=inner, attr=key):
                pass
            case ast.Subscript(value=inner, slice=ast.Constant(value=str() | int() as key)):
                pass
            case (
                ast.Call(
                    func=ast.Attribute(value=inner, attr="get"),
                    args=[ast.Constant(value=str() as key), *_],
                )
                | ast.Call(
                    func=ast.Name(id="getattr"), args=[inner, ast.Constant(value=str() as key), *_]
                )
            ):
                pass
            case _:
                return None
        outer = self.way(inner)
        return None if outer is None else (*outer, key)

    def reads(self) -> Iterator[tuple[ast.expr, Way]]:
        """Every expression that reads a part of the context."""
        for node in self.nodes:
            if isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
                way = self.way(node)
                if way and isinstance(getattr(node, "ctx", ast.Load()), ast.Load):
                    yield node, way

    def stores(self) -> Iterator[tuple[ast.expr, Way]]:
        """Every target of an assignment that is a part of the context."""
        for node in self.nodes:
            if isinstance(node, ast.Attribute | ast.Subscript):
                way = self.way(node)
                if way and isinstance(node.ctx, ast.Store):
                    yield node, way

    def writes(self, context_type: type | None) -> Iterator[tuple[Way, bool]]:
        """What it puts into the context; True when it need not have been there before."""
        grown = {id(n.target) for n in self.nodes if isinstance(n, ast.AugAssign)}
        for target, way in self.stores():
            yield way, id(target) not in grown
        for node in self.nodes:
            for base, name in self._set_by(node, context_type):
                yield (*base, name), True

    def _set_by(self, node: ast.AST, context_type: type | None) -> Iterator[tuple[Way, str]]:
        """The fields that a call or a display sets, each with what it is a field of."""
        match node:
            case ast.Dict():  # {**ctx, "payment": ...}
                spread = [v for n, v in enumerate(node.values) if node.keys[n] is None]
                for base in map(self.way, spread):
                    if base is not None:
                        yield from ((base, name) for name in _constants(node))
            case ast.BinOp(left=left, op=ast.BitOr(), right=ast.Dict() as added):
                base = self.way(left)
                if base is not None:
                    yield from ((base, name) for name in _constants(added))
            case ast.Call(
                func=ast.Name(id="setattr"), args=[inner, ast.Constant(value=str(name)), _]
            ):
                base = self.way(inner)
                if base is not None:
                    yield base, name
            case ast.Call(func=ast.Attribute(value=inner, attr="setdefault"), args=[first, *_]):
                base = self.way(inner)
                if base is not None and isinstance(first, ast.Constant):
                    yield base, str(first.value)
            case ast.Call(
                func=ast.Attribute(value=inner, attr="update"), args=args, keywords=keywords
            ):
                base = self.way(inner)
                if base is not None:
                    for display in (a for a in args if isinstance(a, ast.Dict)):
                        yield from ((base, name) for name in _constants(display))
                    yield from ((base, k.arg) for k in keywords if k.arg is not None)
            case ast.Call(func=ast.Attribute(value=inner, attr="model_copy"), keywords=keywords):
                base = self.way(inner)
                if base is not None:
                    for changed in (k.value for k in keywords if k.arg == "update"):
                        if isinstance(changed, ast.Dict):
                            yield from ((base, name) for name in _constants(changed))
            case ast.Call(
                func=ast.Name(id="replace") | ast.Attribute(attr="replace"),
                args=[inner],
                keywords=keywords,
            ):
                base = self.way(inner)
                if base is not None:
                    yield from ((base, k.arg) for k in keywords if k.arg is not None)
            case ast.Call(func=func, keywords=keywords):  # Order(sku=ctx.sku, payment=...)
                if context_type is not None and self._object(func) is context_type:
                    for k in keywords:
                        if k.arg is not None and self.way(k.value) != (k.arg,):
                            yield (), k.arg
            case _:
                pass

    def finds_by_itself(self) -> bool:
        """An undo that has the forward call's key, or asks whether the step is in doubt.

        One that hands its whole call to somebody may do either.
        """
        if self.call is None:
            return False
        attributes = [n for n in self.nodes if isinstance(n, ast.Attribute)]
        asked = {n.attr for n in attributes if _is_name(n.value, self.call)}
        handed_on = {id(n) for n in self.nodes if _is_name(n, self.call)}
        handed_on -= {id(n.value) for n in attributes}
        return bool(handed_on or asked & {"execute_key", "in_doubt"})

    # -- what is called

    def draws(self) -> Iterator[tuple[ast.expr, str]]:
        """Calls that give something at random, each with its name.

        Not those whose value cannot reach anybody outside before it is saved: how long to
        sleep, and what is only put into the context, for a later step to use.
        """
        calls = [(n, self._called(n)) for n in self.nodes if isinstance(n, ast.Call)]
        excused: set[int] = set()
        for node, name in calls:
            if _SLEEP.fullmatch(name):
                excused |= {id(n) for n in ast.walk(node)}
        for statement in self.nodes:
            if isinstance(statement, ast.Assign) and self._only_saves(statement):
                excused |= {id(n) for n in ast.walk(statement)}
        for node, name in calls:
            if id(node) not in excused and _is_chance(node, name):
                yield node, name

    def dated_keys(self) -> Iterator[tuple[ast.expr, str]]:
        """Calls of the clock in what is given or assigned to a name for keys."""
        for node in self.nodes:
            match node:
                case ast.keyword(arg=str(name), value=value):
                    pass
                case ast.Assign(targets=[ast.Name(id=name)], value=value):
                    pass
                case _:
                    continue
            if not _KEY.fullmatch(name):
                continue
            for part in ast.walk(value):
                if isinstance(part, ast.Call):
                    called = self._called(part)
                    if _CLOCK.fullmatch(called):
                        yield part, called

    def _only_saves(self, statement: ast.Assign) -> bool:
        """It puts a value into the context, and nothing else here looks at it."""
        targets = [self.way(target) for target in statement.targets]
        if not all(targets):
            return False
        for part in ast.walk(statement.value):
            if isinstance(part, ast.Call):
                name = self._called(part)
                harmless = _is_chance(part, name) or _PURE.fullmatch(name) or _of_a_value(part.func)
                if not harmless:
                    return False  # it goes to somebody first
        inside = {id(n) for n in ast.walk(statement)}
        written = [target for target in targets if target]
        for node, way in self.reads():
            if id(node) not in inside and any(_overlap(way, target) for target in written):
                return False
        return not self._handed_on()

    def _handed_on(self) -> bool:
        """The whole context goes to somebody else, other than back to us."""
        own = {id(n.value) for n in self.nodes if isinstance(n, ast.Attribute | ast.Subscript)}
        own |= {id(n.value) for n in self.nodes if isinstance(n, ast.Return)}
        return any(_is_name(n, self.context) and id(n) not in own for n in self.nodes)

    def _called(self, call: ast.Call) -> str:
        return self._dotted(call.func)

    def _dotted(self, node: ast.expr) -> str:
        """``module.name`` of what an expression stands for, whatever it is called here."""
        if isinstance(node, ast.Name) and node.id in self.imported:
            return self.imported[node.id]
        found = self._object(node)
        if found is not None:
            return _name(found)
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        return _UNKNOWN

    def _object(self, node: ast.expr) -> object:
        """The module, function or class that an expression outside the handler is; or None."""
        if isinstance(node, ast.Attribute):
            owner = self._object(node.value)
            found = vars(owner).get(node.attr) if isinstance(owner, ModuleType) else None
        elif isinstance(node, ast.Name) and node.id not in self.bound:
            found = self._global(node.id)
        else:
            return None
        # Of any other object not even its class is asked: a proxy may connect when touched.
        return found if issubclass(type(found), _PLAIN) or _is_generator(found) else None

    def _global(self, name: str) -> object:
        """What a name means around the handler; None when it means nothing yet."""
        free = self.function.__code__.co_freevars
        if name in free:
            cell = (self.function.__closure__ or ())[free.index(name)]
            try:
                found: object = cell.cell_contents
            except ValueError:  # nothing has been assigned to it
                return None
            return found
        return self.function.__globals__.get(name, vars(builtins).get(name))


def _plain(function: object) -> tuple[FunctionType, int] | None:
    """The function that a handler comes down to, and how many arguments it has already."""
    given = 0
    while True:
        if isinstance(function, functools.partial):
            given += len(function.args)
            function = function.func
        elif isinstance(function, MethodType):
            given += 1
            function = function.__func__
        elif "__wrapped__" in getattr(function, "__dict__", {}):  # functools.wraps, SagaStepHandle
            function = vars(function)["__wrapped__"]
        elif isinstance(function, FunctionType):
            return function, given
        else:
            called = inspect.getattr_static(type(function), "__call__")
            if not isinstance(called, FunctionType):
                return None  # a class, or compiled
            given += 1
            function = called


def _tree(function: FunctionType) -> _Callable | None:
    """The node that a function was compiled from."""
    code = function.__code__
    try:
        lines, _ = inspect.findsource(function)
        written = _functions("".join(lines))
    except (OSError, SyntaxError):
        return None  # typed in, or changed since
    found = [
        node
        for node in written
        if getattr(node, "name", "<lambda>") == code.co_name
        and _first_line(node) == code.co_firstlineno
    ]
    return found[0] if len(found) == 1 else None  # two lambdas may share a line


@functools.lru_cache(maxsize=8)  # most handlers of a saga stand in one file
def _functions(text: str) -> tuple[_Callable, ...]:
    return tuple(
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    )


def _first_line(node: _Callable) -> int:
    decorators = [] if isinstance(node, ast.Lambda) else node.decorator_list
    return min([node.lineno, *(d.lineno for d in decorators)])


def _bound(arguments: ast.arguments, nodes: Iterable[ast.AST]) -> Iterator[str]:
    """The names that mean something of the handler's own, nested functions' included."""
    for node in (*ast.walk(arguments), *nodes):
        if isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def _imported(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, str]]:
    """The names that the handler imports itself, with what they stand for."""
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield (alias.asname, alias.name) if alias.asname else (top, top)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _name(found: object) -> str:
    """``module.name`` of what ``_object`` gives, as the standard library documents it."""
    if isinstance(found, ModuleType):
        return found.__name__
    if isinstance(found, FunctionType | type):
        return f"{found.__module__}.{found.__qualname__}"
    if isinstance(found, BuiltinFunctionType | MethodType):
        owner = found.__self__
        if _is_generator(owner):
            return f"random.{found.__name__}"
        if isinstance(owner, type):
            return f"{owner.__module__}.{owner.__qualname__}.{found.__name__}"
        module = str(found.__module__)
        return f"{_SAME_MODULE.get(module, module)}.{found.__qualname__}"
    return "random"  # a generator has the functions of the module


def _is_generator(found: object) -> bool:
    """It is a random.Random: the module's own, or somebody's."""
    mro = type(found).__mro__
    return any((c.__module__, c.__qualname__) == ("random", "Random") for c in mro)


def _is_chance(call: ast.Call, name: str) -> bool:
    """It gives something at random; a generator made from a seed does not."""
    if name == "random.Random":
        return not call.args and not call.keywords
    return _CHANCE.fullmatch(name) is not None


def _of_a_value(function: ast.expr) -> bool:
    """A method of what stands in the same expression: ``"".join``, ``uuid4().hex.upper``."""
    while isinstance(function, ast.Attribute):
        function = function.value
    return isinstance(function, ast.Call | ast.Constant | ast.JoinedStr)


def _is_name(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Name) and node.id == name


def _constants(display: ast.Dict) -> Iterator[str]:
    """The keys that are written out."""
    for key in display.keys:
        if isinstance(key, ast.Constant):
            yield str(key.value)
