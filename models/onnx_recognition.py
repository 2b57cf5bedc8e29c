"""PARSeq as three ONNX graphs, the loop over characters outside them, in plain numpy.

    NAME.onnx           encoder: image (B, 3, H, W), width (B,) -> keys and values of the image tokens, which are seen
    NAME.step.onnx      one character: token, place, keys and values of the text so far -> logits, the text's with it
    NAME.refine.onnx    all places at once, each given all characters but its own; from BOS alone it reads as 'nar'

What is projected once is projected once here too: the image in the encoder, each character in its own step. The loop
ends when every row has ended, which no graph could decide (parseq issues 12, 108, 164). NAME.onnx holds what a
checkpoint does: config, charset and temperature. B and W are free, W a multiple of the patch width up to --img-width.

With --int8 the weights of all matrix products are also written as 8 bit integers, quantised dynamically, as
NAME.int8.onnx and so on: train_recognition.py --test-only --weights NAME.int8.onnx says what that costs.
"""

from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from models.ctc import path_logits
from models.onnx_files import Runtime, check_parity, make_graph, open_session, read_metadata, set_metadata, write_onnx
from models.parseq import READING, PARSeq, PARSeqConfig, load_model, most_probable
from utils.charset import EOS, Charset
from utils.errors import DataError

FLAGS = ("int8",)
GRAPHS = ("encoder", "step", "refine")
MEMORY, FRAMES = ["keys", "values", "seen"], ["frames"]  # what the encoder gives
TOLERANCE = 1e-4


class Encoder(nn.Module):
    """(B, 3, H, W) float32 in [-1, 1], (B,) int64 -> keys, values (B, heads, S, d) and seen (B, 1, 1, S) bool; of a model
    that reads by CTC also its frames (B, F, V - 2)."""

    def __init__(self, model: PARSeq):
        super().__init__()
        self.model = model

    def forward(self, image: Tensor, width: Tensor) -> tuple[Tensor, ...]:
        memory, visible = self.model.encoder(image, width)
        frames = [self.model.ctc_logits(memory)] if self.model.reading["decode"] == "ctc" else []
        return *self.model.memory_keys_values(memory), visible, *frames


class Step(nn.Module):
    """Read the character at `place`: token (B, 1) int64 is the one before it, BOS at place 0; text keys and values are
    (B, heads, T, d), T the longest label and one, filled up to `place`. Returns logits (B, V - 2) and both with the token
    written in."""

    def __init__(self, model: PARSeq):
        super().__init__()
        self.model = model
        positions = torch.cat([torch.zeros_like(model.pos_queries[:, :1]), model.pos_queries[:, :-1]], 1)
        self.register_buffer("positions", positions * model.position_scale)  # in the context, BOS having none

    def forward(self, token: Tensor, place: Tensor, text_keys: Tensor, text_values: Tensor, keys: Tensor, values: Tensor,
                seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model = self.model
        at_place = place.reshape(1)  # index_select, since torch 2.11 wants to know the number behind an index at export
        embedded = model.text_embed(token) + self.positions.index_select(1, at_place)
        layer = model.decoder.layers[0]
        new = layer.self_attn.keys_values(layer.norm_c(embedded))
        places = torch.arange(self.positions.shape[1])
        here = (places == place)[:, None]
        text = tuple(torch.where(here, one, cache) for one, cache in zip(new, (text_keys, text_values)))
        query = model.pos_queries.index_select(1, at_place)
        logits = model.head(model.query(query, text, (keys, values), (places <= place)[None, None, None], seen))
        return logits[:, 0], *text


class Refine(nn.Module):
    """tokens (B, T) int64, BOS and the characters read so far, EOS behind their end -> logits (B, T, V - 2)."""

    def __init__(self, model: PARSeq):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, keys: Tensor, values: Tensor, seen: Tensor) -> Tensor:
        return self.model.refine(tokens, (keys, values), seen)


def make_graphs(model: PARSeq) -> tuple[dict[str, onnx.ModelProto], float]:
    """(the three graphs by name, the largest difference from torch). Raises DataError where one differs."""
    config, free = model.config, torch.export.Dim.DYNAMIC
    wide = config.patch_width * torch.export.Dim("columns", min=1, max=config.columns)
    longest, dim = config.max_label_length + 1, config.dim // config.decoder_heads
    encoder, step, refine = Encoder(model).eval(), Step(model).eval(), Refine(model).eval()
    patches = config.rows * 3

    def text(batch: int) -> Tensor:
        return torch.randn(batch, config.decoder_heads, longest, dim, generator=random)

    def memory(batch: int, tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        shape = (batch, config.decoder_heads, tokens, dim)
        seen = torch.arange(tokens).expand(batch, 1, 1, tokens) % 3 < 2  # the first is: no crop is all padding
        return torch.randn(shape, generator=random), torch.randn(shape, generator=random), seen

    def letters(*shape: int) -> Tensor:
        return torch.randint(model.charset.size - 2, shape, generator=random)

    def reading(batch: int) -> Tensor:
        return torch.cat([torch.full((batch, 1), model.charset.bos), letters(batch, longest - 1)], 1)

    def picture(batch: int, columns: int) -> tuple[Tensor, Tensor]:
        width = columns * config.patch_width
        widths = torch.randint(1, width + 1, (batch,), generator=random)
        widths[0] = width
        return torch.randn(batch, 3, config.img_height, width, generator=random), widths

    random = torch.Generator().manual_seed(0)
    memory_shapes = ({0: free, 2: free}, {0: free, 2: free}, {0: free, 3: free})
    plan = {  # module, its inputs and outputs, which of their sizes are free, and cases to compare on
        "encoder": (encoder, ["image", "width"], MEMORY + FRAMES * (model.reading["decode"] == "ctc"),
                    ({0: free, 3: wide}, {0: free}),
                    [picture(2, 3), picture(1, 1), picture(3, config.columns)]),
        "step": (step, ["token", "place", "text_keys", "text_values", "keys", "values", "seen"],
                 ["logits", "text_keys_now", "text_values_now"], ({0: free}, {}, {0: free}, {0: free}, *memory_shapes),
                 [(letters(batch, 1), torch.tensor(place), text(batch), text(batch), *memory(batch, tokens))
                  for batch, place, tokens in ((2, 3, patches), (1, 0, config.rows), (3, longest - 1, patches))]),
        "refine": (refine, ["tokens", "keys", "values", "seen"], ["logits"], ({0: free}, *memory_shapes),
                   [(reading(batch), *memory(batch, tokens))
                    for batch, tokens in ((2, patches), (1, config.rows), (3, patches))])}
    graphs, worst = {}, 0.0
    for name, (module, inputs, outputs, shapes, cases) in plan.items():
        graphs[name] = make_graph(module, cases[0], inputs, outputs, shapes)
        worst = max(worst, check_parity(open_session(graphs[name], threads=1), module, cases, TOLERANCE))
    return graphs, worst


def graph_path(out: Path, name: str) -> Path:
    return out if name == "encoder" else out.with_suffix(f".{name}.onnx")


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph with the weights of its matrix products in 8 bits, scaled per column."""
    with TemporaryDirectory() as folder:
        whole, ready, small = (str(Path(folder) / name) for name in ("whole.onnx", "ready.onnx", "small.onnx"))
        onnx.save_model(model, whole)
        quant_pre_process(whole, ready, skip_symbolic_shape=True)  # folds what hides the weights from the next step
        quantize_dynamic(ready, small, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True,
                         weight_type=QuantType.QInt8)
        return onnx.load_model(small)


def export(weights: Path, out: Path, args: Namespace) -> dict:
    """Write the three files from a checkpoint, and with --int8 three more. Raises DataError where a graph and the network
    disagree."""
    model, _ = load_model(weights, torch.device("cpu"))
    graphs, difference = make_graphs(model)
    about = {"config": asdict(model.config), "charset_digest": model.charset.digest, "temperature": model.temperature,
             "reading": model.reading, "input": {"mean": 0.5, "std": 0.5, "colours": "RGB", "padding": "right, by 0"}}
    sets = {out: graphs}
    if args.int8:
        sets[out.with_suffix(".int8.onnx")] = {name: quantised(graph) for name, graph in graphs.items()}
    files = []
    for place, parts in sets.items():
        for name in reversed(GRAPHS):  # NAME.onnx last: where it is, the others are
            set_metadata(parts[name], "recognition", about | {"graph": name})
            write_onnx(graph_path(place, name), parts[name])
            files.append(graph_path(place, name))
    return {"files": [str(path) for path in files], "largest_difference": difference,
            "megabytes": [round(path.stat().st_size / 1e6, 2) for path in files]}


class OnnxReader:
    """The three graphs with the face of a PARSeq, as models.read_lines.recognise and read_texts take one."""

    def __init__(self, path: Path, threads: int = 0, runtime: Runtime = open_session):
        """Raises DataError where one of the files is missing, another model's, or nothing of ours."""
        path = Path(path)
        if path.name.endswith((".step.onnx", ".refine.onnx")):
            raise DataError(f"{path}: is a part; name the file of the encoder, {path.name.split('.')[0]}.onnx")
        self.sessions, about = {}, {}
        for name in GRAPHS:  # the encoder first: a model for another task has no other parts
            self.sessions[name] = runtime(graph_path(path, name), threads)
            about[name] = read_metadata(self.sessions[name], "recognition", graph_path(path, name))
        for name, values in about.items():
            if values | {"graph": 0} != about["encoder"] | {"graph": 0} or values["graph"] != name:
                raise DataError(f"{graph_path(path, name)}: belongs to another export than {path}; export anew")
        self.config = PARSeqConfig(**about["encoder"]["config"])
        self.charset, self.temperature = Charset(self.config.characters), about["encoder"]["temperature"]
        self.reading = READING | about["encoder"].get("reading", {})

    def eval(self) -> "OnnxReader":
        return self

    def read(self, images: Tensor, widths: Tensor | None = None, decode: str = "ar",
             refine_iters: int = 1) -> tuple[Tensor, Tensor]:
        """As PARSeq.read."""
        return most_probable(self.read_logits(images, widths, decode, refine_iters), self.temperature)

    def read_logits(self, images: Tensor, widths: Tensor | None, decode: str, refine_iters: int) -> Tensor:
        """As PARSeq.read_logits; float32 on the CPU."""
        memory, frames = self._encode(images, widths, decode == "ctc")
        if decode == "ar":
            logits = self._autoregressive(memory)
        elif decode == "ctc":
            used = self.config.frames_used(frames, torch.from_numpy(memory["seen"]))
            logits = path_logits(frames, used, self.config.max_label_length + 1, self.charset.case_pairs).numpy()
        else:
            logits, refine_iters = None, refine_iters + 1
        for _ in range(refine_iters):
            logits = self.sessions["refine"].run(None, {"tokens": self._context(logits, len(images))} | memory)[0]
        return torch.from_numpy(logits)

    def see(self, images: Tensor, widths: Tensor | None) -> tuple[Tensor, list[int]]:
        """As PARSeq.see, of a model that reads by CTC."""
        memory, frames = self._encode(images, widths, True)
        return frames, self.config.frames_used(frames, torch.from_numpy(memory["seen"]))

    def _encode(self, images: Tensor, widths: Tensor | None, ctc: bool) -> tuple[dict[str, np.ndarray], Tensor | None]:
        """What the encoder gives by name, and where `ctc` the frames. Raises DataError where there are none."""
        widths = torch.full((len(images),), images.shape[3]) if widths is None else widths
        given = self.sessions["encoder"].run(None, {"image": images.cpu().numpy(), "width": widths.cpu().numpy()})
        if ctc and len(given) == len(MEMORY):
            raise DataError("--decode ctc: the ONNX file was exported from a model that reads in another way")
        return dict(zip(MEMORY, given)), torch.from_numpy(given[len(MEMORY)]) if ctc else None

    def _autoregressive(self, memory: dict[str, np.ndarray]) -> np.ndarray:
        rows, heads, _, dim = memory["keys"].shape
        longest = self.config.max_label_length + 1
        text = np.zeros((2, rows, heads, longest, dim), np.float32)
        token = np.full((rows, 1), self.charset.bos)
        ended, steps = np.zeros((rows, 1), bool), []
        for place in range(longest):
            logits, *text = self.sessions["step"].run(None, memory | {
                "token": token, "place": np.array(place), "text_keys": text[0], "text_values": text[1]})
            steps.append(logits)
            token = logits.argmax(-1)[:, None]
            ended |= token == EOS
            if ended.all():
                break
        return np.stack(steps, 1)

    def _context(self, logits: np.ndarray | None, rows: int) -> np.ndarray:
        """BOS, the characters read but for the last place's, EOS behind them; BOS alone where nothing was read."""
        tokens = np.full((rows, self.config.max_label_length + 1), EOS)
        tokens[:, 0] = self.charset.bos
        if logits is not None:
            tokens[:, 1 : logits.shape[1]] = logits[:, :-1].argmax(-1)
            if logits.shape[1] < tokens.shape[1]:  # every row has ended by its last step
                tokens[:, logits.shape[1]] = EOS
        return tokens
