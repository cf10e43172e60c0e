# ruff: noqa: N803 - the parameters are called what botocore calls them
"""A DynamoDB table in memory, behind the methods of botocore's client that the store uses.

It evaluates the very expressions that the store sends. Beyond what a table does:
reads that need not be consistent lag behind by as much as is asked for, batches
leave keys unprocessed, every write is shown to a hook with what was there before
and after, and calls are counted. Throttling, lost answers and crashes are not
its business: whoever drives it wraps it.

Where the guides leave a choice, it makes the unpleasant one: a page that is full
says that there may be more even if there is not, and an index shows what was.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from infra.schema import (
    LIST_HASH,
    LIST_INDEX,
    LIST_RANGE,
    PK,
    SK,
    WORK_HASH,
    WORK_INDEX,
    WORK_RANGE,
)
from tests.simulation.aws_errors import RefusedError, ValidationError, client_error
from tests.simulation.expressions import (
    Attribute,
    Condition,
    ConditionText,
    Literal,
    Names,
    Test,
    UpdateText,
    condition_text,
    update_text,
)
from tests.simulation.values import ITEM_LIMIT, Item, Value, given_out, item_copy, item_size, rank

Reply: TypeAlias = dict[str, Any]
KeyOf: TypeAlias = tuple[object, ...]  # the values of the key attributes

PAGE_BYTES = 1024 * 1024  # of one Query
BATCH_KEYS = 100  # of one BatchGetItem
BATCH_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeySchema:
    """The attributes that a table or an index is ordered by, with their types."""

    hash: tuple[str, str]
    range: tuple[str, str]
    index: str | None = None

    @property
    def attributes(self) -> tuple[tuple[str, str], ...]:
        """Names and types, the hash first."""
        return (self.hash, self.range)


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A table with its global secondary indexes, which project keys only."""

    name: str
    key: KeySchema
    indexes: Mapping[str, KeySchema] = field(default_factory=dict)


def saga_table(name: str) -> TableSchema:
    """The table of sagas, as ``infra.schema`` names its parts."""
    work = KeySchema((WORK_HASH, "S"), (WORK_RANGE, "N"), WORK_INDEX)
    listed = KeySchema((LIST_HASH, "S"), (LIST_RANGE, "S"), LIST_INDEX)
    indexes = {WORK_INDEX: work, LIST_INDEX: listed}
    return TableSchema(name, KeySchema((PK, "S"), (SK, "S")), indexes)


@dataclass(frozen=True, slots=True)
class Write:
    """One write that took effect. The items are the table's own: look, do not touch."""

    operation: str
    table: str
    at: int
    before: Item | None
    after: Item | None


@dataclass(slots=True)
class _Row:
    """Every version of one item, and since when it has been so."""

    since: list[int] = field(default_factory=list)
    items: list[Item | None] = field(default_factory=list)

    def newest(self) -> Item | None:
        return self.items[-1] if self.items else None

    def as_of(self, at: int) -> Item | None:
        n = bisect_right(self.since, at)
        return self.items[n - 1] if n else None


class FakeDynamo:
    """Tables, and the client to them.

    Args:
        tables: What exists.
        now: The true time in milliseconds.
        lag: Milliseconds by which the next read that is not consistent lags
            behind; every read of an index is such a read.
        unprocessed: How many of so many keys the next BatchGetItem leaves out.
        on_write: Is shown every write, after it.

    Attributes:
        calls: How often each operation was called, refused calls included.
        refused: How often each was answered with which error code.
    """

    def __init__(
        self,
        *tables: TableSchema,
        now: Callable[[], int],
        lag: Callable[[], int] = lambda: 0,
        unprocessed: Callable[[int], int] = lambda _asked: 0,
        on_write: Callable[[Write], object] = lambda _write: None,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()
        self._schemas = {t.name: t for t in tables}
        self._rows: dict[str, dict[KeyOf, _Row]] = {t.name: {} for t in tables}
        self._now = now
        self._lag = lag
        self._unprocessed = unprocessed
        self._on_write = on_write

    # -- writes -------------------------------------------------------------------

    def put_item(
        self,
        *,
        TableName: str,
        Item: Item,
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: dict[str, str] | None = None,
        ExpressionAttributeValues: Item | None = None,
        ReturnValues: str = "NONE",
        ReturnValuesOnConditionCheckFailure: str = "NONE",
    ) -> Reply:
        """Replace an item, or make one."""
        with self._operation("PutItem"):
            schema = self._schema(TableName)
            item = item_copy(Item)
            request = _Expressions.of(ExpressionAttributeNames, ExpressionAttributeValues)
            condition = request.condition(ConditionExpression)
            request.check("ConditionExpression", condition)
            _check_key(schema.key, item, exact=False)
            _check_index_keys(schema, item)
            if item_size(item) > ITEM_LIMIT:
                raise ValidationError("Item size has exceeded the maximum allowed size")
            row = self._row(schema, item)
            before = row.newest()
            _check_condition(condition, before, request, ReturnValuesOnConditionCheckFailure)
            self._write("PutItem", schema.name, row, item)
            reply = _reply()
            if ReturnValues == "ALL_OLD" and before is not None:
                reply["Attributes"] = given_out(before)
            elif ReturnValues not in ("NONE", "ALL_OLD"):
                raise ValidationError("Return values set to invalid value")
            return reply

    def update_item(
        self,
        *,
        TableName: str,
        Key: Item,
        UpdateExpression: str,
        ConditionExpression: str | None = None,
        ExpressionAttributeNames: dict[str, str] | None = None,
        ExpressionAttributeValues: Item | None = None,
        ReturnValues: str = "NONE",
        ReturnValuesOnConditionCheckFailure: str = "NONE",
    ) -> Reply:
        """Change an item, or make one."""
        with self._operation("UpdateItem"):
            schema = self._schema(TableName)
            key = item_copy(Key)
            request = _Expressions.of(ExpressionAttributeNames, ExpressionAttributeValues)
            update = update_text(UpdateExpression, request.names)
            condition = request.condition(ConditionExpression)
            request.check("UpdateExpression and ConditionExpression", update, condition)
            _check_key(schema.key, key, exact=True)
            for name, _ in schema.key.attributes:
                if name in update.attributes:
                    raise ValidationError(
                        "One or more parameter values were invalid: Cannot update attribute"
                        f" {name}. This attribute is part of the key"
                    )
            row = self._row(schema, key)
            before = row.newest()
            _check_condition(condition, before, request, ReturnValuesOnConditionCheckFailure)
            after = update.apply(before or {}, request.values, key)
            _check_index_keys(schema, after)
            if item_size(after) > ITEM_LIMIT:
                raise ValidationError("Item size to update has exceeded the maximum allowed size")
            self._write("UpdateItem", schema.name, row, after)
            reply = _reply()
            if ReturnValues == "ALL_NEW":
                reply["Attributes"] = given_out(after)
            elif ReturnValues == "ALL_OLD" and before is not None:
                reply["Attributes"] = given_out(before)
            elif ReturnValues not in ("NONE", "ALL_OLD"):
                raise NotImplementedError(f"ReturnValues={ReturnValues} is not modelled")
            return reply

    # -- reads --------------------------------------------------------------------

    def get_item(self, *, TableName: str, Key: Item, ConsistentRead: bool = False) -> Reply:
        """One item by its key."""
        with self._operation("GetItem"):
            schema = self._schema(TableName)
            found = self._read(schema, Key, self._as_of(ConsistentRead))
            return _reply() if found is None else _reply(Item=given_out(found))

    def batch_get_item(self, *, RequestItems: Mapping[str, Mapping[str, Any]]) -> Reply:
        """Items by their keys, as many as DynamoDB feels like; in no order."""
        with self._operation("BatchGetItem"):
            asked = sum(len(request["Keys"]) for request in RequestItems.values())
            if not asked or asked > BATCH_KEYS:
                raise ValidationError("Too many items requested for the BatchGetItem call")
            leave = min(self._unprocessed(asked), asked)
            taken = size = 0
            responses: dict[str, list[Item]] = {}
            left: dict[str, Reply] = {}
            for name, request in RequestItems.items():
                schema = self._schema(name)
                keys: Sequence[Item] = request["Keys"]
                if len({self._key(schema, item_copy(key)) for key in keys}) != len(keys):
                    raise ValidationError("Provided list of item keys contains duplicates")
                at = self._as_of(request.get("ConsistentRead", False))
                responses[name] = []
                for key in keys:
                    found = self._read(schema, key, at)
                    size += 0 if found is None else item_size(found)
                    if taken >= asked - leave or size > BATCH_BYTES:
                        rest = left.setdefault(name, {**request, "Keys": []})
                        rest["Keys"].append(item_copy(key))
                        continue
                    taken += 1
                    if found is not None:
                        responses[name].insert(0, given_out(found))
            return _reply(Responses=responses, UnprocessedKeys=left)

    def query(
        self,
        *,
        TableName: str,
        KeyConditionExpression: str,
        IndexName: str | None = None,
        ExpressionAttributeNames: dict[str, str] | None = None,
        ExpressionAttributeValues: Item | None = None,
        ScanIndexForward: bool = True,
        ConsistentRead: bool = False,
        Limit: int | None = None,
        ExclusiveStartKey: Item | None = None,
    ) -> Reply:
        """One page of one partition, of the table or of an index."""
        with self._operation("Query"):
            schema = self._schema(TableName)
            place = _place(schema, IndexName)
            if place.index is not None and ConsistentRead:
                raise ValidationError(
                    "Consistent reads are not supported on global secondary indexes"
                )
            if Limit is not None and Limit < 1:
                raise ValidationError("Limit must be greater than or equal to 1")
            request = _Expressions.of(ExpressionAttributeNames, ExpressionAttributeValues)
            condition = condition_text(
                "KeyConditionExpression", KeyConditionExpression, request.names
            )
            request.check("KeyConditionExpression", condition)
            _check_key_condition(place, condition.tree, request.values)
            start = None
            if ExclusiveStartKey is not None:
                start = item_copy(ExclusiveStartKey)
                _check_start(schema, place, start)
                if not condition.holds(start, request.values):
                    raise ValidationError(
                        "The provided starting key is outside query boundaries based on provided"
                        " conditions"
                    )
            at = self._as_of(ConsistentRead)
            found = self._in_order(schema, place, at, forward=ScanIndexForward)
            page, more = _page(
                (i for i in found if condition.holds(i, request.values)),
                Limit,
                None if start is None else _order(schema, place, start),
                lambda item: _order(schema, place, item),
                forward=ScanIndexForward,
            )
            keys = _key_names(schema, place)
            items = [_only(keys, i) if place.index is not None else i for i in page]
            reply = _reply(
                Items=[given_out(i) for i in items], Count=len(items), ScannedCount=len(items)
            )
            if more:
                reply["LastEvaluatedKey"] = given_out(_only(keys, page[-1]))
            return reply

    # -- what the world does --------------------------------------------------------

    def items(self, table: str) -> list[Item]:
        """What is stored now. The table's own items: look, do not touch."""
        newest = (row.newest() for row in self._rows[table].values())
        return [item for item in newest if item is not None]

    def history(self, table: str) -> Iterator[Item]:
        """Every item that was ever stored, item by item, oldest first. Look, do not touch."""
        for row in self._rows[table].values():
            yield from (item for item in row.items if item is not None)

    def delete_expired(self, table: str, attribute: str) -> int:
        """Have the time to live delete what has expired; how many items that were."""
        now_s = self._now() // 1000
        gone = 0
        for row in self._rows[table].values():
            item = row.newest()
            if item is not None and attribute in item and int(item[attribute]["N"]) < now_s:
                self._write("TimeToLive", table, row, None)
                gone += 1
        return gone

    def restore(self, table: str, at: int) -> None:
        """Have every item be again what it was then, as a point-in-time restore does."""
        for row in self._rows[table].values():
            then = row.as_of(at)
            if then is not row.newest():
                self._write("Restore", table, row, then)

    # -- parts ----------------------------------------------------------------------

    @contextmanager
    def _operation(self, operation: str) -> Iterator[None]:
        self.calls[operation] += 1
        try:
            yield
        except RefusedError as exc:
            self.refused[operation, exc.code] += 1
            raise client_error(operation, exc.code, str(exc), **exc.members) from None

    def _schema(self, name: str) -> TableSchema:
        if name not in self._schemas:
            raise RefusedError("ResourceNotFoundException", "Requested resource not found")
        return self._schemas[name]

    def _key(self, schema: TableSchema, item: Item) -> KeyOf:
        return tuple(rank(item[name]) for name, _ in schema.key.attributes)

    def _row(self, schema: TableSchema, item: Item) -> _Row:
        return self._rows[schema.name].setdefault(self._key(schema, item), _Row())

    def _as_of(self, consistent: bool) -> int | None:  # noqa: FBT001 - DynamoDB's own parameter
        """The time whose state is read; None is now, whatever has happened at this instant."""
        lag = 0 if consistent else self._lag()
        return self._now() - lag if lag > 0 else None

    def _read(self, schema: TableSchema, key: Item, at: int | None) -> Item | None:
        copy = item_copy(key)
        _check_key(schema.key, copy, exact=True)
        row = self._rows[schema.name].get(self._key(schema, copy))
        if row is None:
            return None
        return row.newest() if at is None else row.as_of(at)

    def _in_order(
        self, schema: TableSchema, place: KeySchema, at: int | None, *, forward: bool
    ) -> list[Item]:
        """What stands in the table or index, as of then."""
        rows = self._rows[schema.name].values()
        found = (row.newest() if at is None else row.as_of(at) for row in rows)
        names = [name for name, _ in place.attributes]
        there = [i for i in found if i is not None and all(name in i for name in names)]
        return sorted(there, key=lambda i: _order(schema, place, i), reverse=not forward)

    def _write(self, operation: str, table: str, row: _Row, after: Item | None) -> None:
        before, now = row.newest(), self._now()
        row.since.append(now)
        row.items.append(after)
        self._on_write(Write(operation, table, now, before, after))


# -- requests -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Expressions:
    """The names and values of one request."""

    names: Names
    values: Item
    given: bool

    @classmethod
    def of(cls, names: dict[str, str] | None, values: Item | None) -> _Expressions:
        for what, map_ in (("Names", names), ("Values", values)):
            if map_ is not None and not map_:
                raise ValidationError(f"ExpressionAttribute{what} must not be empty")
        return cls(
            tuple((names or {}).items()),
            item_copy(values or {}),
            names is not None or values is not None,
        )

    def condition(self, text: str | None) -> ConditionText | None:
        if text is None:
            return None
        return condition_text("ConditionExpression", text, self.names)

    def check(self, kinds: str, *texts: ConditionText | UpdateText | None) -> None:
        """Names and values are those that the expressions use, no less and no more."""
        used = [t for t in texts if t is not None]
        if self.given and not used:
            raise ValidationError(
                "ExpressionAttributeNames and ExpressionAttributeValues can only be specified when"
                f" using expressions: {kinds} is null"
            )
        used_values: set[str] = set().union(*(t.values for t in used))
        for name in used_values - self.values.keys():
            raise ValidationError(
                f"Invalid {kinds}: An expression attribute value used in expression is not"
                f" defined; attribute value: {name}"
            )
        used_names: set[str] = set().union(*(t.names for t in used))
        for what, given, wanted in (
            ("Names", {name for name, _ in self.names}, used_names),
            ("Values", set(self.values), used_values),
        ):
            if given - wanted:
                unused = ", ".join(sorted(given - wanted))
                raise ValidationError(
                    f"Value provided in ExpressionAttribute{what} unused in expressions:"
                    f" keys: {{{unused}}}"
                )
        for text in used:
            for check in text.checks:
                check(self.values)


def _check_condition(
    condition: ConditionText | None, before: Item | None, request: _Expressions, on_failure: str
) -> None:
    if condition is None or condition.holds(before or {}, request.values):
        return
    members = {}
    if on_failure == "ALL_OLD" and before is not None:
        members["Item"] = given_out(before)
    raise RefusedError(
        "ConditionalCheckFailedException", "The conditional request failed", **members
    )


def _reply(**members: object) -> Reply:
    return {"ResponseMetadata": {"HTTPStatusCode": 200, "RetryAttempts": 0}, **members}


# -- keys ---------------------------------------------------------------------------


def _check_key(schema: KeySchema, item: Item, *, exact: bool) -> None:
    """The item has the table's key, and besides it nothing if it is to be just a key."""
    for name, tag in schema.attributes:
        if name not in item or tag not in item[name]:
            raise ValidationError(
                "The provided key element does not match the schema"
                if exact
                else f"One or more parameter values were invalid: Missing the key {name} in the"
                f" item, or it is not of type {tag}"
            )
        _check_not_empty(name, item[name])
    if exact and len(item) != len(schema.attributes):
        raise ValidationError("The provided key element does not match the schema")


def _check_index_keys(schema: TableSchema, item: Item) -> None:
    """An index key of a wrong type is refused; an absent one only keeps the item out."""
    for index in schema.indexes.values():
        for name, tag in index.attributes:
            if name not in item:
                continue
            if tag not in item[name]:
                raise ValidationError(
                    "One or more parameter values were invalid: Type mismatch for Index Key"
                    f" {name} Expected: {tag} Actual: {next(iter(item[name]))}"
                    f" IndexName: {index.index}"
                )
            _check_not_empty(name, item[name])


def _check_not_empty(name: str, value: Value) -> None:
    if value.get("S") == "" or value.get("B") == b"":
        raise ValidationError(
            "One or more parameter values are not valid. The AttributeValue for a key attribute"
            f" cannot contain an empty string value. Key: {name}"
        )


def _place(schema: TableSchema, index: str | None) -> KeySchema:
    if index is None:
        return schema.key
    if index not in schema.indexes:
        raise ValidationError(f"The table does not have the specified index: {index}")
    return schema.indexes[index]


def _key_names(schema: TableSchema, place: KeySchema) -> tuple[str, ...]:
    """Attributes of a key of this table or index, which holds the table's key, too."""
    names = [name for name, _ in (*place.attributes, *schema.key.attributes)]
    return tuple(dict.fromkeys(names))


def _only(names: Sequence[str], item: Item) -> Item:
    return {name: item[name] for name in names}


def _order(schema: TableSchema, place: KeySchema, item: Item) -> tuple[Any, ...]:
    """By the range key; AWS leaves the order of equals open, here it is that of the table's key."""
    names = (place.range[0], *(name for name, _ in schema.key.attributes))
    return tuple(rank(item[name]) for name in names)


def _check_start(schema: TableSchema, place: KeySchema, start: Item) -> None:
    types = dict((*place.attributes, *schema.key.attributes))
    if start.keys() != types.keys() or any(tag not in start[name] for name, tag in types.items()):
        raise ValidationError("The provided starting key is invalid")


def _page(
    found: Iterator[Item],
    limit: int | None,
    start: tuple[Any, ...] | None,
    order: Callable[[Item], tuple[Any, ...]],
    *,
    forward: bool,
) -> tuple[list[Item], bool]:
    """The items behind the start up to the limit, and whether there may be more."""
    page: list[Item] = []
    size = 0
    for item in found:
        if start is not None and (order(item) <= start if forward else order(item) >= start):
            continue
        if page and size >= PAGE_BYTES:
            return page, True
        page.append(item)
        size += item_size(item)
        if len(page) == limit:
            return page, True  # AWS does not look whether another one follows
    return page, False


# -- key conditions -----------------------------------------------------------------


def _check_key_condition(place: KeySchema, tree: Condition, values: Mapping[str, Value]) -> None:
    """``hash = :a``, and if wanted one condition on the range key."""
    found: dict[str, Test] = {}
    for test in _tests(tree):
        first, *rest = test.args
        if not isinstance(first, Attribute) or not all(isinstance(a, Literal) for a in rest):
            raise NotImplementedError("a key condition whose attribute does not stand first")
        (name, *deeper) = first.path
        if deeper:
            raise ValidationError(
                "KeyConditionExpressions cannot have conditions on nested attributes"
            )
        if test.op in ("<>", "IN", "attribute_exists", "attribute_not_exists"):
            raise ValidationError(f"Invalid operator used in KeyConditionExpression: {test.op}")
        if name in found:
            raise ValidationError("KeyConditionExpressions must only contain one condition per key")
        found[str(name)] = test
    (hash_name, _), (range_name, _) = place.attributes
    if hash_name not in found:
        raise ValidationError(f"Query condition missed key schema element: {hash_name}")
    if found[hash_name].op != "=":
        raise ValidationError("Query key condition not supported")
    if found.keys() - {hash_name, range_name}:
        raise ValidationError(f"Query condition missed key schema element: {range_name}")
    for name, tag in place.attributes:
        for literal in found[name].args[1:] if name in found else ():
            value = values[literal.name] if isinstance(literal, Literal) else {}
            if tag not in value:
                raise ValidationError(
                    "One or more parameter values were invalid: Condition parameter type does not"
                    " match schema type"
                )
            _check_not_empty(name, value)


def _tests(tree: Condition) -> Iterator[Test]:
    if isinstance(tree, Test):
        yield tree
    elif tree.op == "AND":
        for part in tree.parts:
            yield from _tests(part)
    else:
        raise ValidationError(f"Invalid operator used in KeyConditionExpression: {tree.op}")
