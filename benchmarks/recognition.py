"""PARSeq beside plainly written references, all in one run, with equal answers checked on the way.

    python -m benchmarks.recognition
    python -m benchmarks.recognition --arch parseq-ti --repeats 3 --lines 120

decode      reading 26 steps with 1027 ids: as read() does it and by steps with keys and values kept, against projecting
            image and text anew in each step
train       one step of training: all permutations in one pass of the decoder, against a loop over them; labels of 1 to 25
            characters, and all of 25
pipeline    crops a second through the loader with 2 workers, and whether the model would wait for them
buckets     reading lines of mixed length: in buckets of their width, against all of them padded to the widest

Random weights, one thread. Times are medians over --repeats, taken in turns, so ratios hold on a busy machine too.
Prints one JSON object; what is aimed at stands beside each ratio, and progress goes to stderr.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.data import GPU_IMAGES_PER_S
from datasets import text_lines
from datasets.recognition import RecognitionDataset, WidthEpochBatches, read_split
from models.parseq import ARCHS, PARSeq, PARSeqConfig, build_model, sample_permutations
from models.parseq_autoregressive import decode_autoregressive
from models.parseq_loss import parseq_loss
from utils.args import new_parser, positive_int
from utils.charset import EOS, Charset
from utils.dataloading import make_loader
from utils.errors import exit_cleanly
from utils.text_crops import resize_crop, stack_crops

CHARACTERS = "".join(chr(0xAC00 + i) for i in range(1024))  # 1027 ids with EOS, BOS and PAD
STEPS = 26


def in_turns(repeats: int, **tasks: Callable[[], object]) -> dict[str, float]:
    """{name: median seconds} of each task, run one after the other, repeats times, once before for warming up."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            begun = time.perf_counter()
            task()
            if repeat:
                seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def make_model(arch: str, **changes) -> PARSeq:
    torch.manual_seed(0)
    model = build_model(PARSeqConfig(CHARACTERS, **ARCHS[arch], **changes)).eval()
    with torch.no_grad():  # answers that differ from place to place
        model.pos_queries.mul_(30)
        model.text_embed.embedding.weight.mul_(10)
    return model


# decode ---------------------------------------------------------------------------------------------------------------


def plain_attentions(model: PARSeq) -> list[nn.MultiheadAttention]:
    """torch's own attention modules with the weights of the model's, self and cross, as the published model has them."""
    attentions = []
    for ours in (model.decoder.layers[0].self_attn, model.decoder.layers[0].cross_attn):
        attentions.append(nn.MultiheadAttention(model.config.dim, ours.heads, batch_first=True).eval())
        attentions[-1].load_state_dict(ours.state_dict())
    return attentions


def recomputing_decode(model: PARSeq, memory: torch.Tensor, attentions: list[nn.MultiheadAttention]) -> torch.Tensor:
    """The published loop: each step embeds the whole text so far, and projects it and the image tokens anew."""
    layer, places = model.decoder.layers[0], model.pos_queries
    self_attn, cross_attn = attentions
    tokens = torch.full((len(memory), 1), model.charset.bos)
    logits = []
    for step in range(places.shape[1]):
        embedded = model.text_embed(tokens)
        context = torch.cat([embedded[:, :1], embedded[:, 1:] + places[:, :step]], 1)
        query = places[:, step : step + 1].expand(len(memory), -1, -1)
        content = layer.norm_c(context)
        x = query + self_attn(layer.norm_q(query), content, content)[0]
        x = x + cross_attn(layer.norm1(x), memory, memory)[0]
        x = x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))
        logits.append(model.head(model.decoder.norm(x)))
        tokens = torch.cat([tokens, logits[-1].argmax(-1)], 1)
        if (tokens == EOS).any(1).all():
            break
    return torch.cat(logits, 1)


@torch.no_grad()
def decode(arch: str, repeats: int) -> dict:
    """16 images, by one, four and all together. How many passes guess and check takes depends on the weights: these answer
    at random, by the image and by what they answered before."""
    model = make_model(arch)
    model.head.bias[EOS] = -100  # all 26 steps
    report, attentions = {}, plain_attentions(model)
    images = torch.randn(16, 3, 32, 128, generator=torch.Generator().manual_seed(1))
    for batch in (1, 4, 16):
        memories = [model.encoder(part)[0] for part in images.split(batch)]
        tasks = {"decoder": lambda memory: model.decode(memory, None, "ar", 0),
                 "by_steps": lambda memory: decode_autoregressive(model, model.memory_keys_values(memory), None, False),
                 "plain": lambda memory: recomputing_decode(model, memory, attentions)}
        logits = {name: torch.cat([task(memory) for memory in memories]) for name, task in tasks.items()}
        strings = [part.argmax(-1) for part in logits.values()]
        assert strings[0].shape[1] == STEPS and all(torch.equal(strings[-1], s) for s in strings), "the strings differ"
        seconds = in_turns(repeats, encoder=lambda: [model.encoder(part) for part in images.split(batch)],
                           **{name: lambda task=task: [task(memory) for memory in memories]
                              for name, task in tasks.items()})
        report[f"batch_{batch}"] = {
            **{f"{name}_ms": 1000 * value / len(memories) for name, value in seconds.items()},
            "decoder_ratio": seconds["plain"] / seconds["decoder"], "by_steps_ratio": seconds["plain"] / seconds["by_steps"],
            "by_steps_whole_ratio": (seconds["plain"] + seconds["encoder"]) / (seconds["by_steps"] + seconds["encoder"]),
            "whole_ratio": (seconds["plain"] + seconds["encoder"]) / (seconds["decoder"] + seconds["encoder"]),
            "largest_difference": float((logits["decoder"] - logits["plain"]).abs().max())}
    return report | {"aimed_at": {"batch_1.decoder_ratio": 4.0, "batch_1.whole_ratio": 1.4}}


# train ----------------------------------------------------------------------------------------------------------------


def looped_loss(model: PARSeq, memory, tokens, orders) -> torch.Tensor:
    """The published step: one pass of the decoder a permutation, EOS learnt in the first two."""
    targets, total, count = tokens[:, 1:], 0.0, 0
    everywhere = torch.ones_like(targets[:, None], dtype=torch.bool)
    for number, order in enumerate(orders):
        decoded = model.decode_permutations(memory, None, tokens, order[None], everywhere)
        wanted = torch.where(targets == EOS, model.charset.pad, targets) if number > 1 else targets
        logits = model.head(decoded)
        total = total + F.cross_entropy(logits, wanted.flatten(), ignore_index=model.charset.pad, reduction="sum")
        count += int((wanted != model.charset.pad).sum())
    return total / count


def train(arch: str, repeats: int, batch: int = 16) -> dict:
    report = {"labels_of_1_to_25": train_on([1 + i * 25 // batch for i in range(1, batch)] + [25], arch, repeats),
              "labels_of_25": train_on([25] * batch, arch, repeats)}
    return report | {"aimed_at": {"labels_of_1_to_25.step_ratio": 1.08, "labels_of_1_to_25.decoder_ratio": 2.0}}


def train_on(lengths: list[int], arch: str, repeats: int) -> dict:
    """One image a label of that many characters."""
    model = make_model(arch, dropout=0.0).train()
    images, widths = torch.randn(len(lengths), 3, 32, 128), torch.full((len(lengths),), 128)
    tokens = torch.full((len(lengths), 27), model.charset.pad)
    for row, length in zip(tokens, lengths):
        row[: length + 2] = torch.tensor([model.charset.bos, *torch.randint(1, 1025, (length,)), EOS])
    orders = sample_permutations(25, model.config, 3)

    def batched(memory):
        outputs = model.permuted(memory, None, tokens, orders)
        return parseq_loss(outputs)[0]["loss"]

    def looped(memory):
        return looped_loss(model, memory, tokens, orders)

    def step(loss):
        model.zero_grad()
        loss(model.encoder(images, widths)[0]).backward()

    with torch.no_grad():
        memory = model.encoder(images, widths)[0]
        difference = abs(float(batched(memory)) - float(looped(memory)))
    assert difference < 1e-3, f"the losses differ by {difference}"
    kept = memory.detach().requires_grad_()
    seconds = in_turns(repeats, step=lambda: step(batched), plain_step=lambda: step(looped),
                       decoder=lambda: batched(kept).backward(), plain_decoder=lambda: looped(kept).backward())
    return {"step_ms": 1000 * seconds["step"], "plain_step_ms": 1000 * seconds["plain_step"],
            "step_ratio": seconds["plain_step"] / seconds["step"],
            "decoder_ratio": seconds["plain_decoder"] / seconds["decoder"], "permutations": len(orders),
            "images_per_s": len(lengths) / seconds["step"], "loss_difference": difference}


# pipeline -------------------------------------------------------------------------------------------------------------


def pipeline(folder: Path, step_images_per_s: float) -> dict:
    """Crops of a written set through RandAugment, resizing and collating, by 2 workers, over two epochs."""
    crops = read_split(folder / "train", 0.0)
    dataset = RecognitionDataset(crops, Charset(CHARACTERS), 32, 512, 64, 0, training=True)
    batches = WidthEpochBatches(dataset.widths_in, 32, 0)
    loader = make_loader(dataset, batches, 2, torch.device("cpu"), dataset.collate)
    rates = []
    for epoch in range(3):  # the first starts the workers
        batches.set_position(epoch)
        begun = time.perf_counter()
        count = sum(len(batch["file"]) for batch in loader)
        rates.append(count / (time.perf_counter() - begun))
    rate = statistics.mean(rates[1:])
    gpu = GPU_IMAGES_PER_S["recognition"]
    return {"crops_per_s": rate, "cpu_step_images_per_s": step_images_per_s, "outruns_the_model_on_this_cpu":
            rate > step_images_per_s, "assumed_gpu_images_per_s": gpu, "outruns_the_model_on_such_a_gpu": rate > gpu,
            "workers_for_such_a_gpu": int(np.ceil(2 * gpu / rate))}


# buckets --------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def buckets(folder: Path, arch: str, repeats: int) -> dict:
    """The same lines, resized alike, in batches of 16: of like width and padded to it, or as they come and padded to the
    widest there may be. The encoder alone, since both decode alike."""
    model = make_model(arch, img_width=512, max_label_length=60)
    views = [resize_crop(crop.load(), 32, 512) for crop in read_split(folder / "train", 0.0)]
    ordered = sorted(views, key=lambda view: view.shape[1])

    def read(lines, bucket):
        return [model.encoder(*stack_crops(lines[i : i + 16], bucket, 512))[0] for i in range(0, len(lines), 16)]

    seconds = in_turns(repeats, buckets=lambda: read(ordered, 64), fixed=lambda: read(views, 512))
    return {"images_per_s": len(views) / seconds["buckets"], "fixed_width_images_per_s": len(views) / seconds["fixed"],
            "ratio": seconds["fixed"] / seconds["buckets"],
            "median_width": float(np.median([view.shape[1] for view in views]))}


def main(argv: list[str] | None = None) -> int:
    parser = new_parser(__doc__)
    parser.add_argument("--arch", choices=ARCHS, default="parseq-s", help="(default: %(default)s)")
    parser.add_argument("--repeats", type=positive_int, default=5, help="(default: %(default)s)")
    parser.add_argument("--lines", type=positive_int, default=256,
                        help="made lines for the last two (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    report = {"arch": args.arch, "torch": torch.__version__, "threads": 1}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "charset.txt").write_text(CHARACTERS, encoding="utf-8")
        text_lines.write_set(Path(folder) / "train", (args.lines, str(Path(folder) / "charset.txt"), 60, 0), 1)
        for name, task in (("decode", lambda: decode(args.arch, args.repeats)),
                           ("train", lambda: train(args.arch, args.repeats)),
                           ("pipeline", lambda: pipeline(Path(folder), report["train"]["labels_of_25"]["images_per_s"])),
                           ("buckets", lambda: buckets(Path(folder), args.arch, args.repeats))):
            print(f"{name} ...", file=sys.stderr)
            report[name] = task()
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
