"""Visual prompt tuning: learned tokens among patches and words (Jia et al., arXiv:2203.12119).

Prompts stand after the CLS tokens of a frame, and after the first token of a text, where every
later word sees them; for a language model, before the first token, which may be padding. They have
no positions.
"""

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from vlt.models.options import TOWERS, require_some
from vlt.models.points import AnyTower, BlockScope, Method
from vlt.models.spec import Spec
from vlt.models.tokens import Tokens


@dataclasses.dataclass(frozen=True)
class Prompt(Method):
    """`tokens` prompts in every frame (or clip) and every text; deep by default, as in TempMe.

    tokens: p. deep: whether every block has prompts of its own, leaves blocks_i/prompt [p, d],
        removed after it; otherwise one set enters before the first block and is carried on, leaves
        visual/prompt and text/prompt. towers: the towers they are in.
    matched: whether methods that remove or merge tokens treat carried prompts like patches;
        otherwise the prompts are protected from them.

    Raises:
        ValueError: tokens below 1; no or unknown towers; matched prompts that are deep.
    """

    name: ClassVar[str] = "prompt"

    tokens: int = 5
    deep: bool = True
    towers: tuple[str, ...] = TOWERS
    matched: bool = False

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"prompt.tokens must be >= 1, got {self.tokens}")
        require_some("prompt", "towers", self.towers, TOWERS)
        if self.deep and self.matched:
            raise ValueError(
                "prompt.matched=True with prompt.deep=True: deep prompts are gone after every "
                "block, so a merge would mix them with patches; set one of the two to False"
            )

    @property
    def word_prompts(self) -> int:
        return self.tokens if "text" in self.towers else 0

    def check(self, spec: Spec, frames: int) -> None:
        """Raises ValueError for matched prompts in a tower that holds the patches of all frames in
        one group."""
        if self.matched and spec.visual.together:
            raise ValueError(
                "prompt.matched=True: no method matches tokens of a tower that holds the patches "
                "of all frames in one group; set it False"
            )

    def breaks_here(self) -> frozenset[str]:
        """Adds `patch_places` for matched prompts, which stand among the patches."""
        return self.breaks | ({"patch_places"} if self.matched else set())

    def stem(self, tower: AnyTower, tokens: Tokens) -> Tokens:
        """Point 0: inserts shallow prompts."""
        return tokens if self.deep else self._insert(tower, tokens)

    def extra_tokens(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: inserts deep prompts."""
        return self._insert(block, tokens) if self.deep and not remembered(tokens) else tokens

    def after_block(self, block: BlockScope, tokens: Tokens) -> Tokens:
        """Point 2: removes deep prompts; where only CLS tokens are read, they are already gone."""
        if not self.deep or block.cls_read or remembered(tokens):
            return tokens
        place = _place(block, tokens, tokens.protected - self.tokens)
        return tokens.remove(place, self.tokens)

    def _insert(self, module: AnyTower | BlockScope, tokens: Tokens) -> Tokens:
        """Inserts prompts of `module` after the protected tokens or the first of a text."""
        prompts = module.param("prompt", xavier_uniform, (self.tokens, tokens.x.shape[-1]))
        place = _place(module, tokens, tokens.protected)
        return tokens.insert(place, prompts, not self.matched)

    def init_from_backbone(self, params: dict, spec: Spec) -> dict:
        """Prompts of the vision tower start uniform in +-sqrt(6 / (3 p^2 + d)), as in the
        published code, for patches of p pixels: Xavier's bound for the patch projection."""
        if "visual" not in self.towers:
            return params
        visual = spec.visual
        bound = math.sqrt(6 / (3 * visual.patch_size**2 + visual.width))
        ratio = bound / xavier_bound(visual.width)

        def rescale(tree: dict) -> dict:
            return tree | {"prompt": tree["prompt"] * ratio}

        tower = params["visual"]
        if self.deep:
            names = [f"blocks_{layer}" for layer in range(visual.layers)]
            tower = tower | {name: rescale(tower[name]) for name in names}
        else:
            tower = rescale(tower)
        return params | {"visual": tower}


METHOD = Prompt


def remembered(tokens: Tokens) -> bool:
    """Whether a language model continues after prompts whose keys and values are cached."""
    return tokens.index is not None


def _place(module: AnyTower | BlockScope, tokens: Tokens, protected: int) -> int:
    """Index of the token that prompts stand before."""
    language_model = tokens.places is not None  # other texts have none
    return max(protected, 1) if module.tower == "text" and not language_model else protected


def xavier_bound(width: int) -> float:
    """Xavier's bound for d inputs and d outputs: for the text tower, which has no patches."""
    return math.sqrt(6 / (width + width))


def xavier_uniform(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Uniform in +-`xavier_bound(d)` for prompts [p, d]."""
    bound = xavier_bound(shape[-1])
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)
