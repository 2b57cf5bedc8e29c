"""Reading left to right by guess and check: the characters are those of a step a character, in fewer passes.

A step over one place takes nearly as long as a pass over several: it is bound by fetching the decoder's weights. So some
places are asked ahead, and in the next pass asked again, each given the answers before it. Up to the first answer that
changes, and with it, the answers are those of a reader that goes step by step; what follows is the next guess. Parallel
decoding by Jacobi's iteration: Santilli et al., "Accelerating Transformer Inference for Translation via Parallel
Decoding", ACL 2023. At worst a pass settles one place, as a step does.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.charset import EOS

# Places, of all rows together, that a pass asks, or twice as many as the last one settled. On a CPU more are bound by
# arithmetic (benchmarks/recognition.py); what a GPU does while a step's kernels start is reckoned, not measured.
AT_ONCE = {"cpu": 16, "cuda": 1024}
FEWEST = 4  # places of a row; in batches for which that is too many, a step a character is faster


class Passes:
    """The decoder over some places at a time, the keys and values of the text before them kept. It is
    DecoderLayer.forward written out, without dropout: its small operations take as long to call as to compute. What is
    asked at a place does not depend on the answers before it, so that all queries are projected at once."""

    def __init__(self, model, memory_kv: tuple[Tensor, Tensor], memory_visible: Tensor | None):
        layer, self.rows, self.dim = model.decoder.layers[0], len(memory_kv[0]), model.config.dim
        own, cross, self.heads = layer.self_attn, layer.cross_attn, layer.self_attn.heads
        self.places = model.pos_queries.shape[1]
        self.embed, self.positions, self.memory_kv, self.memory_visible = (
            model.text_embed, model.pos_queries, memory_kv, memory_visible)
        self.behind = F.pad(model.position_scale * model.pos_queries[:, :-1], (0, 0, 1, 0))  # BOS has no position
        self.norm_c, self.norm1, self.norm2, self.norm, self.own_out, self.cross_out, self.linear1, self.linear2, \
            self.head = ((part.weight, part.bias) for part in (
                layer.norm_c, layer.norm1, layer.norm2, model.decoder.norm, own.out_proj, cross.out_proj, layer.linear1,
                layer.linear2, model.head))
        self.own_kv = own.in_proj_weight[self.dim :], own.in_proj_bias[self.dim :]
        self.cross_q = cross.in_proj_weight[: self.dim], cross.in_proj_bias[: self.dim]
        self.queries = own.queries(layer.norm_q(model.pos_queries)).expand(self.rows, -1, -1, -1)
        self.kept = self.queries.new_empty(2, self.rows, self.heads, self.places, self.dim // self.heads)
        place = torch.arange(self.places, device=self.queries.device)
        self.visible = place[:, None] >= place

    def __call__(self, tokens: Tensor, first: int, end: int) -> Tensor:
        """Logits (B, end - first, V - 2) of the places from first to end, given what was kept and tokens (B, n), which
        are read at the places from first on; a place sees the tokens at and before it."""
        known, dim = first + tokens.shape[1], self.dim
        new = F.linear(torch.layer_norm(self.embed(tokens) + self.behind[:, first:known], (dim,), *self.norm_c),
                       *self.own_kv)
        self.kept[:, :, :, first:known] = new.unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        visible = self.visible[first:end, :known] if tokens.shape[1] > 1 else None
        attended = F.scaled_dot_product_attention(self.queries[:, :, first:end], *self.kept[:, :, :, :known], visible)
        x = self.positions[:, first:end] + F.linear(self.join(attended), *self.own_out)
        query = F.linear(torch.layer_norm(x, (dim,), *self.norm1), *self.cross_q)
        query = query.unflatten(2, (self.heads, -1)).transpose(1, 2)
        attended = F.scaled_dot_product_attention(query, *self.memory_kv, self.memory_visible)
        x = x + F.linear(self.join(attended), *self.cross_out)
        x = x + F.linear(F.gelu(F.linear(torch.layer_norm(x, (dim,), *self.norm2), *self.linear1)), *self.linear2)
        return F.linear(torch.layer_norm(x, (dim,), *self.norm), *self.head)

    @staticmethod
    def join(heads: Tensor) -> Tensor:
        return heads.transpose(1, 2).flatten(2)


def decode_autoregressive(model, memory_kv: tuple[Tensor, Tensor], memory_visible: Tensor | None,
                          guess: bool | None = None) -> Tensor:
    """Logits (B, T, V - 2) of reading until every row has its EOS, or to the last place; those behind a row's EOS mean
    nothing. memory_kv as PARSeq.memory_keys_values gives them. guess: by guess and check, or a step a character; None is
    what is faster for so many rows."""
    passes = Passes(model, memory_kv, memory_visible)
    rows, places, device = passes.rows, passes.places, passes.queries.device
    window = AT_ONCE.get(device.type, 16) // max(rows, 1)
    if guess is None:
        guess = window >= FEWEST
    window = max(window, FEWEST) if guess else 1
    texts = [[model.charset.bos] for _ in range(rows)]  # the answer at a place is read at the next
    logits = passes.queries.new_empty(rows, places, len(passes.head[0]))
    first, end = 0, min(window, places)
    while rows:
        read = torch.tensor([text[first:end] for text in texts], device=device)
        logits[:, first:end] = answered = passes(read, first, end)
        open_rows, lengths = [], []  # (places settled, places to the EOS that may be a guess) of rows that go on
        for text, answers in zip(texts, answered.argmax(-1).tolist()):
            settled = min(end, first + 1 + count_equal(text[first + 1 : end + 1], answers))
            text[first + 1 : end + 1] = answers
            lengths.append(text.index(EOS, 1) if EOS in text else places)
            if lengths[-1] > settled:
                open_rows.append((settled, lengths[-1]))
        if not open_rows:
            return logits[:, : max(lengths)]
        before, first = first, min(settled for settled, _ in open_rows)
        ahead = max(window, 2 * (first - before)) if guess else 1
        end = min(first + ahead, max(length for _, length in open_rows))
    return logits[:, :0]


def count_equal(some: list[int], others: list[int]) -> int:
    """How many of them are the same, from the first on."""
    pairs = zip(some, others)
    return next((place for place, (one, other) in enumerate(pairs) if one != other), min(len(some), len(others)))


def reading_length(ids: Tensor) -> Tensor:
    """(B, T) ids -> (B, T) bool: up to the first EOS and with it."""
    return (ids == EOS).cumsum(1) - (ids == EOS).int() == 0
