"""The whole model as a picture (SVG), with the shapes that one sentence's tensors have in it.

The encoder is on the left, the decoder on the right. The vectors of the tokens run down the outer
edges; each sublayer reads them and adds to them. Names are those of the code, and every shape is
that of a tensor recorded in the model.
"""

from collections.abc import Sequence
from html import escape
from textwrap import wrap
from typing import Any, NamedTuple
from unicodedata import east_asian_width

import torch
from torch import Tensor, nn

from seq2seq.attention import (
    POSITIONS,
    TYPES,
    AbsolutePosition,
    Attention,
    AttentionModifier,
    AttentionTrace,
)
from seq2seq.config import AttentionConfig, ModelConfig
from seq2seq.data.tokenizer import EOS
from seq2seq.model.decoding import sharing_copy
from seq2seq.model.transformer import Seq2Seq
from seq2seq.utils import printable

Shapes = dict[str, tuple[int, ...]]
WIDTH, TOP, MEMORY_X = 840, 96, 420
LINE = 20  # from one line of text to the next
NORM = 52, 26  # width and height of a norm
LEGEND = (
    "Shapes of one sentence: S source and T target tokens,",
    "width D, H heads, V subwords. Down the lines run the",
    "tokens' vectors; + adds to them (a residual connection).",
)
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
.whole-model .head { fill: var(--text); }
"""


def draw_model(model: Seq2Seq, config: ModelConfig, src: Sequence[str], tgt: Sequence[str]) -> str:
    """The model of ``config`` at work on source tokens and target tokens, from BOS to EOS."""
    drawing = Drawing(record_shapes(model, len(src), len(tgt) - 1))
    for i, line in enumerate(LEGEND):
        drawing.text(8, 20 + LINE * i, line, "soft")
    encoder, decoder = Column(drawing, config, False), Column(drawing, config, True)
    is_shared = model.src_embedding is model.tgt_embedding
    encoder.embed("source", src, ["the same table as tgt_embedding"] if is_shared else [])
    top = encoder.begin_layer(f"encoder layer × {config.encoder_layers}")
    who = "source tokens attend to each other"
    encoder.attend("self_attention", config.encoder_attention, who, "(H, S, S)")
    encoder.feed_forward()
    encoder.end_layer(top, "encoder.0")
    encoder.final_norm()

    decoder.embed("target", tgt[:-1], [])
    top = decoder.begin_layer(f"decoder layer × {config.decoder_layers}")
    who = "causal: target tokens see no later ones"
    decoder.attend("self_attention", config.decoder_attention, who, "(H, T, T)")
    who = "target tokens attend to the memory"
    y = decoder.attend("cross_attention", config.cross_attention, who, "(H, T, S)")
    decoder.feed_forward()
    decoder.end_layer(top, "decoder.0.feed_forward")
    decoder.final_norm()
    decoder.predict(tgt[1:], model.output.weight is model.tgt_embedding.weight)
    encoder.remember(y, decoder.boxes[0])
    return drawing.svg(max(encoder.y, decoder.y) + 20)


class _Weights(list[AttentionTrace]):
    """What an attention records, of which the weights' shape is kept, in the order of recording."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.shapes, self.name = shapes, name

    def append(self, trace: AttentionTrace) -> None:
        self.shapes[self.name] = tuple(trace.weights.shape[1:])


@torch.inference_mode()
def record_shapes(model: Seq2Seq, n_src: int, n_tgt: int) -> Shapes:
    """The shapes in a model that reads a sentence, without the batch, in the order of computation.

    Under the name of a module that of its output, under ``NAME.input`` that of its first input,
    under ``NAME.weights`` that of an attention's weights; parameters have their own names.
    """
    own = sharing_copy(model).eval()
    shapes = {name: tuple(x.shape) for name, x in own.named_parameters(remove_duplicate=False)}

    def watch(name: str, module: nn.Module) -> None:
        def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            for key, value in ((f"{name}.input", args[0]), (name, output)):
                if isinstance(value, Tensor):
                    shapes[key] = tuple(value.shape[-2:])

        module.register_forward_hook(record)
        if isinstance(module, Attention):
            module.recorded = _Weights(shapes, f"{name}.weights")

    for name, module in own.named_modules():
        watch(name, module)
    device = next(own.parameters()).device
    own(*(torch.full((1, n), EOS, device=device) for n in (n_src, n_tgt)))
    return shapes


def describe(config: AttentionConfig, n_heads: int) -> str:
    """The parts of an attention by name, and its numbers; "none" is left out."""
    kind, position = TYPES[config.type], POSITIONS[config.position]
    parts, is_published_type = [config.type], config.type == "multi_head"
    if is_published_type:
        parts += [config.score, config.normalizer, *config.modifiers.split()]
    parts += [config.position] if position.is_a(AttentionModifier) else []
    parts += [f"window {config.window}"] if config.window else []
    if is_published_type or "n_heads" in kind.settings:
        parts += [f"{config.n_heads or n_heads}\N{NO-BREAK SPACE}heads"]
    parts += [f"{config.kv_heads} of keys and values"] if config.kv_heads else []
    return ", ".join(parts)


class Row(NamedTuple):
    """A line in a box: a name, and the recorded shape to show beside it."""

    name: str
    of: str


class Drawing:
    """Elements of an SVG."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes = shapes
        self.elements: list[str] = []

    def text(self, x: float, y: float, text: str, style: str = "", of: str = "") -> None:
        """Text whose middle has the height ``y``, and the shape recorded under ``of``."""
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
        (x0, y0), (x, y) = points[-2:]
        dx, dy = (x > x0) - (x < x0), (y > y0) - (y < y0)
        self.line(*points)
        corners = ((x, y), (x - 8 * dx + 4 * dy, y - 8 * dy + 4 * dx))
        corners = (*corners, (x - 8 * dx - 4 * dy, y - 8 * dy - 4 * dx))
        where = " ".join(f"{a:g},{b:g}" for a, b in corners)
        self.elements.append(f'<polygon class="head" points="{where}"/>')

    def plus(self, x: float, y: float) -> None:
        self.elements.append(f'<circle class="page line" cx="{x:g}" cy="{y:g}" r="9"/>')
        self.line((x - 5, y), (x + 5, y))
        self.line((x, y - 5), (x, y + 5))

    def box(
        self, x: float, y: float, width: float, lines: Sequence[str | Row], style: str = "box"
    ) -> list[float]:
        """A title, notes and rows in a box from ``y`` down; returns the height of each line."""
        self.rectangle(x, y, width, LINE * len(lines) + 12, style)
        heights = [y + 6 + LINE * (i + 0.5) for i in range(len(lines))]
        for i, (height, line) in enumerate(zip(heights, lines, strict=True)):
            if isinstance(line, Row):
                self.text(x + 12, height, line.name, "code")
                self.text(x + width - 12, height, "", "code end", line.of)
            else:
                self.text(x + 12, height, line, "soft" if i else "name")
        return heights

    def svg(self, height: float) -> str:
        size = f'width="{WIDTH}" height="{height:g}" viewBox="0 0 {WIDTH} {height:g}"'
        name = 'class="whole-model" role="group" aria-label="The whole model"'
        background = f'<rect class="page" width="{WIDTH}" height="{height:g}"/>'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {name} {size}>\n<style>{STYLE}</style>'
        return "\n".join([head, background, *self.elements, "</svg>\n"])


class Column:
    """The encoder or the decoder: a line of vectors down its outer edge, and boxes beside it."""

    def __init__(self, drawing: Drawing, config: ModelConfig, is_decoder: bool) -> None:
        self.drawing, self.config = drawing, config
        self.stack, self.size = ("decoder", "T") if is_decoder else ("encoder", "S")
        self.frame = (448, 832) if is_decoder else (8, 392)
        self.boxes = (456, 756) if is_decoder else (84, 384)
        self.x = 802 if is_decoder else 38  # of the line
        self.near = self.boxes[is_decoder]  # the edge of the boxes at the line
        self.inwards = -1 if is_decoder else 1
        self.y: float = TOP  # down to where it is drawn

    def down(self, y: float) -> None:
        self.drawing.line((self.x, self.y), (self.x, y))
        self.y = y

    def wide_box(self, lines: Sequence[str | Row]) -> None:
        """A box that the line goes into, as wide as the column."""
        left, right = self.frame
        self.drawing.arrow((self.x, self.y), (self.x, self.y + 22))
        self.y = self.drawing.box(left, self.y + 22, right - left, lines)[-1] + LINE / 2 + 6

    def tokens(self, what: str, tokens: Sequence[str]) -> None:
        """Up to two lines of tokens."""
        text = " ".join(tokens)
        is_wide = any(east_asian_width(character) in "WF" for character in text)
        lines = wrap(text, 24 if is_wide else 48, break_on_hyphens=False)
        lines = [*lines[:1], lines[1] + " …"] if len(lines) > 2 else lines
        for i, (line, style) in enumerate([(what, "soft"), *((x, "code") for x in lines)]):
            self.drawing.text(self.frame[0], self.y + 10 + LINE * i, line, style)
        self.y += LINE * 3 + 6

    def embed(self, language: str, tokens: Sequence[str], notes: list[str]) -> None:
        self.tokens(f"{language} tokens", tokens)
        side, shape = "tgt" if self.stack == "decoder" else "src", f"({self.size}, D)"
        table, x = Row("weight (V, D)", f"{side}_embedding.weight"), f"{self.stack}.0.input"
        notes = [*notes, "a row for each token, times √D"]
        self.wide_box([f"{side}_embedding", *notes, table, Row(f"x {shape}", x)])
        position = getattr(self.config, f"{self.stack}_attention").position
        if POSITIONS[position].is_a(AbsolutePosition):
            row = Row(f"{position} {shape}", f"{side}_position")
            self.add_back(self.box(self.y + 20, [f"{side}_position", row])[1])

    def box(self, y: float, lines: Sequence[str | Row], style: str = "box") -> list[float]:
        return self.drawing.box(self.boxes[0], y, self.boxes[1] - self.boxes[0], lines, style)

    def add_back(self, y: float) -> None:
        """Add the last line of a box, at the height ``y``, to the vectors."""
        self.down(y + LINE / 2 + 6)
        self.drawing.arrow((self.near, y), (self.x + 9 * self.inwards, y))
        self.drawing.plus(self.x, y)

    def begin_layer(self, name: str) -> float:
        """Returns where its frame begins."""
        top = self.y + 20
        self.drawing.text(self.boxes[0], top + 18, name, "name")
        self.down(top + 24)
        return top

    def end_layer(self, top: float, of: str) -> None:
        """Frame the layer, and say what comes out of it."""
        left, right = self.frame
        self.down(self.y + 12)
        self.drawing.rectangle(left, top, right - left, self.y - top, "frame")
        self.label("x", of)
        self.down(self.y + 36)

    def label(self, name: str, of: str) -> None:
        """A name and a shape beside the line."""
        x, style = self.x + 14 * self.inwards, "code end" if self.inwards < 0 else "code"
        self.drawing.text(x, self.y + 18, f"{name} ({self.size}, D): ", style, of)

    def sublayer(self, lines: Sequence[str | Row], style: str = "box") -> list[float]:
        """A box that reads the vectors and adds to them, with its norm; heights of its lines."""
        start, (width, height) = self.y + NORM[1], NORM
        is_pre = self.config.norm == "pre"
        self.drawing.arrow((self.x, start), (self.near, start))
        if is_pre:
            self.norm(self.near + width / 2 * self.inwards, start)
            below = self.near + width / 2 * self.inwards, start + height / 2
            self.drawing.arrow(below, (below[0], below[1] + 18))
        heights = self.box(start + (height / 2 + 18 if is_pre else -LINE / 2 - 6), lines, style)
        self.add_back(heights[-1])
        if not is_pre:
            self.down(self.y + 10)
            self.norm(self.x, self.y + height / 2)
            self.y += height
        return heights

    def norm(self, x: float, y: float, name: str = "norm", width: float = NORM[0]) -> None:
        self.drawing.rectangle(x - width / 2, y - NORM[1] / 2, width, NORM[1], "box")
        self.drawing.text(x, y, name, "code middle")

    def attend(self, name: str, config: AttentionConfig, who: str, sizes: str) -> float:
        """Draw an attention; returns the height of its first row, where a memory comes in."""
        if config.type == "none":
            self.down(self.y + 40)
            self.drawing.text(self.boxes[0], self.y - 14, f"no {name}: x stays x", "soft")
            return 0
        prefix = f"{self.stack}.0.{name}.attention."
        names = {
            key: key.rpartition(".")[2] for key in self.drawing.shapes if key.startswith(prefix)
        }
        rows = [
            Row(f"weights {sizes}" if name == "weights" else name, key)
            for key, name in names.items()
            if name == "weights" or name.endswith("_proj")
        ]
        notes = [who, *wrap(describe(config, self.config.n_heads), 40)]
        return self.sublayer([name, *notes, *rows], "attention")[1 + len(notes)]

    def feed_forward(self) -> None:
        names = "up_proj", "down_proj"
        rows = [Row(name, f"{self.stack}.0.feed_forward.{name}") for name in names]
        self.sublayer(["feed_forward", "each token by itself; relu in between", *rows])

    def final_norm(self) -> None:
        """Of pre-norm layers, whose sum is not normalized."""
        if self.config.norm == "pre":
            width = 116
            middle = self.frame[self.inwards < 0] + width / 2 * self.inwards
            self.norm(middle, self.y + NORM[1] / 2, f"{self.stack}_norm", width)
            self.y += NORM[1]

    def remember(self, y: float, x: float) -> None:
        """Lead the encoder's output to the cross-attention at (x, y), if there is one."""
        self.label("memory", "encoder_norm")
        self.down(self.y + 34)
        if y:
            self.drawing.arrow((self.x, self.y), (MEMORY_X, self.y), (MEMORY_X, y), (x, y))

    def predict(self, tokens: Sequence[str], is_tied: bool) -> None:
        """From the decoder's vectors to the next token after each of its inputs."""
        notes = ["its weights are the table of tgt_embedding"] if is_tied else []
        table, logits = Row("weight (V, D)", "output.weight"), Row("logits (T, V)", "output")
        self.wide_box(["output", *notes, table, logits])
        self.wide_box(["softmax", "for each target token, a probability of every next one"])
        self.drawing.arrow((self.x, self.y), (self.x, self.y + 22))
        self.y += 26
        self.tokens("the next tokens", tokens)
