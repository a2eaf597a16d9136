"""Which methods fit which kind of model, and each other."""

import itertools
from collections.abc import Sequence

from vlt.models.points import Method
from vlt.models.spec import JOINT_KINDS, BertSpec, ChatSpec, DualEncoderSpec, EncoderSpec, Spec

# What a method may need, phrased to continue an error message; some kinds of model lack some of it,
# and other methods break some of it.
WORDS = {
    "frame_groups": "needs every frame in a group of its own",
    "joint_space": "needs videos and texts in one embedding space",
    "pooled_alone": "outputs a pooled embedding and nothing else",
    "class_token": "reads the class token of every frame",
    "class_pooled": "says which class tokens and prompts make the embedding",
    "pair_scores": "scores pairs of a video and a text",
    "text_tower": "reads the embedding of a causal text tower",
    "text_blocks": "is in the pre-LN blocks of the text tower",
    "bert": "is in the layers of a BERT",
    "language_model": "trains words of a language model",
    "patch_places": "finds patches by their places in each frame",
    "attended_tokens": "merges or removes tokens, by what attention saw of all",
    "same_tokens": "compares what leaves a block with what came in, token by token",
    "behind_class": "has tokens of its own right behind the class token",
    "key_choice": "chooses which tokens attention reads",
    "every_frame": "has leaves for each frame",
    "word_places": "puts tokens into places among the words",
    "tokens_alone": "reads the tokens of a lone vision tower",
}


def check_methods(methods: Sequence[Method], spec: Spec) -> None:
    """Raises ValueError if a method needs what the model lacks or another method breaks."""
    missing = lacks(spec)
    for method in methods:
        for word in WORDS:
            if word in method.needs_here() and word in missing:
                _refuse(method, f"{WORDS[word]}, and {missing[word]}; {_remedy(method, word)}")
        if "patch_places" in method.breaks_here() and averages_patches(spec):
            _refuse(
                method,
                "changes where patches are, and this model's language model reads means over "
                "frames of each; take it out of model.methods, or sizes with tokens='frames'",
            )
    for method, other in itertools.permutations(methods, 2):
        for word in WORDS:
            if word in method.needs_here() & other.breaks_here():
                both = word in other.needs
                clash = f"and {other.name} does too" if both else f"which {other.name} changes"
                _refuse(method, f"{WORDS[word]}, {clash}; take one of them out of model.methods")


def averages_patches(spec: Spec) -> bool:
    """Whether tokens that stand in the same place are averaged over frames."""
    return isinstance(spec, ChatSpec) and spec.tokens != "frames"


def lacks(spec: Spec) -> dict[str, str]:
    """Words that do not hold for a model of this spec, each with a clause that says why."""
    found = {}
    if spec.visual.together:
        frames = spec.visual.temporal_frames
        why = f"temporal_frames={frames}" if frames else "joint=True"
        found["frame_groups"] = f"this vision tower holds the patches of all in one ({why})"
    if spec.visual.stages:
        blocks = ", ".join(map(str, spec.visual.stages))
        why = f"this vision tower regroups the same patches between its stages ({blocks} blocks)"
        found |= dict.fromkeys(("frame_groups", "attended_tokens", "behind_class"), why)
    if not spec.visual.cls:
        found["class_token"] = f"this vision tower has none (pool={spec.visual.pool})"
    if spec.visual.pool != "cls":
        found["class_pooled"] = f"this vision tower pools patches too (pool={spec.visual.pool})"
    if spec.kind != DualEncoderSpec.kind:
        found["pair_scores"] = f"models of kind {spec.kind} score pairs by themselves, if at all"
    if spec.kind not in JOINT_KINDS:
        found["joint_space"] = (
            f"models of kind {spec.kind} have none ({' and '.join(JOINT_KINDS)} have)"
        )
    if isinstance(spec, EncoderSpec):
        return found | dict.fromkeys(
            ("text_tower", "text_blocks", "bert", "language_model"), "this model reads no text"
        )
    found["tokens_alone"] = f"models of kind {spec.kind} make embeddings or texts of them"
    if isinstance(spec.text, BertSpec):
        found["pooled_alone"] = "this model's BERT reads every token"
        found["text_tower"] = "this model has a BERT"
        found["text_blocks"] = "this model's BERT has none"
    else:
        found["bert"] = "this model has a causal text tower, which adapter is for"
    if not isinstance(spec, ChatSpec):
        found["language_model"] = f"models of kind {spec.kind} have none ({ChatSpec.kind} has)"
    else:
        found["text_tower"] = "this model has a language model"
    return found


def _remedy(method: Method, word: str) -> str:
    if word == "text_blocks" and "visual" in method.towers:
        return (
            f"set {method.name}.towers=('visual',), and take lora or vl_adapter for the text model"
        )
    return "take it out of model.methods"


def _refuse(method: Method, why: str) -> None:
    raise ValueError(f"{method.name or type(method).__name__} {why}")
