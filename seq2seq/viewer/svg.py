"""SVG as text: boxes, arrows, and shapes of tensors, readable in light and dark."""

from collections.abc import Sequence
from html import escape

from seq2seq.utils import printable

Shapes = dict[str, tuple[int, ...]]
Line = str | tuple[str, str]  # text, or a name and the key of the shape beside it
LINE = 20  # from one line of text to the next
PADDING = 6  # of a box, above and below its lines
# Every rule is for this picture alone: the style of an SVG within a page is that of the page.
STYLE = """
.whole-model { --page: #ffffff; --panel: #f5f6f8; --text: #1b1e23; --soft: #5c636e; --blue: #0072b2;
  font: 13px system-ui, sans-serif; }
@media (prefers-color-scheme: dark) { .whole-model { --page: #14171b; --panel: #1d2127;
  --text: #e9ebee; --soft: #a2a9b4; --blue: #62b8f0; } }
.whole-model text { fill: var(--text); }
.whole-model text.code, .whole-model text.name { font-family: ui-monospace, monospace; }
.whole-model text.name { font-weight: 700; }
.whole-model text.soft { fill: var(--soft); }
.whole-model text.end { text-anchor: end; }
.whole-model text.middle { text-anchor: middle; }
.whole-model .page { fill: var(--page); }
.whole-model .box { fill: var(--panel); stroke: var(--soft); }
.whole-model .attention { fill: var(--panel); stroke: var(--blue); stroke-width: 2; }
.whole-model .frame { fill: none; stroke: var(--soft); stroke-dasharray: 6 4; }
.whole-model .line { fill: none; stroke: var(--text); stroke-width: 1.5; }
.whole-model circle.line { fill: var(--page); }
.whole-model .head { fill: var(--text); }
"""


class Drawing:
    """The elements of a picture that shows some of ``shapes``."""

    def __init__(self, shapes: Shapes, width: int) -> None:
        self.shapes, self.width = shapes, width
        self.elements: list[str] = []

    def text(self, x: float, y: float, text: str, style: str = "", of: str = "") -> None:
        """Text whose middle has the height ``y``, and the shape of what is called ``of``."""
        text = escape(printable(text))
        if of:
            numbers = " × ".join(f"{n:,}" for n in self.shapes[of])
            text += f'<tspan data-of="{escape(of)}">{numbers}</tspan>'
        self.elements.append(f'<text class="{style}" x="{x:g}" y="{y + 4.5:g}">{text}</text>')

    def rectangle(self, x: float, y: float, width: float, height: float, style: str) -> None:
        where = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
        self.elements.append(f'<rect class="{style}" {where} rx="6"/>')

    def line(self, *points: tuple[float, float]) -> None:
        where = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.elements.append(f'<polyline class="line" points="{where}"/>')

    def arrow(self, *points: tuple[float, float]) -> None:
        """A line whose last piece, horizontal or vertical, ends in an arrowhead."""
        self.line(*points)
        (x0, y0), (x, y) = points[-2:]
        dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
        left = f"{x - 8 * dx + 4 * dy:g},{y - 8 * dy + 4 * dx:g}"
        right = f"{x - 8 * dx - 4 * dy:g},{y - 8 * dy - 4 * dx:g}"
        self.elements.append(f'<polygon class="head" points="{x:g},{y:g} {left} {right}"/>')

    def plus(self, x: float, y: float) -> None:
        self.elements.append(f'<circle class="line" cx="{x:g}" cy="{y:g}" r="9"/>')
        self.line((x - 5, y), (x + 5, y))
        self.line((x, y - 5), (x, y + 5))

    def box(
        self, x: float, y: float, width: float, lines: Sequence[Line], style: str = "box"
    ) -> list[float]:
        """A box from ``y`` down, its first line a title; returns the height of each line."""
        self.rectangle(x, y, width, LINE * len(lines) + 2 * PADDING, style)
        heights = [y + PADDING + LINE * (i + 0.5) for i in range(len(lines))]
        for i, (height, line) in enumerate(zip(heights, lines, strict=True)):
            if isinstance(line, str):
                self.text(x + 12, height, line, "soft" if i else "name")
            else:
                self.text(x + 12, height, line[0], "code")
                self.text(x + width - 12, height, "", "code end", line[1])
        return heights

    def svg(self, height: float, name: str) -> str:
        size = f'width="{self.width}" height="{height:g}" viewBox="0 0 {self.width} {height:g}"'
        about = f'class="whole-model" role="group" aria-label="{escape(name)}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {about} {size}>\n<style>{STYLE}</style>'
        background = f'<rect class="page" width="{self.width}" height="{height:g}"/>'
        return "\n".join([head, background, *self.elements, "</svg>\n"])
