"""A small PARSeq and, beside it, the paper's decoder written plainly with nn.MultiheadAttention."""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import nn

from models.parseq import PARSeqConfig, build_model
from utils.charset import EOS

CHARACTERS = "abcdefg한글"
TINY = PARSeqConfig(CHARACTERS, dim=48, depth=2, heads=3, decoder_heads=6, img_width=64, bucket=16, max_label_length=8)


def make_model(seed: int = 0, **changes):
    """A model whose every parameter is random and large enough that answers differ from place to place."""
    torch.manual_seed(seed)
    model = build_model(replace(TINY, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
            if name in ("pos_queries", "text_embed.embedding.weight"):
                parameter.mul_(4)
    return model


def make_images(count: int = 5, width: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, 32, width, generator=torch.Generator().manual_seed(1))


def encode(model, texts: list[str]) -> torch.Tensor:
    rows = [model.charset.encode(text) for text in texts]
    longest = max(map(len, rows))
    return torch.tensor([row + [model.charset.pad] * (longest - len(row)) for row in rows])


class ReferenceDecoder:
    """Two-stream decoder of the paper's appendix, from the model's own state dict; additive masks, True = hidden."""

    def __init__(self, model):
        self.model, config = model, model.config
        state = model.state_dict()
        self.attention = {}
        for name in ("self_attn", "cross_attn"):
            attention = nn.MultiheadAttention(config.dim, config.decoder_heads, batch_first=True).eval()
            prefix = f"decoder.layers.0.{name}."
            attention.load_state_dict({k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)})
            self.attention[name] = attention

    @torch.no_grad()
    def __call__(self, memory, tokens, query, hidden=None, padding=None):
        model, layer = self.model, self.model.decoder.layers[0]
        embedding = model.text_embed.embedding.weight[tokens] * math.sqrt(model.config.dim)
        context = torch.cat([embedding[:, :1], embedding[:, 1:] + model.pos_queries[:, : tokens.shape[1] - 1]], 1)
        context = layer.norm_c(context)
        x = query
        x = x + self.attention["self_attn"](layer.norm_q(x), context, context, attn_mask=hidden,
                                            key_padding_mask=padding)[0]
        x = x + self.attention["cross_attn"](layer.norm1(x), memory, memory)[0]
        x = x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))
        return model.head(model.decoder.norm(x))


def reference_read(model, memory, decode: str, refine_iters: int) -> torch.Tensor:
    """Full-length decoding that recomputes the whole context at every step and never stops early."""
    decoder, steps, rows = ReferenceDecoder(model), model.pos_queries.shape[1], len(memory)
    bos = torch.full((rows, 1), model.charset.bos)
    query = model.pos_queries.expand(rows, -1, -1)
    if decode == "ar":
        tokens, logits = bos, []
        for i in range(steps):
            logits.append(decoder(memory, tokens, query[:, i : i + 1]))
            tokens = torch.cat([tokens, logits[-1].argmax(-1)], 1)
        logits = torch.cat(logits, 1)
    else:
        logits = decoder(memory, bos, query)
    for _ in range(refine_iters):
        tokens = torch.cat([bos, logits[:, :-1].argmax(-1)], 1)
        cloze = torch.eye(steps + 1, dtype=torch.bool)[1:, :steps]  # query i may not see key i + 1, the token it reads
        logits = decoder(memory, tokens, query, cloze, (tokens == EOS).cumsum(1) > 0)
    return logits
