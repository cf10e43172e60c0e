"""Lines and metrics by way of Powertools: JSON logs, and metrics in the same stream (EMF).

No tracer: it costs half a second of cold start, and Lambda and SQS carry the
trace header by themselves.
"""

from __future__ import annotations

from collections.abc import Mapping

from aws_lambda_powertools import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics

_UNITS = (
    ("Ms", "Milliseconds"),
    ("Bytes", "Bytes"),
    ("Percent", "Percent"),
    ("Lag", "Seconds"),
)


class PowertoolsSink:
    """The Sink of the deployed functions."""

    def __init__(self, *, service: str, namespace: str, level: str) -> None:
        self._service = service
        self._namespace = namespace
        self._logger = Logger(service=service, level=level)

    def line(self, level: str, message: str, fields: Mapping[str, object]) -> None:
        """See Sink."""
        getattr(self._logger, level.lower())(message, extra=dict(fields))

    def count(self, saga: str | None, metrics: Mapping[str, float]) -> None:
        """See Sink. Every number stands under the service alone, for the alarms, too."""
        emf = EphemeralMetrics(namespace=self._namespace, service=self._service)
        emf.add_dimension("service", self._service)
        if saga is not None:
            emf.add_dimensions(service=self._service, saga=saga)
        for name, value in metrics.items():
            unit = next((u for suffix, u in _UNITS if name.endswith(suffix)), "Count")
            emf.add_metric(name, unit, value)
        emf.flush_metrics()
