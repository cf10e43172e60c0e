"""The ``saga`` command: demo, local runtime, operator commands, lint and diagrams."""
