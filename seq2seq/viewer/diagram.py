"""The whole model as a picture, with the shapes that one sentence's tensors have in it.

The encoder is on the left, the decoder on the right. The vectors of the tokens run down the outer
edges; each sublayer reads them and adds to them. Names are those of the code, and every shape is
that of a tensor recorded in the model.
"""

from collections.abc import Sequence
from textwrap import wrap
from typing import Any
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
from seq2seq.viewer.svg import LINE, PADDING, Drawing, Line, Shapes

WIDTH, MEMORY_X = 840, 420  # the memory goes up or down between the columns
NORM_WIDTH, NORM_HEIGHT = 52, 26
LEGEND = (
    "Shapes of one sentence: S source and T target tokens,",
    "width D, H heads, V subwords. Down the lines run the",
    "tokens' vectors; + adds to them (a residual connection).",
)


def draw_model(model: Seq2Seq, config: ModelConfig, src: Sequence[str], tgt: Sequence[str]) -> str:
    """The model of ``config`` at work on source tokens and target tokens, from BOS to EOS."""
    drawing = Drawing(record_shapes(model, len(src), len(tgt) - 1), WIDTH)
    for i, line in enumerate(LEGEND):
        drawing.text(8, 20 + LINE * i, line, "soft")
    encoder, decoder = Column(drawing, config, False), Column(drawing, config, True)

    is_shared = model.src_embedding is model.tgt_embedding
    encoder.embed("source", src, ["the same table as tgt_embedding"] if is_shared else [])
    encoder.begin_layer(config.encoder_layers)
    who = "source tokens attend to each other"
    encoder.attend("self_attention", config.encoder_attention, who, "(H, S, S)")
    encoder.feed_forward()
    encoder.end_layer("encoder.0")
    encoder.final_norm()

    decoder.embed("target", tgt[:-1], [])
    decoder.begin_layer(config.decoder_layers)
    who = "causal: target tokens see no later ones"
    decoder.attend("self_attention", config.decoder_attention, who, "(H, T, T)")
    who = "target tokens attend to the memory"
    entry = decoder.attend("cross_attention", config.cross_attention, who, "(H, T, S)")
    decoder.feed_forward()
    decoder.end_layer("decoder.0.feed_forward")
    decoder.final_norm()
    decoder.predict(tgt[1:], model.output.weight is model.tgt_embedding.weight)
    encoder.remember(entry, decoder.boxes[0])
    return drawing.svg(max(encoder.y, decoder.y) + LINE, "The whole model")


class _Weights(list[AttentionTrace]):
    """Keeps of what an attention records the shape of the weights, under ``name``."""

    def __init__(self, shapes: Shapes, name: str) -> None:
        super().__init__()
        self.shapes, self.name = shapes, name

    def append(self, trace: AttentionTrace) -> None:
        self.shapes[self.name] = tuple(trace.weights.shape[1:])


@torch.inference_mode()
def record_shapes(model: Seq2Seq, n_src: int, n_tgt: int) -> Shapes:
    """The shapes in a model that reads a sentence, without the batch, in the order of computation.

    ``NAME`` is the output of a module, ``NAME.input`` its first input, ``NAME.weights`` what an
    attention calls so; parameters have their own names.
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
    parts, is_multi_head = [config.type], config.type == "multi_head"
    if is_multi_head:
        parts += [config.score, config.normalizer, *config.modifiers.split()]
    is_relative = POSITIONS[config.position].is_a(AttentionModifier)
    parts += [config.position] if is_relative else []
    parts += [f"window\N{NO-BREAK SPACE}{config.window}"] if config.window else []
    if is_multi_head or "n_heads" in TYPES[config.type].settings:
        parts += [f"{config.n_heads or n_heads}\N{NO-BREAK SPACE}heads"]
    parts += [f"{config.kv_heads} of keys and values"] if config.kv_heads else []
    return ", ".join(parts)


class Column:
    """The encoder or the decoder: a line of vectors down its outer edge, and boxes beside it."""

    def __init__(self, drawing: Drawing, config: ModelConfig, is_decoder: bool) -> None:
        self.drawing, self.config = drawing, config
        self.stack, self.size = ("decoder", "T") if is_decoder else ("encoder", "S")
        self.frame = (448, 832) if is_decoder else (8, 392)  # left and right edge
        self.boxes = (456, 756) if is_decoder else (84, 384)
        self.x = 802 if is_decoder else 38  # of the line
        self.near = self.boxes[is_decoder]  # the edge of the boxes at the line
        self.inwards = -1 if is_decoder else 1
        self.y = self.layer_top = 96.0  # down to where the line is drawn

    def down(self, by: float) -> None:
        self.drawing.line((self.x, self.y), (self.x, self.y + by))
        self.y += by

    def tokens(self, what: str, tokens: Sequence[str]) -> None:
        """Up to two lines of tokens."""
        text = " ".join(tokens)
        is_wide = any(east_asian_width(character) in "WF" for character in text)
        lines = wrap(text, 24 if is_wide else 48, break_on_hyphens=False)
        lines = lines if len(lines) <= 2 else [lines[0], f"{lines[1]} …"]
        self.drawing.text(self.frame[0], self.y + LINE / 2, what, "soft")
        for i, line in enumerate(lines, start=1):
            self.drawing.text(self.frame[0], self.y + LINE * (i + 0.5), line, "code")
        self.y += LINE * 3 + 6

    def wide_box(self, lines: Sequence[Line]) -> None:
        """A box that the line goes into, as wide as the column."""
        self.arrow_down()
        left, right = self.frame
        self.y = self.drawing.box(left, self.y, right - left, lines)[-1] + LINE / 2 + PADDING

    def arrow_down(self) -> None:
        self.drawing.arrow((self.x, self.y), (self.x, self.y + 22))
        self.y += 22

    def box(self, y: float, lines: Sequence[Line], style: str = "box") -> list[float]:
        """A box beside the line, whose output, in the last row, is added to the vectors."""
        left, right = self.boxes
        heights = self.drawing.box(left, y, right - left, lines, style)
        end = heights[-1]
        self.down(end + LINE / 2 + PADDING - self.y)
        self.drawing.arrow((self.near, end), (self.x + 9 * self.inwards, end))
        self.drawing.plus(self.x, end)
        return heights

    def norm(self, x: float, y: float, name: str = "norm", width: float = NORM_WIDTH) -> None:
        self.drawing.rectangle(x - width / 2, y - NORM_HEIGHT / 2, width, NORM_HEIGHT, "box")
        self.drawing.text(x, y, name, "code middle")

    def label(self, name: str, of: str) -> None:
        """A name and a shape beside the line."""
        x, style = self.x + 14 * self.inwards, "code end" if self.inwards < 0 else "code"
        self.drawing.text(x, self.y + 18, f"{name} ({self.size}, D): ", style, of)

    def embed(self, language: str, tokens: Sequence[str], notes: list[str]) -> None:
        self.tokens(f"{language} tokens", tokens)
        side, shape = "tgt" if self.stack == "decoder" else "src", f"({self.size}, D)"
        name, notes = f"{side}_embedding", [*notes, "a row for each token, times √D"]
        rows = ("weight (V, D)", f"{name}.weight"), (f"x {shape}", f"{self.stack}.0.input")
        self.wide_box([name, *notes, *rows])
        position = getattr(self.config, f"{self.stack}_attention").position
        if POSITIONS[position].is_a(AbsolutePosition):
            name = f"{side}_position"
            self.box(self.y + 20, [name, (f"{position} {shape}", name)])

    def begin_layer(self, n_layers: int) -> None:
        self.layer_top = self.y + 20
        title = f"{self.stack} layer × {n_layers}"
        self.drawing.text(self.boxes[0], self.layer_top + 18, title, "name")
        self.down(44)

    def end_layer(self, of: str) -> None:
        """Frame the layer, and say what comes out of it."""
        left, right = self.frame
        self.down(12)
        height = self.y - self.layer_top
        self.drawing.rectangle(left, self.layer_top, right - left, height, "frame")
        self.label("x", of)
        self.down(36)

    def sublayer(self, lines: Sequence[Line], style: str = "box") -> list[float]:
        """A box that reads the vectors and adds to them, with its norm."""
        start, is_pre = self.y + NORM_HEIGHT, self.config.norm == "pre"
        self.drawing.arrow((self.x, start), (self.near, start))
        top = start - LINE / 2 - PADDING
        if is_pre:
            x, below = self.near + NORM_WIDTH / 2 * self.inwards, start + NORM_HEIGHT / 2
            self.norm(x, start)
            top = below + 18
            self.drawing.arrow((x, below), (x, top))
        heights = self.box(top, lines, style)
        if not is_pre:
            self.down(10)
            self.norm(self.x, self.y + NORM_HEIGHT / 2)
            self.y += NORM_HEIGHT
        return heights

    def attend(self, name: str, config: AttentionConfig, who: str, sizes: str) -> float:
        """Draw an attention; returns the height of its first row, where a memory comes in."""
        if config.type == "none":
            self.drawing.text(self.boxes[0], self.y + 26, f"no {name}: x stays x", "soft")
            self.down(40)
            return 0
        prefix = f"{self.stack}.0.{name}.attention."
        inside = [key for key in self.drawing.shapes if key.startswith(prefix)]
        rows = [(key.rpartition(".")[2], key) for key in inside if key.endswith("_proj")]
        rows.insert(0, (f"weights {sizes}", f"{prefix}weights"))
        rows.sort(key=lambda row: inside.index(row[1]))  # in the order of computation
        if rows[-1][0] != "output_proj":
            rows.append((f"output ({self.size}, D)", prefix.rstrip(".")))
        notes = [who, *wrap(describe(config, self.config.n_heads), 40)]
        view = "cross" if name == "cross_attention" else self.stack
        return self.sublayer([name, *notes, *rows], f"attention {view}")[1 + len(notes)]

    def feed_forward(self) -> None:
        names = "up_proj", "down_proj"
        rows = [(name, f"{self.stack}.0.feed_forward.{name}") for name in names]
        self.sublayer(["feed_forward", "each token by itself; relu in between", *rows])

    def final_norm(self) -> None:
        """Of pre-norm layers, whose sum is not normalized."""
        if self.config.norm == "pre":
            width = 116
            middle = self.frame[self.inwards < 0] + width / 2 * self.inwards
            self.norm(middle, self.y + NORM_HEIGHT / 2, f"{self.stack}_norm", width)
            self.y += NORM_HEIGHT

    def remember(self, y: float, x: float) -> None:
        """Lead the encoder's output to the cross-attention at (x, y), if there is one."""
        self.label("memory", "encoder_norm")
        self.down(34)
        if y:
            self.drawing.arrow((self.x, self.y), (MEMORY_X, self.y), (MEMORY_X, y), (x, y))

    def predict(self, tokens: Sequence[str], is_tied: bool) -> None:
        """From the decoder's vectors to the next token after each of its inputs."""
        notes = ["its weights are the table of tgt_embedding"] if is_tied else []
        rows = ("weight (V, D)", "output.weight"), ("logits (T, V)", "output")
        self.wide_box(["output", *notes, *rows])
        self.wide_box(["softmax", "for each target token, a probability of every next one"])
        self.arrow_down()
        self.tokens("the next tokens", tokens)
