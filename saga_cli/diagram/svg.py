"""A picture as SVG: no script, no font and no style from elsewhere, the same in light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape

from saga_cli.diagram.picture import Arrow, Box, Kind, Mark, Picture, Stage

_LETTER = 7.3  # a generous mean width of a letter of 13 px
_LINE = 17
_PAD = 14
_GAP = 56  # between columns
_STACK = 12  # between boxes of a stage
_FRAME = 14  # from a group's boxes to its frame
_TURN = 84  # between the way forward and the way back
_MARGIN = 20
_HEAD = 34  # for the title
_APART = 16  # between two arrows that share a side

_NAMESPACE = "http://www.w3.org/2000/svg"
_HEAD_OF_ARROW = (
    '<marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path d="M0 0 8 4 0 8z" fill="#57606a"/></marker>'
)
_STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #1f2328 }
    .title { font-weight: 600; font-size: 15px }
    .term { fill: #57606a; font-size: 12px }
    .word { fill: #57606a; font-size: 11px }
    .name { font-weight: 600 }
    .box { fill: #ffffff; stroke: #57606a; stroke-width: 1.3 }
    .pivot { stroke-width: 3 }
    .undo { fill: #f6f8fa }
    .frame { fill: none; stroke: #8c959f; stroke-dasharray: 3 3 }
    .way { fill: none; stroke: #57606a; stroke-width: 1.3; marker-end: url(#head) }
    .turn { stroke-dasharray: 2 4 }
    .done { fill: #d8f3e3; stroke: #1b7f4b }
    .running { fill: #d9e8ff; stroke: #1f5fbf; stroke-width: 2.5 }
    .waiting { fill: #fff1cc; stroke: #a86f00; stroke-width: 2.5 }
    .doubt { fill: #efe0ff; stroke: #7a3fc0; stroke-dasharray: 6 3 }
    .undone { fill: #e6e8eb; stroke: #6b7280 }
    .failed { fill: #ffe0de; stroke: #c0271b; stroke-width: 2.5 }
    .skipped { fill: #ffffff; stroke: #9aa1ab; stroke-dasharray: 2 3 }
"""


@dataclass(frozen=True, slots=True)
class _Area:
    x: float
    y: float
    width: float
    height: float

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y + self.height / 2


def svg(picture: Picture) -> str:
    """An SVG document."""
    return _Drawing(picture).document()


@dataclass
class _Drawing:
    picture: Picture
    places: dict[str, _Area] = field(default_factory=dict)  # of stages
    spots: dict[str, _Area] = field(default_factory=dict)  # of boxes
    edge: tuple[float, float] = (
        0,
        0,
    )  # the lower end of the way forward, the upper of the way back
    floor: float = 0  # where arrows to FAILED run
    size: tuple[float, float] = (0, 0)
    taken: dict[tuple[str, str], int] = field(default_factory=dict)  # arrows at a side of a stage

    def __post_init__(self) -> None:
        stages = (*self.picture.forward, *self.picture.back)
        columns = 1 + max(stage.column for stage in stages)
        widths = [
            max(_width(stage) for stage in stages if stage.column == column)
            for column in range(columns)
        ]
        lefts = [_MARGIN + sum(widths[:n]) + n * _GAP for n in range(columns)]
        top = _MARGIN + _HEAD
        high = max(map(_height, self.picture.forward))
        low = max(map(_height, self.picture.back))
        self.edge = (top + high, top + high + _TURN)
        for row, y, height in (
            (self.picture.forward, top, high),
            (self.picture.back, self.edge[1], low),
        ):
            for stage in row:
                self._place(stage, lefts[stage.column], widths[stage.column], y + height / 2)
        to_failed = any(arrow.end == "failed" for arrow in self.picture.arrows)
        self.floor = self.edge[1] + low + (26 if to_failed else 0)
        wide = max(lefts[-1] + widths[-1], _MARGIN + len(self.picture.title) * _LETTER * 1.15)
        self.size = (wide + _MARGIN, self.floor + _MARGIN)

    def _place(self, stage: Stage, left: float, room: float, middle: float) -> None:
        width, height = _width(stage), _height(stage)
        area = _Area(left + (room - width) / 2, middle - height / 2, width, height)
        self.places[stage.id] = area
        inset = _FRAME if stage.title else 0
        y = area.y + inset + (_LINE if stage.title else 0)
        for box in stage.boxes:
            tall = _box_height(box)
            self.spots[box.id] = _Area(area.x + inset, y, width - 2 * inset, tall)
            y += tall + _STACK

    # -- text -------------------------------------------------------------------------

    def document(self) -> str:
        width, height = (round(n) for n in self.size)
        title = escape(self.picture.title)
        size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        return "\n".join(
            [
                f'<svg xmlns="{_NAMESPACE}" {size} role="img" aria-label="{title}">',
                f"  <title>{title}</title>",
                f"  <style>{_STYLE}  </style>",
                f"  {_HEAD_OF_ARROW}",
                f'  <rect width="{width}" height="{height}" fill="#ffffff"/>',
                f'  <text class="title" x="{_MARGIN}" y="{_MARGIN + 14}">{title}</text>',
                *(f"  {line}" for line in self._lines()),
                "</svg>",
            ]
        )

    def _lines(self) -> Iterator[str]:
        for arrow in self.picture.arrows:
            yield from self._arrow(arrow)
        for stage in (*self.picture.forward, *self.picture.back):
            if stage.title:
                area = self.places[stage.id]
                yield _rect(area, "frame", 10)
                yield _words(stage.title, area.x + _FRAME, area.y + _LINE, "term", "start")
            for box in stage.boxes:
                yield from _box(box, self.spots[box.id])

    def _arrow(self, arrow: Arrow) -> Iterator[str]:
        start, end = self.places[arrow.start], self.places[arrow.end]
        if not arrow.dotted:
            y = start.middle[1]
            x, to = (start.right, end.x) if start.x < end.x else (start.x, end.right)
            yield _path([(x, y), (to, y)], "way")
            return
        x = start.middle[0] + self._beside(arrow.start, "below")
        if arrow.end == "failed":
            to = end.middle[0]
            yield _path(
                [(x, start.bottom), (x, self.floor), (to, self.floor), (to, end.bottom)], "way turn"
            )
            yield _words(arrow.text, x + 5, start.bottom + 14, "word", "start")
            return
        straight = end.x < x < end.right
        to = x if straight else end.middle[0] + 1.5 * _APART + self._beside(arrow.end, "above")
        upper, lower = self.edge
        points = [(x, start.bottom), (x, upper + 20), (to, lower - 12), (to, end.y)]
        yield _path(points, "way turn")
        anchor, aside = ("start", 5) if straight else ("end", -5)
        yield _words(arrow.text, x + aside, upper + 14, "word", anchor)

    def _beside(self, stage: str, side: str) -> float:
        """Arrows at one side of a stage, from the middle outwards: right, left."""
        count = self.taken.get((stage, side), 0)
        self.taken[stage, side] = count + 1
        return (count + 1) // 2 * _APART * (1 if count % 2 else -1)


def _width(stage: Stage) -> float:
    inside = 2 * _PAD + _LETTER * max(_letters(box) for box in stage.boxes)
    return (
        max(inside + 2 * _FRAME, len(stage.title) * _LETTER + 2 * _FRAME) if stage.title else inside
    )


def _letters(box: Box) -> float:
    """As wide as so many letters of a line; a name is bold, and that of an end all capitals."""
    name, *rest = box.lines
    wide = 1.3 if box.kind is Kind.END else 1.1
    return max(len(name) * wide, *(len(line) for line in rest), 0)


def _height(stage: Stage) -> float:
    boxes = sum(map(_box_height, stage.boxes)) + _STACK * (len(stage.boxes) - 1)
    return boxes + (2 * _FRAME + _LINE if stage.title else 0)


def _box_height(box: Box) -> float:
    return len(box.lines) * _LINE + 2 * _PAD


def _box(box: Box, area: _Area) -> Iterator[str]:
    mark = {Mark.DOUBT: "doubt"}.get(box.mark, str(box.mark)) if box.mark is not None else ""
    look = f"box {box.kind} {mark}".rstrip()
    yield _rect(area, look, area.height / 2 if box.kind is Kind.END else 6)
    if box.kind is Kind.CHILD:  # a saga of its own
        for x in (area.x + 6, area.right - 6):
            yield f'<path class="{look}" d="M{x:.1f} {area.y:.1f}V{area.bottom:.1f}"/>'
    for n, line in enumerate(box.lines):
        y = area.y + _PAD + _LINE * n + 13
        yield _words(line, area.middle[0], y, "term" if n else "name", "middle")


def _rect(area: _Area, look: str, radius: float) -> str:
    return (
        f'<rect class="{look}" x="{area.x:.1f}" y="{area.y:.1f}" width="{area.width:.1f}" '
        f'height="{area.height:.1f}" rx="{min(radius, 24):.1f}"/>'
    )


def _words(text: str, x: float, y: float, look: str, anchor: str) -> str:
    return (
        f'<text class="{look}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _path(points: list[tuple[float, float]], look: str) -> str:
    return f'<path class="{look}" d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'
