"""BT-Adapter: a branching temporal adapter beside a frozen CLIP (Liu et al., Sections 3.1, 3.3).

K divided space-time layers read the outputs of the last K blocks. Where paper and published code
differ, the published reading is the default and the paper's an option of `BTAdapter`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vlt.adapters.branch import Branch, BranchOptions, Layout
from vlt.models.points import Method, TowerScope, copy_leaves
from vlt.models.spec import Spec
from vlt.models.tokens import Tokens
from vlt.models.vit import normalize


@dataclasses.dataclass(frozen=True)
class BTAdapter(BranchOptions, Method):
    """Options of the branch, and of what is made of it. Leaves live under `visual/btadapter`.

    pool: `project_then_mean` over time, or the paper's `mean_then_project` (Eq. 5).
    mask_rate: share of patches dropped from the branch in training (Section 3.3).
    mask_layout: `tube`, the same patches in every frame; `released`, as the published code indexes.
    conversation: also put out `language_tokens`, from the second-to-last layers of both sides.
    temporal_halving: conversation attends over T/2 frames for T <= 64, as the released scripts do.
    """

    name: ClassVar[str] = "btadapter"
    needs: ClassVar[frozenset[str]] = frozenset(
        {"class_token", "frame_groups", "patch_places", "pooled_alone"}
    )
    other_frames_tested: ClassVar[bool] = True

    pool: str = "project_then_mean"
    mask_rate: float = 0.0
    mask_layout: str = "tube"
    conversation: bool = False
    temporal_halving: bool = False

    def __post_init__(self) -> None:
        choices = {
            "gates": ("vector", "scalar", "none"),
            "inputs": ("last_k", "last_k_plus_1"),
            "video_cls": ("mixed", "learned"),
            "pool": ("project_then_mean", "mean_then_project"),
            "mask_layout": ("tube", "released"),
            "alignment": ("normalized", "linear", "none"),
        }
        for field, allowed in choices.items():
            if getattr(self, field) not in allowed:
                raise ValueError(
                    f"unknown btadapter.{field}: {getattr(self, field)!r}; choose from "
                    f"{', '.join(allowed)}"
                )
        for field in ("mask_rate", "drop_path"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(
                    f"btadapter.{field} must be >= 0 and < 1, got {getattr(self, field)}"
                )
        for field in ("depth", "max_frames"):
            if getattr(self, field) < 1:
                raise ValueError(f"btadapter.{field} must be >= 1, got {getattr(self, field)}")

    @property
    def reads_patches(self) -> bool:
        return True

    def side_branch(
        self, tower: TowerScope, hidden: Sequence[Tokens], train: bool, capture: bool
    ) -> tuple[Tokens, dict[str, Any]]:
        """Point 8. With `train`, `out` has what MBTA and MBCA compare (Eq. 7, 8)."""
        states = [without_prompts(tokens) for tokens in hidden]
        branch = Branch(
            tower.spec,
            tower.embed_dim,
            self,
            train,
            tower.cls_only,
            tower.remat,
            tower.dtype,
            name="btadapter",
        )
        if self.conversation:
            return hidden[-1], {"language_tokens": self._language_tokens(branch, tower, states)}
        layout: Layout = _identity
        teacher_layout: Layout = _identity
        if train and self.mask_rate:
            b, _, n, _ = states[0].shape
            kept = draw_kept(tower.make_rng("mask"), (b, n - 1), self.mask_rate)
            layout, teacher_layout = mask_layouts(self.mask_layout, kept)
        cls, patches, captured = branch(states, tower.position_embedding, layout)
        out: dict[str, Any] = {"branch": captured} if capture else {}
        if train:
            out["branch_features"] = tower.projection(patches).mean((1, 2))
            if self.alignment != "none":
                out["student"], out["teacher"] = self._alignment(
                    branch, tower, patches, teacher_layout(states[-1][:, :, 1:])
                )
        combined = branch.combine(cls, states[-1][:, :, 0])
        if self.pool == "mean_then_project":
            combined = combined.mean(1, keepdims=True)
        return Tokens(combined[:, :, None]), out

    def _alignment(
        self, branch: Branch, tower: TowerScope, patches: jax.Array, teacher: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Student and teacher tokens [b, t, k, e] of MBTA."""
        if self.alignment == "linear":
            return branch.align(patches), jax.lax.stop_gradient(tower.projection(teacher))
        target = normalize(tower.project_tokens(teacher))
        return normalize(branch.align(patches)), jax.lax.stop_gradient(target)

    def _language_tokens(
        self, branch: Branch, tower: TowerScope, states: list[jax.Array]
    ) -> jax.Array:
        """[b, n + 1, d]: patches, then the video CLS, averaged over time and over both sides."""
        frames = states[0].shape[1]
        layout: Layout = _identity
        if frames > self.max_frames:
            states = [average_pairs(x) for x in states]
        elif self.temporal_halving:
            layout = halve_time
        cls, patches, _ = branch(states, tower.position_embedding, layout, self.depth - 1)
        penultimate = states[-2]
        b, _, n, d = penultimate[:, :, 1:].shape
        branch_patches = patches.reshape(b, patches.shape[1], n, -1, d).mean((1, 3))
        patch_tokens = (penultimate[:, :, 1:].mean(1) + branch_patches) / 2
        cls_token = (penultimate[:, :, 0].mean(1) + cls) / 2
        return jnp.concatenate([patch_tokens, cls_token[:, None]], axis=1)

    def init_from_backbone(self, params: dict, spec: Spec) -> dict:
        """Spatial layers start as copies of the blocks they stand beside."""
        visual = dict(params["visual"])
        branch = dict(visual["btadapter"])
        for j in range(self.depth):
            name, beside = f"spatial_{j}", f"blocks_{spec.visual.layers - self.depth + j}"
            branch[name] = copy_leaves(branch[name], visual[beside])
        return params | {"visual": visual | {"btadapter": branch}}


METHOD = BTAdapter


def without_prompts(tokens: Tokens) -> jax.Array:
    """CLS token and patches [b, t, 1 + patches, d]."""
    if tokens.protected == tokens.cls:
        return tokens.x
    return jnp.concatenate([tokens.x[:, :, : tokens.cls], tokens.x[:, :, tokens.protected :]], 2)


def draw_kept(rng: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Patches that stay of [..., n], ascending, int [..., n - int(rate * n)]."""
    order = jax.random.uniform(rng, shape).argsort(-1)
    return jnp.sort(order[..., int(rate * shape[-1]) :], axis=-1)


def mask_layouts(kind: str, kept: jax.Array) -> tuple[Layout, Layout]:
    """How branch and teacher tokens [b, t, n, d] are gathered to [b, t, k, d].

    `tube` keeps the same patches in every frame on both sides. `released` reproduces the published
    code: an index laid out frame-major is applied to patch-major branch tokens, so that neither
    the groups nor the pairing with the teacher are those of the paper.
    """

    def tube(x: jax.Array) -> jax.Array:
        return jnp.take_along_axis(x, kept[:, None, :, None], axis=2)

    def released(x: jax.Array) -> jax.Array:
        b, t, n, d = x.shape
        index = (jnp.arange(t)[None, :, None] * n + kept[:, None]).reshape(b, -1, 1)
        patch_major = x.swapaxes(1, 2).reshape(b, n * t, d)
        taken = jnp.take_along_axis(patch_major, index, axis=1)
        return taken.reshape(b, kept.shape[1], t, d).swapaxes(1, 2)

    def released_teacher(x: jax.Array) -> jax.Array:
        b, t, _, d = x.shape
        return tube(x).reshape(b, kept.shape[1], t, d).swapaxes(1, 2)

    return (tube, tube) if kind == "tube" else (released, released_teacher)


def average_pairs(x: jax.Array) -> jax.Array:
    """Means of consecutive frames, [b, t, n, d] -> [b, t / 2, n, d]."""
    b, t, n, d = x.shape
    if t % 2:
        raise ValueError(f"{t} frames: conversation averages pairs of frames, give an even number")
    return x.reshape(b, t // 2, 2, n, d).mean(2)


def halve_time(x: jax.Array) -> jax.Array:
    """Frames i and i + t/2 share a group, [b, t, n, d] -> [b, t / 2, 2n, d], n-major."""
    b, t, n, d = x.shape
    if t % 2:
        raise ValueError(f"{t} frames: temporal_halving needs an even number")
    return x.reshape(b, 2, t // 2, n, d).transpose(0, 2, 3, 1, 4).reshape(b, t // 2, 2 * n, d)


def _identity(x: jax.Array) -> jax.Array:
    return x
