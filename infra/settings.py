"""The one reader of the environment: read once, into one typed value."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from saga_core.errors import SagaError

SAGA_TABLE = "SAGA_TABLE"
SAGA_QUEUE_URL = "SAGA_QUEUE_URL"
SAGA_DEFINITIONS = "SAGA_DEFINITIONS"
SAGA_TENANT_CLAIM = "SAGA_TENANT_CLAIM"
SAGA_STEP_SECONDS = "SAGA_STEP_SECONDS"

# Every variable of our own that template.yaml may set; a test compares.
VARIABLES = frozenset(
    {SAGA_TABLE, SAGA_QUEUE_URL, SAGA_DEFINITIONS, SAGA_TENANT_CLAIM, SAGA_STEP_SECONDS}
)

# What each function cannot do without. A function gets nothing it does not use.
_MOVERS = frozenset({SAGA_TABLE, SAGA_QUEUE_URL, SAGA_DEFINITIONS})
REQUIRED: Mapping[str, frozenset[str]] = {
    "api": _MOVERS,
    "starter": _MOVERS,
    "worker": _MOVERS,
    "dead_letters": _MOVERS,
    "sweeper": frozenset({SAGA_TABLE, SAGA_QUEUE_URL}),
}

DEFAULT_STEP_SECONDS = 20
_MAX_STEP_SECONDS = 890  # Lambda's 900 less what recording a result may take
_SECONDS = re.compile(r"[0-9]{1,3}")
_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})


class SettingsError(SagaError):
    """The function is not configured as it must be; the message names the variables."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a function is told by its environment.

    Attributes:
        table: Name of the saga table. Empty where it was not required.
        queue_url: URL of the work queue. Likewise.
        definitions: ``package.module:NAME[,...]``, for ``infra.registry``. Likewise.
        tenant_claim: Claim of the authoriser that names the tenant. None: one tenant.
        step_ms: The least time that must remain for a step to be started.
        service: Name under which logs and metrics appear.
        namespace: CloudWatch namespace of the metrics.
        log_level: A level of the standard library's logging.
    """

    table: str = ""
    queue_url: str = ""
    definitions: str = ""
    tenant_claim: str | None = None
    step_ms: int = DEFAULT_STEP_SECONDS * 1000
    service: str = "saga"
    namespace: str = "Saga"
    log_level: str = "INFO"

    @classmethod
    def from_environment(
        cls, function: str, environment: Mapping[str, str] | None = None
    ) -> Settings:
        """Read what this function needs from the environment, or from the mapping given.

        Raises:
            SettingsError: With every variable that is missing (an empty one
                is missing) or cannot be read.
        """
        env = os.environ if environment is None else environment
        faults = [f"{name} is not set" for name in sorted(REQUIRED[function]) if not env.get(name)]
        seconds = env.get(SAGA_STEP_SECONDS) or str(DEFAULT_STEP_SECONDS)
        if not _SECONDS.fullmatch(seconds) or not 1 <= int(seconds) <= _MAX_STEP_SECONDS:
            faults.append(
                f"{SAGA_STEP_SECONDS} is not a whole number from 1 to {_MAX_STEP_SECONDS}"
            )
        level = env.get("POWERTOOLS_LOG_LEVEL") or "INFO"
        if level.upper() not in _LEVELS:
            faults.append(f"POWERTOOLS_LOG_LEVEL is not one of {', '.join(sorted(_LEVELS))}")
        if faults:
            raise SettingsError("; ".join(faults))
        return cls(
            table=env.get(SAGA_TABLE, ""),
            queue_url=env.get(SAGA_QUEUE_URL, ""),
            definitions=env.get(SAGA_DEFINITIONS, ""),
            tenant_claim=env.get(SAGA_TENANT_CLAIM) or None,
            step_ms=int(seconds) * 1000,
            service=env.get("POWERTOOLS_SERVICE_NAME") or "saga",
            namespace=env.get("POWERTOOLS_METRICS_NAMESPACE") or "Saga",
            log_level=level.upper(),
        )


def in_lambda() -> bool:
    """This process is a Lambda function."""
    return "AWS_LAMBDA_FUNCTION_NAME" in os.environ
