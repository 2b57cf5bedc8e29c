"""PARSeq: a text recogniser trained on permutations of the reading order.

Bautista and Atienza, "Scene Text Recognition with Permuted Autoregressive Sequence Models", ECCV 2022. Parameter names,
token ids and arithmetic are those of the published model, so that its weights fit: a ViT without CLS token, one decoder
layer whose queries are positions and whose context is the text, and a head that cannot predict BOS or PAD.

Letters in comments: B batch, S memory tokens, L context tokens, T queried positions, K permutations, D width, V ids.
Masks are boolean and say what is visible.
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.ctc import path_logits
from models.parseq_autoregressive import decode_autoregressive, reading_length
from models.permutations import sample_permutations, visible_keys
from models.text_encoder import ConvStem, ResidualStem, TextEncoder, join_heads, split_heads
from utils.charset import EOS, Charset, one_space
from utils.checkpoint import load_checkpoint, load_weights, weights_of
from utils.errors import DataError

ARCHS = {
    "parseq-s": {"dim": 384, "heads": 6, "decoder_heads": 12},
    "parseq-ti": {"dim": 192, "heads": 3, "decoder_heads": 6},
}
STEMS = ("patch", "conv", "resnet")
DECODES = ("ar", "nar", "ctc")
READING = {"decode": "ar", "refine_iters": 1}  # how a model reads where its checkpoint does not say


@dataclass(frozen=True)
class PARSeqConfig:
    """Plain values that rebuild the model. Raises ValueError for sizes that cannot work."""

    characters: str
    dim: int = 384
    depth: int = 12
    heads: int = 6
    decoder_heads: int = 12
    mlp_ratio: int = 4
    dropout: float = 0.1
    img_height: int = 32
    img_width: int = 128  # of the widest bucket
    bucket: int = 64  # images are padded to multiples of this
    patch_height: int = 4
    patch_width: int = 8
    max_label_length: int = 25
    perm_num: int = 6
    stem: str = "patch"  # patch: as published; conv and resnet: learn from scratch on a small budget (Xiao et al., 2021)
    ctc: bool = False  # an auxiliary CTC head on the encoder, for training only
    scale_positions: bool = False  # positions in the context scaled by sqrt(D), like the embeddings
    stretch: bool = False  # every crop as wide as img_width, as published; else its aspect ratio is kept

    def __post_init__(self) -> None:
        for name, size, patch in (("image height", self.img_height, self.patch_height),
                                  ("image width", self.img_width, self.patch_width),
                                  ("bucket", self.bucket, self.patch_width)):
            if size < patch or size % patch:
                raise ValueError(f"{name} {size} is not a multiple of the patch's {patch} pixels")
        if self.stem == "resnet" and (self.img_height % 16 or (self.patch_height, self.patch_width)
                                      != (self.img_height, ResidualStem.patch_width)):
            raise ValueError(f"the resnet stem makes a token of {ResidualStem.patch_width} columns of pixels, from images "
                             f"a multiple of 16 high; {self.img_height} with patches of "
                             f"{self.patch_height, self.patch_width} are not")
        if self.patch_height > 8 and self.stem != "resnet":
            raise ValueError(f"patches {self.patch_height} pixels high are too coarse to read by (8 at most)")
        if self.rows * self.columns < 2 * self.max_label_length:
            raise ValueError(
                f"{self.rows * self.columns} patches are too few to read {self.max_label_length} characters, which "
                f"take {2 * self.max_label_length} or more: widen --img-width or lower --max-label-length")
        if self.perm_num < 2 or self.perm_num % 2:
            raise ValueError(f"{self.perm_num} permutations: an even number is needed, since each is mirrored")
        if self.stem == "conv" and (self.patch_height, self.patch_width) not in ConvStem.patches:
            raise ValueError(f"the conv stem has a stride of {' or '.join(map(str, ConvStem.patches))}, not "
                             f"{self.patch_height, self.patch_width}")

    @property
    def rows(self) -> int:
        return self.img_height // self.patch_height

    @property
    def columns(self) -> int:
        return self.img_width // self.patch_width

    @property
    def ctc_frames(self) -> int:
        """That the auxiliary head emits for a column of patches: one every 4 pixels, or narrow glyphs would not fit."""
        return self.patch_width // 4

    def frames_in(self, widths):
        """CTC frames of images of these widths in pixels, without padding; int64 array or tensor, or an int."""
        return -(-widths // self.patch_width) * self.ctc_frames

    def frames_used(self, frames: Tensor, memory_visible: Tensor | None) -> list[int]:
        """How many of the CTC frames (B, F, V - 2) are no padding, row by row."""
        if memory_visible is None:
            return [frames.shape[1]] * len(frames)
        return (memory_visible.sum((1, 2, 3)) // self.rows * self.ctc_frames).tolist()


class Packing:
    """The places (B, T) of a batch that count, side by side: only attention needs to know to which row each belongs."""

    def __init__(self, counted: Tensor):
        self.shape, self.index = counted.shape, counted.flatten().nonzero()[:, 0]

    def pack(self, x: Tensor) -> Tensor:
        """(B, T, D) -> (N, D)."""
        return x.flatten(0, 1).index_select(0, self.index)

    def unpack(self, x: Tensor) -> Tensor:
        """(N, D) -> (B, T, D), zeros at the places left out."""
        return x.new_zeros(self.shape.numel(), x.shape[1]).index_copy(0, self.index, x).unflatten(0, self.shape)


class DecoderAttention(nn.Module):
    """Multi-head attention with the parameter names of nn.MultiheadAttention and its projections apart, so that keys
    and values can be kept from one step to the next."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)

    def queries(self, x: Tensor, packing: "Packing | None" = None) -> Tensor:
        """(B, T, D), or (N, D) packed -> (B, heads, T, D / heads)."""
        dim = x.shape[-1]
        queries = F.linear(x, self.in_proj_weight[:dim], self.in_proj_bias[:dim])
        return split_heads(queries if packing is None else packing.unpack(queries), self.heads)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L, D) -> keys and values (B, heads, L, D / heads)."""
        dim = x.shape[-1]
        keys, values = F.linear(x, self.in_proj_weight[dim:], self.in_proj_bias[dim:]).chunk(2, dim=-1)
        return split_heads(keys, self.heads), split_heads(values, self.heads)

    def forward(self, x: Tensor, keys_values: tuple[Tensor, Tensor], visible: Tensor | None,
                packing: "Packing | None" = None) -> Tensor:
        """x (B or 1, T, D), or (N, D) packed; visible broadcastable to (B, heads, T, L)."""
        keys, values = keys_values
        queries = self.queries(x, packing).expand(keys.shape[0], -1, -1, -1)  # len() would fix an exported graph's size
        attended = join_heads(F.scaled_dot_product_attention(queries, keys, values, attn_mask=visible,
                                                             dropout_p=self.dropout if self.training else 0.0))
        return self.out_proj(attended if packing is None else packing.pack(attended))


class DecoderLayer(nn.Module):
    """One pre-norm layer: positions attend to the text so far, then to the image."""

    def __init__(self, dim: int, heads: int, hidden: int, dropout: float):
        super().__init__()
        self.self_attn = DecoderAttention(dim, heads, dropout)
        self.cross_attn = DecoderAttention(dim, heads, dropout)
        self.linear1 = nn.Linear(dim, hidden)
        self.linear2 = nn.Linear(hidden, dim)
        self.norm1, self.norm2, self.norm_q, self.norm_c = (nn.LayerNorm(dim) for _ in range(4))
        self.dropout = nn.Dropout(dropout)

    def forward(self, query: Tensor, context: tuple[Tensor, Tensor], memory: tuple[Tensor, Tensor],
                visible: Tensor | None, memory_visible: Tensor | None, packing: Packing | None = None) -> Tensor:
        """query (B or 1, T, D), or (N, D) packed; context and memory are keys and values. Returns (B, T, D) or (N, D)."""
        x = query + self.dropout(self.self_attn(self.norm_q(query), context, visible, packing))
        x = x + self.dropout(self.cross_attn(self.norm1(x), memory, memory_visible, packing))
        return x + self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(self.norm2(x))))))


class Decoder(nn.Module):
    def __init__(self, config: PARSeqConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            [DecoderLayer(config.dim, config.decoder_heads, config.mlp_ratio * config.dim, config.dropout)])
        self.norm = nn.LayerNorm(config.dim)


class TokenEmbedding(nn.Module):
    def __init__(self, size: int, dim: int):
        super().__init__()
        self.embedding = nn.Embedding(size, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        return math.sqrt(self.embedding.embedding_dim) * self.embedding(tokens)


class PARSeq(nn.Module):
    def __init__(self, config: PARSeqConfig):
        super().__init__()
        self.config = config
        self.charset = Charset(config.characters)
        self.encoder = TextEncoder(config.stem, (config.img_height, config.img_width),
                                   (config.patch_height, config.patch_width), config.dim, config.depth, config.heads,
                                   config.mlp_ratio)
        self.decoder = Decoder(config)
        self.head = nn.Linear(config.dim, self.charset.size - 2)
        self.text_embed = TokenEmbedding(self.charset.size, config.dim)
        self.pos_queries = nn.Parameter(torch.zeros(1, config.max_label_length + 1, config.dim))
        self.dropout = nn.Dropout(config.dropout)
        self.reading = dict(READING)
        self.decoder_trained = True  # False where its training left the decoder out (--decoder-weight 0)
        self.temperature = 1.0  # logits are divided by it for the scores of readings (models/parseq_confidence.py)
        if config.ctc:  # blank takes the place of EOS, id 0
            self.ctc_head = nn.Linear(config.dim, config.ctc_frames * (self.charset.size - 2))
        _init_weights(self)

    def forward(self, images: Tensor, widths: Tensor, tokens: Tensor, step_seed: int,
                decoder: bool = True) -> dict[str, Tensor]:
        """The training pass over all permutations at once; parseq_loss takes what it returns. decoder: False for the
        CTC head alone.

        tokens (B, n + 2) int64: BOS, characters, EOS, PAD up to the longest label of n characters. The permutations
        depend on step_seed and, from five characters on, not on n, so that the micro-batches of one step share them.
        Returns logits (N, V - 2) and targets (N,) of the N tokens to predict (PAD apart; EOS in the first two
        permutations only), samples (N,) that they belong to, perm_num, and for the CTC head ctc_logits (B, frames,
        V - 2), ctc_lengths (B,) and labels.
        """
        memory, memory_visible = self.encoder(images, widths)
        patches = self.config.rows * (images.shape[3] // self.config.patch_width)
        assert memory.shape[1] == patches, (f"{memory.shape[1]} memory tokens for {patches} patches: is a CLS token "
                                            "left in?")
        outputs = {"labels": tokens[:, 1:]}
        if decoder:
            orders = sample_permutations(tokens.shape[1] - 2, self.config, step_seed).to(tokens.device)
            outputs |= self.permuted(memory, memory_visible, tokens, orders)
        if self.config.ctc:
            outputs |= {"ctc_logits": self.ctc_logits(memory),
                        "ctc_lengths": self.config.frames_in(widths)}
        return outputs

    def ctc_logits(self, memory: Tensor) -> Tensor:
        """(B, frames, V - 2): frame by frame from left to right, the blank at EOS's place."""
        by_column = memory.unflatten(1, (self.config.rows, -1)).mean(1)
        return self.ctc_head(by_column).unflatten(2, (self.config.ctc_frames, -1)).flatten(1, 2)

    def permuted(self, memory: Tensor, memory_visible: Tensor | None, tokens: Tensor, orders: Tensor) -> dict:
        """Logits, targets, samples and perm_num of `forward`, from the image tokens on."""
        targets = tokens[:, None, 1:].repeat(1, len(orders), 1)
        targets[:, 2:][targets[:, 2:] == EOS] = self.charset.pad
        counted = targets != self.charset.pad
        decoded = self.decode_permutations(memory, memory_visible, tokens, orders, counted)
        samples = torch.arange(len(targets), device=tokens.device)[:, None, None].expand_as(counted)
        return {"logits": self.head(decoded), "targets": targets[counted], "samples": samples[counted],
                "perm_num": len(orders)}

    def decode_permutations(self, memory: Tensor, memory_visible: Tensor | None, tokens: Tensor, orders: Tensor,
                            counted: Tensor) -> Tensor:
        """Decoder output (N, D) at the N places that counted (B, K, n + 1) names; orders (K, n + 2) as
        sample_permutations gives them. The permutations lie side by side in the query dimension, so that text and memory
        are projected once."""
        read = tokens[:, :-1]
        text_visible = (read != self.charset.pad) & (read != EOS)
        visible = visible_keys(orders).flatten(0, 1) & text_visible[:, None, None]  # (B, 1, K * T, L)
        packing = Packing(counted.flatten(1))
        query = self.pos_queries[0].index_select(0, packing.index % read.shape[1])
        return self.query(self.dropout(query), self.context(read), self.memory_keys_values(memory), visible,
                          memory_visible, packing)

    @property
    def position_scale(self) -> float:
        """Of positions in the context."""
        return math.sqrt(self.config.dim) if self.config.scale_positions else 1.0

    def context(self, tokens: Tensor, first: int = 0) -> tuple[Tensor, Tensor]:
        """Keys and values of the text tokens (B, L) whose first stands at place `first`; BOS, at place 0, has no
        position, and the character at place i has position i - 1."""
        embedded = self.text_embed(tokens)
        last = first + tokens.shape[1] - 1
        positions = self.position_scale * self.pos_queries[:, max(first - 1, 0) : last]
        positions = F.pad(positions, (0, 0, 1 if first == 0 else 0, 0))
        layer = self.decoder.layers[0]
        return layer.self_attn.keys_values(layer.norm_c(self.dropout(embedded + positions)))

    @torch.no_grad()
    def read(self, images: Tensor, widths: Tensor | None = None, decode: str = "ar",
             refine_iters: int = 1) -> tuple[Tensor, Tensor]:
        """Greedy reading: ids (B, T) and their probabilities (B, T) float32; what follows a row's EOS means nothing."""
        return most_probable(self.read_logits(images, widths, decode, refine_iters), self.temperature)

    @torch.no_grad()
    def read_logits(self, images: Tensor, widths: Tensor | None, decode: str, refine_iters: int) -> Tensor:
        """Logits (B, T, V - 2) of a greedy reading."""
        memory, memory_visible = self.encoder(images, widths)
        return self.decode(memory, memory_visible, decode, refine_iters)

    @torch.no_grad()
    def see(self, images: Tensor, widths: Tensor | None) -> tuple[Tensor, list[int]]:
        """What the CTC head sees: logits (B, frames, V - 2), and how many of the frames are no padding in each row."""
        memory, memory_visible = self.encoder(images, widths)
        frames = self.ctc_logits(memory)
        return frames, self.config.frames_used(frames, memory_visible)

    def keep_decoder(self) -> None:
        """Train the encoder and the CTC head alone."""
        for part in (self.decoder, self.head, self.text_embed):
            part.requires_grad_(False)
        self.pos_queries.requires_grad_(False)

    def decode(self, memory: Tensor, memory_visible: Tensor | None, decode: str, refine_iters: int) -> Tensor:
        """Logits (B, T, V - 2). decode 'ar' reads left to right until every row has its EOS, 'nar' all positions at
        once, 'ctc' by the auxiliary head; each of refine_iters passes then reads every position again, given all other
        characters (cloze)."""
        if decode == "ctc":
            frames = self.ctc_logits(memory)
            logits = path_logits(frames, self.config.frames_used(frames, memory_visible), len(self.pos_queries[0]),
                                 self.charset.case_pairs)
            if refine_iters == 0:
                return logits
        memory_kv = self.memory_keys_values(memory)
        bos = torch.full((len(memory), 1), self.charset.bos, device=memory.device)
        if decode == "ar":
            logits = decode_autoregressive(self, memory_kv, memory_visible)
        elif decode == "nar":
            logits = self.head(self.query(self.pos_queries, self.context(bos), memory_kv, None, memory_visible))
        for _ in range(refine_iters):
            logits = self.refine(torch.cat([bos, logits[:, :-1].argmax(-1)], dim=1), memory_kv, memory_visible)
        return logits

    def refine(self, tokens: Tensor, memory_kv: tuple[Tensor, Tensor], memory_visible: Tensor | None) -> Tensor:
        """Logits (B, T, V - 2) of every place, given the other characters: tokens (B, L) are BOS and what was read, up
        to its EOS. All places are asked, also those behind the last step of 'ar': so no row depends on its neighbours."""
        before_eos = (tokens == EOS).cumsum(1) == 0
        place = torch.arange(self.pos_queries.shape[1], device=tokens.device)
        others = place[:, None] + 1 != place[: tokens.shape[1]]
        visible = others & before_eos[:, None, None]
        return self.head(self.query(self.pos_queries, self.context(tokens), memory_kv, visible, memory_visible))

    def memory_keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """What the text attends to of the image, projected once for all characters."""
        return self.decoder.layers[0].cross_attn.keys_values(memory)

    def query(self, *arguments) -> Tensor:
        """The decoder layer, its arguments, and the last norm; what the head takes."""
        return self.decoder.norm(self.decoder.layers[0](*arguments))


def _init_weights(model: PARSeq) -> None:
    """As published: truncated normals of 0.02 for what is linear, an embedding or a position; biases 0."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.trunc_normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
    nn.init.trunc_normal_(model.encoder.pos_embed, std=0.02)
    nn.init.trunc_normal_(model.pos_queries, std=0.02)


def build_model(config: PARSeqConfig) -> PARSeq:
    return PARSeq(config)


def load_model(path: Path, device: torch.device) -> tuple[PARSeq, dict]:
    """(model in eval mode, checkpoint). Raises DataError where the charset is not the one that was trained."""
    checkpoint = load_checkpoint(path, "recognition")
    model = build_model(PARSeqConfig(**checkpoint["config"]))
    if checkpoint["charset_digest"] != model.charset.digest:
        raise DataError(f"{path}: its charset is not the one it was trained with; the file was changed")
    load_weights(model, weights_of(checkpoint), path)
    model.temperature = checkpoint.get("temperature", 1.0)
    model.reading |= checkpoint.get("reading", {})
    model.decoder_trained = checkpoint.get("args", {}).get("decoder_weight", 1.0) > 0
    return model.to(device).eval(), checkpoint


def read_raw(model: PARSeq, images: Tensor, widths: Tensor, decode: str, refine_iters: int) -> list[tuple[str, float]]:
    """(text, score) of a batch as stack_crops makes it, which may be pieces of lines; the score is that of `recognise`."""
    return with_scores(model.charset, *model.read(images, widths, decode, refine_iters))


def most_probable(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(B, T, V - 2) -> ids (B, T) and their calibrated probabilities (B, T) float32."""
    probabilities, ids = (logits.float() / temperature).softmax(-1).max(-1)
    return ids, probabilities


def with_scores(charset: Charset, ids: Tensor, probabilities: Tensor) -> list[tuple[str, float]]:
    """The text of each row, and the product of its probabilities up to its EOS."""
    ids, probabilities = ids.cpu(), probabilities.cpu()
    scores = torch.where(reading_length(ids), probabilities, 1.0).prod(1).tolist()
    return [(charset.decode(row), score) for row, score in zip(ids.tolist(), scores)]


def read_texts(*arguments, **options) -> list[tuple[str, float]]:
    """read_raw of whole lines, their gaps as labels have them."""
    return [(one_space(text), score) for text, score in read_raw(*arguments, **options)]


if __name__ == "__main__":
    from models.parseq_weights import main
    from utils.errors import exit_cleanly

    exit_cleanly(main)
