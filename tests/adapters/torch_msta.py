"""MSTA in torch: Algorithms 1 and 2 beside frozen blocks of CLIP, with a vlt model's leaves."""

import numpy as np
import torch

from vlt.models.dual_encoder import DualEncoder

HEADS, LAYERS = 2, 2  # in both towers


class TorchAdapter(torch.nn.Module):
    """Algorithm 1, or Algorithm 2 where there is a convolution, as the paper lists their layers."""

    def __init__(self, leaf: dict, shared: torch.nn.Linear | None) -> None:
        super().__init__()
        self.down, self.up, self.shared = linear(leaf["down"]), linear(leaf["up"]), shared
        if "temporal_up" in leaf:
            kernel = torch.tensor(leaf["temporal_up"]["kernel"])
            width, mid = kernel.shape[-1], len(leaf["up"]["kernel"])
            groups = mid // kernel.shape[1]
            self.temporal_up = torch.nn.Conv3d(mid, width, (3, 1, 1), padding="same", groups=groups)
            self.temporal_up.weight.data = kernel.permute(2, 1, 0)[..., None, None].contiguous()
            self.temporal_up.bias.data = torch.tensor(leaf["temporal_up"]["bias"])

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.down(x))
        return h if self.shared is None else torch.relu(self.shared(h))

    def forward(self, x: torch.Tensor, frames: int = 0, replicate: bool = False) -> torch.Tensor:
        """x: words [b, l, d], or CLS and patches: [b, 1 + n * frames, d] in a joint tower,
        [b, frames, 1 + n, d] with frames apart."""
        h = self.hidden(x)
        if not frames:
            return self.up(h)
        if x.ndim == 4:
            volume = h.permute(0, 3, 1, 2)[..., None]  # b m t n 1
        else:
            cls = h[:, :1, None].expand(-1, -1, frames, -1)
            patches = h[:, 1:].unflatten(1, (-1, frames))
            volume = torch.cat([cls, patches], 1).permute(0, 3, 2, 1)[..., None]
        over_time = self.temporal_up(volume)[..., 0].permute(0, 2, 3, 1)  # b t n d
        if not replicate:
            over_time = torch.cat([0 * over_time[:, :, :1], over_time[:, :, 1:]], 2)
        if x.ndim == 3:
            patches = over_time[:, :, 1:].transpose(1, 2).flatten(1, 2)
            over_time = torch.cat([over_time[:, :, 0].mean(1, keepdim=True), patches], 1)
        return self.up(h) + over_time


def linear(leaf: dict) -> torch.nn.Linear:
    layer = torch.nn.Linear(*leaf["kernel"].shape)
    layer.weight.data = torch.tensor(leaf["kernel"]).T.contiguous()
    layer.bias.data = torch.tensor(leaf["bias"])
    return layer


def norm(leaf: dict, x: torch.Tensor) -> torch.Tensor:
    scale, bias = (torch.tensor(leaf[name]) for name in ("scale", "bias"))
    return torch.nn.functional.layer_norm(x, x.shape[-1:], scale, bias, 1e-5)


def frozen(leaf: dict, name: str, x: torch.Tensor) -> torch.Tensor:
    kernel, bias = (torch.tensor(leaf[name][part]) for part in ("kernel", "bias"))
    return x @ kernel + bias


def torch_block(leaf: dict, x: torch.Tensor, causal: bool) -> torch.Tensor:
    """CLIP's block on [..., n, d], frozen."""
    y = norm(leaf["norm1"], x)
    q, k, v = (
        frozen(leaf["attention"], name, y).unflatten(-1, (HEADS, -1)).transpose(-2, -3)
        for name in ("query", "key", "value")
    )
    y = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
    x = x + frozen(leaf["attention"], "out", y.transpose(-2, -3).flatten(-2))
    y = frozen(leaf["mlp"], "fc1", norm(leaf["norm2"], x))
    return x + frozen(leaf["mlp"], "fc2", y * torch.sigmoid(1.702 * y))


class TorchTowers:
    """Both towers after their stems, with adapters built from the model's leaves."""

    def __init__(self, model: DualEncoder, params: dict) -> None:
        self.options, self.params = model.methods[-1], params
        self.adapters = {}
        for layer in range(LAYERS):
            name = f"blocks_{layer}"
            shared = linear(params["shared_MSTA"][name]) if self.options.shared else None
            for tower in ("visual", "text"):
                self.adapters[tower, name] = TorchAdapter(params[tower][name]["msta"], shared)

    def tower(self, tower: str, x: torch.Tensor, **call) -> torch.Tensor:
        """x' = Block(x) + scale A(LN1(x)), block after block."""
        for layer in range(LAYERS):
            leaf = self.params[tower][f"blocks_{layer}"]
            read = norm(leaf["norm1"], x) if self.options.adapter_input == "ln1" else x
            added = self.adapters[tower, f"blocks_{layer}"](read, **call)
            x = torch_block(leaf, x, tower == "text") + self.options.scale * added
        return x

    def features(self, stems: dict[str, np.ndarray], ids: np.ndarray, patches: int) -> torch.Tensor:
        """Video and text features, [2, b, e], from the blocks' inputs. patches: per frame."""
        replicate = self.options.cls_temporal == "replicate"
        video = torch.tensor(stems["visual"])
        joint = video.shape[1] == 1
        video = video[:, 0] if joint else video
        frames = (video.shape[1] - 1) // patches if joint else video.shape[1]
        video = self.tower("visual", video, frames=frames, replicate=replicate)
        cls = norm(self.params["visual"]["post_norm"], video[..., 0, :])
        cls = cls @ torch.tensor(self.params["visual"]["projection"]["kernel"])
        text = self.tower("text", torch.tensor(stems["text"])[:, 0])
        last = norm(self.params["text"]["final_norm"], text)[range(len(ids)), ids.argmax(1)]
        text = last @ torch.tensor(self.params["text"]["projection"]["kernel"])
        return torch.stack([cls if joint else cls.mean(1), text])

    def gradients(self) -> dict:
        """The adapters' gradients, by our paths and in our layout."""
        found = {}
        for (tower, block), adapter in self.adapters.items():
            for name, layer in adapter.named_children():
                path = f"{tower}/{block}/msta/{name}"
                if name == "shared":
                    path = f"shared_MSTA/{block}"
                kernel = layer.weight.grad
                turned = kernel.T if kernel.ndim == 2 else kernel[..., 0, 0].permute(2, 1, 0)
                found[f"{path}/kernel"] = turned.numpy()
                found[f"{path}/bias"] = layer.bias.grad.numpy()
        return found
