"""An engine as tests see it: our own clients, on its URL."""

from __future__ import annotations

import time
from typing import Any

from infra.clients import dynamodb_client, sqs_client
from tests.engines.aids import with_old_item, without_group
from tests.fakes.aws import LocalAws
from tests.fakes.faults import FaultyClient

ACTIVE_SECONDS = 30
NEED_THE_OLD_ITEM = ("dynalite", "roto")
NEED_NO_GROUP = ("roto",)


class ServedAws(LocalAws):
    """A LocalAws behind HTTP."""

    @classmethod
    def at(cls, engine: str, url: str) -> ServedAws:
        """The clients that the functions have."""
        sqs = sqs_client(url)
        if engine in NEED_NO_GROUP:
            without_group(sqs.meta.events)
        return cls(FaultyClient(table_client(engine, url)), FaultyClient(sqs))

    def new_table(self) -> str:
        """See LocalAws. On an engine, as on AWS, a table is there some time after its creation."""
        name = super().new_table()
        ends_at = time.monotonic() + ACTIVE_SECONDS
        while self._status(name) != "ACTIVE":
            assert time.monotonic() < ends_at, f"{name} is not active"
            time.sleep(0.002)
        return name

    def _status(self, table: str) -> str:
        reply = self.dynamodb.wrapped.describe_table(TableName=table)
        return str(reply["Table"]["TableStatus"])


def table_client(engine: str, url: str) -> Any:
    """The functions' client of the table, for this engine or for a proxy in front of it."""
    client = dynamodb_client(url)
    if engine in NEED_THE_OLD_ITEM:
        with_old_item(client.meta.events, dynamodb_client(url))
    return client
