"""How hard Hypothesis looks: HYPOTHESIS_PROFILE=deep for a long run."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, Phase, settings

# Found cases become named examples, so neither profile keeps a database of them.
settings.register_profile(
    "quick",
    max_examples=40,
    stateful_step_count=40,
    derandomize=True,  # what failed here fails there
    phases=[Phase.explicit, Phase.generate],  # making a case small can take minutes: deep does it
    deadline=None,
    database=None,
)
settings.register_profile(
    "deep",
    max_examples=3_000,
    stateful_step_count=80,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "quick"))
