"""A picture as a Mermaid flowchart (https://mermaid.js.org/syntax/flowchart.html)."""

from __future__ import annotations

from collections.abc import Iterator

from saga_cli.diagram.picture import Arrow, Box, Kind, Mark, Picture, Stage

_SHAPES = {
    Kind.END: ('(["', '"])'),
    Kind.STEP: ('["', '"]'),
    Kind.PIVOT: ('{{"', '"}}'),
    Kind.CHILD: ('[["', '"]]'),
    Kind.UNDO: ('("', '")'),
}
_COLOURS = {
    Mark.DONE: "fill:#d8f3e3,stroke:#1b7f4b,color:#0b3d24",
    Mark.RUNNING: "fill:#d9e8ff,stroke:#1f5fbf,color:#0d2c5c",
    Mark.WAITING: "fill:#fff1cc,stroke:#a86f00,color:#4d3300",
    Mark.DOUBT: "fill:#efe0ff,stroke:#7a3fc0,color:#3a1866,stroke-dasharray:5 3",
    Mark.UNDONE: "fill:#e6e8eb,stroke:#6b7280,color:#30343b",
    Mark.FAILED: "fill:#ffe0de,stroke:#c0271b,color:#5c0f09",
    Mark.SKIPPED: "fill:#ffffff,stroke:#9aa1ab,color:#5b616b,stroke-dasharray:2 3",
}
_ENTITIES = str.maketrans({"#": "#35;", "&": "#amp;", '"': "#quot;", "<": "#lt;", ">": "#gt;"})


def mermaid(picture: Picture) -> str:
    """The flowchart's text: forward along the top, back along the bottom."""
    return "\n".join(["flowchart LR", *(f"  {line}" for line in _lines(picture))])


def _lines(picture: Picture) -> Iterator[str]:
    stages = (*picture.forward, *picture.back)
    for stage in stages:
        yield from _stage(stage)
    yield from _arrows(picture.arrows)
    marked = [box for stage in stages for box in stage.boxes if box.mark is not None]
    for mark in Mark:
        ids = [box.id for box in marked if box.mark is mark]
        if ids:
            name = mark.name.lower()
            yield f"classDef {name} {_COLOURS[mark]}"
            yield f"class {','.join(ids)} {name}"


def _stage(stage: Stage) -> Iterator[str]:
    if len(stage.boxes) == 1:
        yield _box(stage.boxes[0])
        return
    yield f'subgraph {stage.id}["{_text(stage.title)}"]'
    yield "  direction TB"
    yield from (f"  {_box(box)}" for box in stage.boxes)
    yield "end"


def _box(box: Box) -> str:
    before, after = _SHAPES[box.kind]
    return f"{box.id}{before}{'<br/>'.join(map(_text, box.lines))}{after}"


def _arrows(arrows: tuple[Arrow, ...]) -> Iterator[str]:
    """Whole ways on one line each, then the turns."""
    way: list[str] = []
    for arrow in arrows:
        if arrow.dotted:
            continue
        if way and way[-1] != arrow.start:
            yield " --> ".join(way)
            way.clear()
        way += [arrow.end] if way else [arrow.start, arrow.end]
    yield " --> ".join(way)
    yield from (f"{a.start} -. {a.text} .-> {a.end}" for a in arrows if a.dotted)


def _text(text: str) -> str:
    """Inside the quotes of a label, which knows entities by its own notation."""
    return text.translate(_ENTITIES)
