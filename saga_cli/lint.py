"""``saga lint``: what is wrong with saga definitions, with rule numbers."""

from __future__ import annotations

import argparse
import json
import os
import re
from dataclasses import asdict, dataclass

from infra.registry import load_definitions
from saga_cli.main import EXAMPLES
from saga_cli.problems import Exit
from saga_core.definition import Severity, lint
from saga_core.errors import DefinitionError

# A DefinitionError lists its findings in its text: `SAGA003 step x: ...; SAGA004 ...`.
_FINDING = re.compile(
    r"(?P<rule>SAGA\d{3}) (?:step (?P<step>[\w.-]+): )?(?P<message>.*?)(?=; SAGA\d{3} |$)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing to say about one definition. ``rule`` is empty where none applies."""

    definition: str
    severity: str
    rule: str = ""
    step: str | None = None
    message: str

    def __str__(self) -> str:
        step = f"step {self.step}: " if self.step else ""
        rule = f"{self.rule} " if self.rule else ""
        return f"{self.definition}: {self.severity}: {rule}{step}{self.message}"


def run(args: argparse.Namespace) -> int:
    """Check every definition; errors give exit status 1."""
    setting: str = args.definitions or os.environ.get("SAGA_DEFINITIONS") or EXAMPLES
    checked, lines = check(setting)
    errors = sum(1 for line in lines if line.severity == Severity.ERROR)
    warnings = len(lines) - errors
    if args.json:
        report = {
            "definitions": checked,
            "findings": [asdict(line) for line in lines],
            "errors": errors,
            "warnings": warnings,
        }
        print(json.dumps(report, indent=2))
    else:
        for line in lines:
            print(line)
        print(f"checked {', '.join(checked) or 'nothing'}: {errors} errors, {warnings} warnings")
    return Exit.NO if errors else Exit.OK


def check(setting: str) -> tuple[list[str], list[Line]]:
    """What could be built of a SAGA_DEFINITIONS, and everything there is to say about it."""
    checked: list[str] = []
    lines: list[Line] = []
    for part in setting.split(","):
        try:
            definitions = load_definitions(part).all
        except DefinitionError as exc:
            lines += _refused(part.strip(), str(exc))
            continue
        for definition in definitions:
            checked.append(definition.ref)
            lines += [
                Line(
                    definition=part.strip(),
                    severity=found.severity.value,
                    rule=found.rule,
                    step=found.step,
                    message=found.message,
                )
                for found in lint(definition)
            ]
    if not lines:
        lines += _together(setting)
    return checked, lines


def _refused(part: str, text: str) -> list[Line]:
    """The findings in the text of a DefinitionError, or the text itself."""
    error = Severity.ERROR.value
    found = [
        Line(definition=part, severity=error, **match.groupdict())
        for match in _FINDING.finditer(text)
    ]
    return found or [Line(definition=part, severity=error, message=text)]


def _together(setting: str) -> list[Line]:
    """What is only wrong when all of them are deployed at once."""
    try:
        load_definitions(setting)
    except DefinitionError as exc:
        return _refused(setting, str(exc))
    return []
