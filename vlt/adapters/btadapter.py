"""BT-Adapter: a branching temporal adapter beside a frozen CLIP (Liu et al., Sections 3.1, 3.3).

K divided space-time layers read the outputs of the last K blocks. Where paper and published code
differ, the code's reading is the default and the paper's is an option of `BTAdapter`. STAN (Liu et
al., arXiv:2301.11116), from which it derives, is `gates="none"`, `class_token="backbone"` and
`alignment="none"`, with both towers trained; with gates, STAN starts as CLIP.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from vlt.adapters.branch import Branch, BranchOptions, Layout, mix
from vlt.models.points import Method, TowerScope, copy_leaves
from vlt.models.spec import ChatSpec, Spec
from vlt.models.tokens import Tokens, without_prompts
from vlt.models.vit import normalize


@dataclasses.dataclass(frozen=True)
class BTAdapter(BranchOptions, Method):
    """Options of the branch and of how its output is used. Leaves live under `visual/btadapter`.

    pool: `project_then_mean` over time, or the paper's `mean_then_project` (Eq. 5).
    mask_rate: share of patches dropped from the branch in training (Section 3.3).
    mask_layout: `tube`, the same patches in every frame; `released`, the published code's indexing.

    In a tower that pools its tokens (SigLIP, PE), a frame is its pooled embedding, and the video
    CLS passes the final LayerNorm before the two are combined.

    In a chat model the branch reads no block after the one that the language model reads, and its
    output is `language_tokens`, to which these options apply (Section 3.4):

    spare: layers at the end of the branch that have weights but are not run: 1 for a branch that
        stands beside a whole tower, 0 for one that was tuned for conversation.
    combine: how both sides' tokens are combined: `half`, their mean, as published, or `gate`, by
        the final gate, the paper's learned balance.
    temporal_halving: whether to attend over T/2 frames where there are at most `max_frames`, as the
        released scripts do.
    """

    name: ClassVar[str] = "btadapter"
    needs: ClassVar[frozenset[str]] = frozenset({"frame_groups", "patch_places", "pooled_alone"})
    other_frames_tested: ClassVar[bool] = True

    pool: str = "project_then_mean"
    mask_rate: float = 0.0
    mask_layout: str = "tube"
    spare: int = 1
    combine: str = "half"
    temporal_halving: bool = False

    def __post_init__(self) -> None:
        choices = {
            "gates": ("vector", "scalar", "none"),
            "inputs": ("last_k", "last_k_plus_1"),
            "video_cls": ("mixed", "learned"),
            "class_token": ("own", "backbone"),
            "time_module": ("attention", "conv"),
            "pool": ("project_then_mean", "mean_then_project"),
            "mask_layout": ("tube", "released"),
            "alignment": ("normalized", "linear", "none"),
            "combine": ("half", "gate"),
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
        if not 0 <= self.spare < max(self.depth, 2):
            raise ValueError(f"btadapter.spare={self.spare}: fewer than depth={self.depth}, from 0")
        if self.combine == "gate" and self.gates == "none":
            raise ValueError("btadapter.combine='gate' with btadapter.gates='none': there is none")
        for field in ("mask_rate", "temporal_halving"):
            if self.time_module == "conv" and getattr(self, field):
                raise ValueError(
                    f"btadapter.time_module='conv' with btadapter.{field}={getattr(self, field)}: "
                    "the convolution needs every patch of every frame in its place"
                )

    def needs_here(self) -> frozenset[str]:
        own = self.class_token == "own"
        return super().needs_here() | (set() if own else {"class_token"})

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for a chat model that reads too few blocks for the branch, that runs
        none of its layers, or whose vision tower has no class token."""
        if not isinstance(spec, ChatSpec):
            return
        if not spec.visual.cls:
            raise ValueError(
                "btadapter: a language model reads the class token of both sides, and this vision "
                f"tower has none (pool={spec.visual.pool})"
            )
        used, read = self.depth - self.spare, spec.visual.layers - spec.read + 1
        if not 1 <= used <= read - (self.inputs == "last_k_plus_1"):
            raise ValueError(
                f"btadapter.depth={self.depth} and btadapter.spare={self.spare}: {used} layers "
                f"beside the {read} blocks that are read"
            )

    @property
    def reads_patches(self) -> bool:
        return True

    def side_branch(
        self, tower: TowerScope, hidden: Sequence[Tokens], train: bool, capture: bool
    ) -> tuple[Tokens, dict[str, Any]]:
        """Point 8. With `train`, the extra outputs have what MBTA and MBCA compare (Eq. 7, 8)."""
        states, own = [without_prompts(tokens) for tokens in hidden], tower.spec.cls
        branch = Branch(
            tower.spec,
            tower.embed_dim,
            self,
            train,
            tower.cls_only and not tower.read,
            tower.remat,
            tower.dtype,
            name="btadapter",
        )
        if tower.read:
            places = self._places(hidden[-1])
            cls, patches = self._both_sides(branch, tower, states, places)
            return hidden[-1], {"language_tokens": jnp.concatenate([cls, patches], axis=1)}
        layout: Layout = _identity
        teacher_layout: Layout = _identity
        if train and self.mask_rate:
            b, _, n, _ = states[0].shape
            kept = draw_kept(tower.make_rng("mask"), (b, n - own), self.mask_rate)
            layout, teacher_layout = mask_layouts(self.mask_layout, kept)
        cls, patches, captured = branch(
            states,
            tower.position_embedding,
            layout,
            class_embedding=self._class_embedding(tower),
            places=self._places(hidden[-1]),
        )
        out: dict[str, Any] = {"branch": captured} if capture else {}
        if train:
            out["branch_features"] = tower.projection(patches).astype(jnp.float32).mean((1, 2))
            if self.alignment != "none":
                out["student"], out["teacher"] = self._alignment(
                    branch, tower, patches, teacher_layout(states[-1][:, :, own:])
                )
        pooled = tower.spec.pool != "cls"
        if pooled:
            combined = branch.combine(tower.post_norm(cls), tower.pooled(hidden[-1])[:, :, 0])
        else:
            combined = branch.combine(cls, states[-1][:, :, 0])
        if self.pool == "mean_then_project":
            combined = combined.mean(1, keepdims=True)
        return Tokens(combined[:, :, None], pooled=pooled), out

    def _places(self, tokens: Tokens) -> jax.Array | None:
        """Places of the patches where attention is rotary, else None."""
        return None if tokens.places is None else tokens.places[:, :, tokens.protected :]

    def _class_embedding(self, tower: TowerScope) -> jax.Array | None:
        """The tower's class embedding where the video CLS is made from it, else None."""
        return tower.class_embedding if self.class_token == "backbone" else None

    def _alignment(
        self, branch: Branch, tower: TowerScope, patches: jax.Array, teacher: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Student and teacher tokens [b, t, k, e] of MBTA."""
        if self.alignment == "linear":
            return branch.align(patches), jax.lax.stop_gradient(tower.projection(teacher))
        student, target = branch.align(patches), tower.project_tokens(teacher)
        unit_student, unit_target = (normalize(x.astype(jnp.float32)) for x in (student, target))
        return unit_student, jax.lax.stop_gradient(unit_target)

    def _both_sides(
        self,
        branch: Branch,
        tower: TowerScope,
        states: list[jax.Array],
        places: jax.Array | None,
    ) -> tuple[jax.Array, jax.Array]:
        """Video CLS [b, 1, d] and patches [b, n, d], averaged over time, both sides combined."""
        layers = self.depth - self.spare
        if len(states) < layers + (self.inputs == "last_k_plus_1"):
            raise ValueError(
                f"features enter the tower {len(states)} blocks before those that are read; "
                f"btadapter's {layers} layers need more"
            )
        clip = states[-1].mean(1)
        layout: Layout = _identity
        if (frames := states[0].shape[1]) > self.max_frames:
            count = -(-frames // self.max_frames)
            states = [average_frames(x, count) for x in states]
        elif self.temporal_halving:
            layout = halve_time
        cls, patches, _ = branch(
            states,
            tower.position_embedding,
            layout,
            layers,
            self._class_embedding(tower),
            places[:, : states[0].shape[1]] if places is not None else None,
        )
        b, n, d = len(clip), clip.shape[1] - 1, clip.shape[2]
        patches = patches.reshape(b, patches.shape[1], n, -1, d).mean((1, 3))
        if self.combine == "half":
            return (clip[:, :1] + cls[:, None]) / 2, (clip[:, 1:] + patches) / 2
        gate = branch.final_weight()
        return mix(gate, clip[:, :1], cls[:, None]), mix(gate, clip[:, 1:], patches)

    def init_from_backbone(self, params: dict, spec: Spec) -> dict:
        """Spatial layers start as copies of the blocks they stand beside."""
        visual = dict(params["visual"])
        branch = dict(visual["btadapter"])
        first = spec.visual.layers - self.depth
        if isinstance(spec, ChatSpec):
            first += self.spare - (spec.read - 1)
        for j in range(self.depth):
            # Where the tower's last block was removed, the last layer copies the block before it.
            beside = f"blocks_{min(first + j, spec.visual.layers - 1)}"
            branch[f"spatial_{j}"] = copy_leaves(branch[f"spatial_{j}"], visual[beside])
        return params | {"visual": visual | {"btadapter": branch}}


METHOD = BTAdapter


def draw_kept(rng: jax.Array, shape: tuple[int, ...], rate: float) -> jax.Array:
    """Random indices of patches [..., n] to keep, ascending, int [..., n - int(rate * n)]."""
    order = jax.random.uniform(rng, shape).argsort(-1)
    return jnp.sort(order[..., int(rate * shape[-1]) :], axis=-1)


def mask_layouts(kind: str, kept: jax.Array) -> tuple[Layout, Layout]:
    """Functions that gather branch and teacher tokens [b, t, n, d] to [b, t, k, d].

    `tube` keeps the same patches in every frame on both sides. `released` reproduces the published
    code: a frame-major index is applied to patch-major branch tokens, so neither the groups nor
    the pairing with the teacher are those of the paper.
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


def average_frames(x: jax.Array, count: int) -> jax.Array:
    """Means of `count` consecutive frames, [b, t, n, d] -> [b, ceil(t / count), n, d]; the last is
    the mean of the frames that remain."""
    whole, rest = jnp.split(x, [x.shape[1] // count * count], axis=1)
    means = whole.reshape(len(x), -1, count, *x.shape[2:]).mean(2)
    if not rest.shape[1]:
        return means
    return jnp.concatenate([means, rest.mean(1, keepdims=True)], axis=1)


def halve_time(x: jax.Array) -> jax.Array:
    """Frames i and i + t/2 share a group, [b, t, n, d] -> [b, t / 2, 2n, d], n-major.

    If t is odd, where the published code fails, the middle frame is in both halves.
    """
    b, t, n, d = x.shape
    half = (t + 1) // 2
    halves = jnp.stack([x[:, :half], x[:, t - half :]], axis=1)
    return halves.transpose(0, 2, 3, 1, 4).reshape(b, half, 2 * n, d)


def _identity(x: jax.Array) -> jax.Array:
    return x
