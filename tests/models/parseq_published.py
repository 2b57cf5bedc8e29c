"""The published PARSeq written plainly from the paper and the public layout of its weights: timm's ViT without CLS token,
nn.MultiheadAttention, one decoder pass a step, nothing kept from one step to the next."""

import math

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

PUBLISHED_CHARACTERS = ("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                        "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


class PlainLayer(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.cross_attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.norm1, self.norm2, self.norm_q, self.norm_c = (nn.LayerNorm(dim) for _ in range(4))


class PlainDecoder(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.layers = nn.ModuleList([PlainLayer(dim, heads)])
        self.norm = nn.LayerNorm(dim)


class PlainEmbedding(nn.Module):
    def __init__(self, size, dim):
        super().__init__()
        self.embedding = nn.Embedding(size, dim)


class PublishedPARSeq(nn.Module):
    """Ids: EOS 0, characters, BOS V - 2, PAD V - 1."""

    def __init__(self, dim=192, heads=3, decoder_heads=6, depth=12, characters=94, longest=25):
        super().__init__()
        self.longest, self.bos = longest, characters + 1
        self.encoder = VisionTransformer((32, 128), (4, 8), embed_dim=dim, depth=depth, num_heads=heads, num_classes=0,
                                         global_pool="", class_token=False)
        self.decoder = PlainDecoder(dim, decoder_heads)
        self.head = nn.Linear(dim, characters + 1)
        self.text_embed = PlainEmbedding(characters + 3, dim)
        self.pos_queries = nn.Parameter(torch.zeros(1, longest + 1, dim))

    def logits(self, memory, context, query, hidden=None, padding=None):
        layer = self.decoder.layers[0]
        embedded = math.sqrt(self.pos_queries.shape[2]) * self.text_embed.embedding(context)
        embedded = torch.cat([embedded[:, :1], embedded[:, 1:] + self.pos_queries[:, : context.shape[1] - 1]], 1)
        content = layer.norm_c(embedded)
        x = query
        x = x + layer.self_attn(layer.norm_q(x), content, content, attn_mask=hidden, key_padding_mask=padding)[0]
        x = x + layer.cross_attn(layer.norm1(x), memory, memory)[0]
        x = x + layer.linear2(F.gelu(layer.linear1(layer.norm2(x))))
        return self.head(self.decoder.norm(x))

    @torch.no_grad()
    def read(self, images, decode, refine_iters):
        memory, steps = self.encoder.forward_features(images), self.longest + 1
        query = self.pos_queries.expand(len(images), -1, -1)
        bos = torch.full((len(images), 1), self.bos)
        if decode == "nar":
            logits = self.logits(memory, bos, query)
        else:
            context, logits = bos, []
            for step in range(steps):
                logits.append(self.logits(memory, context, query[:, step : step + 1]))
                context = torch.cat([context, logits[-1].argmax(-1)], 1)
                if (context == 0).any(1).all():
                    break
            logits = torch.cat(logits, 1)
        for _ in range(refine_iters):
            context = torch.cat([bos, logits[:, :-1].argmax(-1)], 1)
            hidden = torch.zeros(steps, context.shape[1], dtype=torch.bool)
            for place in range(context.shape[1] - 1):
                hidden[place, place + 1] = True  # each place sees all characters but its own
            logits = self.logits(memory, context, query, hidden, (context == 0).int().cumsum(1) > 0)
        return logits


def published_weights(seed=0, **sizes):
    """A published model whose every weight is random and large enough that its answers differ from place to place."""
    torch.manual_seed(seed)
    model = PublishedPARSeq(**sizes).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
            if name in ("pos_queries", "text_embed.embedding.weight", "encoder.pos_embed"):
                parameter.mul_(6)
    return model
