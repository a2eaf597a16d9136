"""Torch models with published names and random weights."""

from collections import OrderedDict

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel


def random_clip() -> CLIPModel:
    """A CLIP whose every tensor differs from its initial value."""
    text = {
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "vocab_size": 60,
        "max_position_embeddings": 10,
        "eos_token_id": 59,
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 48,
        "patch_size": 16,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-4,
    }
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    return randomised(model).eval()


def randomised(model: nn.Module, scale: float = 0.05) -> nn.Module:
    """Adds noise to all parameters, so that no bias, scale or zero can be lost unseen."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model


class _Transformer(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.Sequential(*(_Block(width) for _ in range(layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.resblocks(x)


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64, batch_first=True)
        self.ln_1 = nn.LayerNorm(width)
        layers = {
            "c_fc": nn.Linear(width, 4 * width),
            "gelu": nn.GELU(),
            "c_proj": nn.Linear(4 * width, width),
        }
        self.mlp = nn.Sequential(OrderedDict(layers))
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.ln_1(x)
        return x + self.attn(y, y, y, need_weights=False)[0] + self.mlp(self.ln_2(x))


class _Vision(nn.Module):
    def __init__(self, width: int = 128, embed_dim: int = 32) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.zeros(width))
        self.positional_embedding = nn.Parameter(torch.zeros(1 + 9, width))
        self.proj = nn.Parameter(torch.zeros(width, embed_dim))
        self.conv1 = nn.Conv2d(3, width, 8, 8, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = _Transformer(width, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        x = self.conv1(image).flatten(2).transpose(1, 2)
        cls = self.class_embedding.expand(x.shape[0], 1, -1)
        x = self.ln_pre(torch.cat([cls, x], 1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class OpenAIClip(nn.Module):
    """Just enough of a CLIP for tracing to keep every tensor."""

    def __init__(self, width: int = 64, embed_dim: int = 32) -> None:
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.zeros(12, width))
        self.text_projection = nn.Parameter(torch.zeros(width, embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(2.6))
        self.visual = _Vision(embed_dim=embed_dim)
        self.transformer = _Transformer(width, 3)
        self.token_embedding = nn.Embedding(100, width)
        self.ln_final = nn.LayerNorm(width)
        for name, value in {
            "input_resolution": 24,
            "context_length": 12,
            "vocab_size": 100,
        }.items():
            self.register_buffer(name, torch.tensor(value))

    def forward(self, image: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding)
        text = self.ln_final(x)[:, -1] @ self.text_projection
        buffers = self.input_resolution + self.context_length + self.vocab_size
        return self.logit_scale.exp() * self.visual(image) @ text.T + buffers
