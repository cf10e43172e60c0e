"""What ``saga local --data FOLDER`` keeps between two runs: items and messages, in one file.

Written about once a second while something changes, and at the end; whole or not at
all. A run that is killed loses the last second: to a saga that is a crash with old
news, and it takes an attempt again under the key that it had.
"""

from __future__ import annotations

import fcntl
import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from saga_cli.local.moto_as_aws import letters_of, put_back
from saga_cli.local.template import QUEUE, TABLE, Template
from saga_cli.problems import CommandError, Exit

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

LAYOUT = 1
_BYTES = "base64"


class Keeper:
    """Keeps the tables and queues of a template in a folder.

    Args:
        folder: Made when it is not there.
    """

    def __init__(self, folder: Path, template: Template, dynamodb: DynamoDBClient) -> None:
        self._file = folder / "state.json"
        self._template = template
        self._dynamodb = dynamodb
        self._kept: str | None = None
        self._held: IO[str]

    def restore(self) -> None:
        """Put back what the run before left; nothing, if there was none.

        Raises:
            CommandError: The folder cannot be used, or another runtime uses it;
                the file cannot be read, or another release wrote it.
        """
        self._lock()
        try:
            self._restore()
        except BaseException:
            self.release()
            raise

    def _restore(self) -> None:
        try:
            kept = json.loads(self._file.read_text(), object_hook=_bytes)
        except FileNotFoundError:
            return
        except (OSError, ValueError) as exc:
            raise CommandError(Exit.USAGE, f"{self._file}: {exc}; delete it to begin anew") from exc
        if kept.get("layout") != LAYOUT:
            raise CommandError(Exit.USAGE, f"{self._file}: of another release; delete it")
        for table, items in kept["tables"].items():
            for item in items:
                self._dynamodb.put_item(TableName=self._template.name_of(table), Item=item)
        for queue, letters in kept["queues"].items():
            put_back(self._template.name_of(queue), letters)

    def keep(self) -> None:
        """Write what is there now, if it is not what was written last."""
        # The messages first: one that is older than its saga brings it on, a newer one may not.
        queues = {q: letters_of(self._template.name_of(q)) for q in self._template.resources(QUEUE)}
        tables = {t: list(self._items(t)) for t in self._template.resources(TABLE)}
        state = {"layout": LAYOUT, "tables": tables, "queues": queues}
        text = json.dumps(state, default=_text)
        if text == self._kept:
            return
        draft = self._file.with_suffix(".draft")
        draft.write_text(text)
        draft.replace(self._file)
        self._kept = text

    def _lock(self) -> None:
        """One runtime at a time: two would overwrite each other. The lock ends with the process."""
        folder = self._file.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._held = (folder / "lock").open("w")
        except OSError as exc:
            raise CommandError(Exit.USAGE, f"{folder}: {exc.strerror}") from exc
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            self._held.close()
            text = f"{folder} is in use by another `saga local`; give this one a folder of its own"
            raise CommandError(Exit.UNAVAILABLE, text) from exc

    def release(self) -> None:
        """Let another runtime have the folder."""
        self._held.close()

    def _items(self, table: str) -> Iterator[dict[str, Any]]:
        pages = self._dynamodb.get_paginator("scan")
        for page in pages.paginate(TableName=self._template.name_of(table), ConsistentRead=True):
            yield from page["Items"]


def _text(value: object) -> dict[str, str]:
    if isinstance(value, bytes):
        return {_BYTES: b64encode(value).decode()}
    raise TypeError(f"{type(value).__name__} in an item")


def _bytes(node: dict[str, Any]) -> Any:
    return b64decode(node[_BYTES]) if node.keys() == {_BYTES} else node
