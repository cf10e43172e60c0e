"""``saga diagram``: the pictures of what the command line names."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from infra.registry import load_definitions
from saga_cli.connect import connect
from saga_cli.diagram.mermaid import mermaid
from saga_cli.diagram.picture import Picture, picture
from saga_cli.diagram.svg import svg
from saga_cli.operate import find
from saga_cli.problems import CommandError, Exit
from saga_core.errors import DefinitionError

FORMATS: dict[str, Callable[[Picture], str]] = {"mermaid": mermaid, "svg": svg}


def run(args: argparse.Namespace) -> int:
    """Print each saga that the argument names, or one that runs."""
    try:
        registry = load_definitions(args.definitions)
    except DefinitionError as exc:
        raise CommandError(Exit.NO, str(exc)) from exc
    render = FORMATS[args.format]
    if args.id is None:
        drawn = {d.ref: render(picture(d)) for d in registry.all}
    else:
        saga = find(connect(args), args)
        definition = registry.by_ref(saga.definition)
        if definition is None:
            raise CommandError(
                Exit.NOT_ALLOWED,
                f"saga {saga.id} runs {saga.definition}, which {args.definitions} is not",
            )
        drawn = {definition.ref: render(picture(definition, saga))}
    if args.json:
        print(json.dumps([{"definition": ref, args.format: text} for ref, text in drawn.items()]))
    elif args.format == "svg" and len(drawn) > 1:
        raise CommandError(Exit.USAGE, "an SVG document holds one saga: name one")
    else:
        print("\n\n".join(drawn.values()))
    return Exit.OK
