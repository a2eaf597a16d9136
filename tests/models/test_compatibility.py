"""Every pair of methods on every kind of model: finite numbers, or an error message first."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from docs.backbones import BACKBONES, missing, spec_of
from vlt.methods import method_class, method_classes
from vlt.model_io.build import abstract_params, example_inputs, make_model
from vlt.models.compatibility import WORDS, check_methods, lacks
from vlt.models.dual_encoder import DualEncoder
from vlt.models.points import Method
from vlt.models.spec import (
    BertSpec,
    BlipSpec,
    ChatSpec,
    DualEncoderSpec,
    LlamaSpec,
    PoolerSpec,
    TextSpec,
    VisionSpec,
    with_visual,
)

FRAMES = 4
VISION = (16, 4, 16, 3, 2, 32)
BLIP_VISION = VisionSpec(*VISION, "gelu", pre_norm=False, patch_bias=True)
LLAMA = LlamaSpec(6, 20, 16, 1, 2, 32)
BERT = BertSpec(6, 20, 16, 1, 2, 32, 16, decode_id=18, encode_id=19, end_id=2)
UMT_VISION = VisionSpec(
    *VISION,
    "gelu",
    pre_norm=False,
    patch_bias=True,
    key_bias=False,
    pool="token_mean",
    pool_norm=True,
    positions="sinusoid",
    joint=True,
)
UMT_BERT = BertSpec(
    6, 20, 16, 2, 2, 32, 16, decode_id=1, encode_id=1, end_id=2, fusion_layer=1, token_types=2
)
TEXT = TextSpec(8, 20, 16, 2, 2, 32)
# Current towers, equally small: SigLIP's text tower sees a whole text, read at its last token.
SIGLIP = DualEncoderSpec(
    VisionSpec(
        *VISION,
        "gelu_tanh",
        pre_norm=False,
        patch_bias=True,
        pool="attention",
        pooler=PoolerSpec(2, 16, 32),
        projection=False,
    ),
    dataclasses.replace(TEXT, causal=False, readout="last", projection_bias=True),
    embed_dim=16,
    logit_bias=True,
)
PE = DualEncoderSpec(
    VisionSpec(
        *VISION,
        "gelu",
        pool="attention",
        class_token=True,
        pooler=PoolerSpec(4, 16, 64),
        rope="pe",
    ),
    TEXT,
    embed_dim=8,
)
EVA02 = DualEncoderSpec(
    VisionSpec(
        *VISION,
        "silu",
        pre_norm=False,
        patch_bias=True,
        key_bias=False,
        projection_bias=True,
        rope="eva",
        gated_mlp=True,
        sub_norm=True,
    ),
    TEXT,
    embed_dim=8,
)
VIDEOPRISM = DualEncoderSpec(
    VisionSpec(
        *VISION,
        "gelu",
        pre_norm=False,
        patch_bias=True,
        pool="attention",
        pooler=PoolerSpec(2, 64, channel_scale=True),
        projection=False,
        logit_cap=50.0,
        temporal_frames=FRAMES,
        stages=(1, 1, 1),
    ),
    dataclasses.replace(
        TEXT,
        activation="relu",
        mask_padding=True,
        readout="last",
        positions="sinusoid",
        embedding_scale=True,
        class_token=True,
        logit_cap=50.0,
        projection=False,
    ),
    embed_dim=16,
)
SPECS = {
    "clip": DualEncoderSpec(VisionSpec(*VISION), TextSpec(6, 20, 16, 1, 2, 32), embed_dim=8),
    "no class token": DualEncoderSpec(
        VisionSpec(*VISION, pool="mean"), TextSpec(6, 20, 16, 1, 2, 32), embed_dim=8
    ),
    "viclip": DualEncoderSpec(
        VisionSpec(*VISION, temporal_frames=FRAMES), TextSpec(6, 20, 16, 1, 2, 32), embed_dim=8
    ),
    "captioner": BlipSpec("captioner", BLIP_VISION, BERT),
    "retriever": BlipSpec("retriever", BLIP_VISION, BERT, embed_dim=8),
    "answerer": BlipSpec("answerer", BLIP_VISION, BERT),
    "umt": BlipSpec("retriever", UMT_VISION, UMT_BERT, embed_dim=8, frame_scores=True),
    "umt4clip": BlipSpec("answerer", dataclasses.replace(UMT_VISION, joint=False), UMT_BERT),
    "chat": ChatSpec(VisionSpec(*VISION), LLAMA, read=1),
    "chat of frames": ChatSpec(VisionSpec(*VISION), LLAMA, tokens="frames", cls="none", read=1),
    "siglip": SIGLIP,
    "pe_core": PE,
    "pe_core without class token": with_visual(PE, class_token=False),
    "eva02": EVA02,
    "videoprism": VIDEOPRISM,
    "umt4clip retriever": BlipSpec(
        "retriever",
        dataclasses.replace(UMT_VISION, joint=False),
        UMT_BERT,
        embed_dim=8,
        frame_scores=True,
    ),
}
# The columns in the table of methods and backbones.
TABLE = {
    "CLIP": "clip",
    "ViCLIP": "viclip",
    "UMT4Clip": "umt4clip retriever",
    "SigLIP 2": "siglip",
    "PE-Core": "pe_core",
    "EVA02-CLIP": "eva02",
    "VideoPrism": "videoprism",
}
VISUAL = {"towers": ("visual",)}
VOP = {"tokens": 2, "prefix": 1, "suffix": 0, "specific": 1, "frames_apart": 2}
# Options that fit these sizes; a method's second entry is another variant of it.
METHODS = {
    "actionclip": ("actionclip", {"sim_header": "LSTM", "shift": True}),
    "actionclip cls": ("actionclip", {"sim_header": "Transf_cls", "layers": 1}),
    "adapter": ("adapter", VISUAL | {"positions": ("before_attention", "before_mlp")}),
    "adaptformer": ("adaptformer", {"bottleneck": 4}),
    "attention_probe": ("attention_probe", {"classes": 3}),
    "btadapter": ("btadapter", {"depth": 2, "mask_rate": 0.5}),
    "caption_reconstruction": ("caption_reconstruction", {}),
    "clip4clip": ("clip4clip", {"sim_header": "seqLSTM"}),
    "dgl": ("dgl", {"output": "average_global_prompt_and_frame_cls_token"}),
    "dgl transformer": ("dgl", {"latent": "transformer", "frames": FRAMES, "tokens": 1}),
    "diffrate": ("diffrate", {"kept": (14, 12, 10), "merged": (13, 11, 9)}),
    "diffrate learned": ("diffrate", {"kept": None, "merged": None, "target": 1e-4}),
    "dual_attention": ("dual_attention", {}),
    "dual_attention block": ("dual_attention", {"whole_block": True}),
    "diffrate by all": (
        "diffrate",
        {"kept": (14, 12, 10), "merged": (13, 11, 9), "attention": "received"},
    ),
    "evit": ("evit", {"layers": (0, 1)}),
    "evit by all": ("evit", {"layers": (0, 1), "attention": "received"}),
    "lora": ("lora", {"rank": 2}),
    "msta": ("msta", VISUAL | {"bottleneck": 4, "shared": False}),
    "mv_adapter": ("mv_adapter", VISUAL | {"bottleneck": 4, "frames": FRAMES, "tie": "none"}),
    "mv_adapter tied": (
        "mv_adapter",
        {"frames": FRAMES, "words": 12, "tied_layers": (0,), "tie": "in"},
    ),
    "neighbour_attention": ("neighbour_attention", {"missing": "masked"}),
    "patch_dropout": ("patch_dropout", {"rate": 0.5}),
    "plevu": ("plevu", {"prefix": 1, "postfix": 0, "heads": 2}),
    "prompt": ("prompt", VISUAL | {"tokens": 2}),
    "prompt shallow": ("prompt", VISUAL | {"tokens": 2, "deep": False}),
    "prompt matched": ("prompt", VISUAL | {"tokens": 2, "deep": False, "matched": True}),
    "separate_st": ("separate_st", {"layers": (1, 2)}),
    "st_adapter": ("st_adapter", {"width": 4}),
    "sta": ("sta", {"layers": (0, 1)}),
    "tempme": ("tempme", {"layers": (1, 2), "join": (2, 2), "r": 1}),
    "temporal_transformer": ("temporal_transformer", {"layers": 1}),
    "token_rows": ("token_rows", {}),
    "testa": ("testa", {"layers": (1,), "r": 1}),
    "token_mixing": ("token_mixing", {"layers": (0, 2)}),
    "tome": ("tome", {"r": 3}),
    "vita_clip": ("vita_clip", {"frames": 4, "global_prompts": 2, "text_prompts": 1}),
    "mote": ("mote", {"layers": 1, "experts": 2, "heads": 2, "classes": 3}),
    "ost": ("ost", {}),
    "vificlip": (
        "vificlip",
        {"visual_tokens": 2, "visual_depth": 3, "text_tokens": 1, "text_depth": 2},
    ),
    "vl_adapter": ("vl_adapter", {}),
    "xclip": ("xclip", {"prompt_layers": 1}),
    "mug": ("mug", {}),
    "stan": (
        "btadapter",
        {"depth": 2, "class_token": "backbone", "gates": "none", "time_module": "conv"},
    ),
    "vop": ("vop", VOP),
    "vop of places": ("vop", VOP | {"variant": "P"}),
    "vop of what is seen": ("vop", VOP | {"variant": "F+C"}),
}
MERGING = (
    "diffrate", "diffrate learned", "diffrate by all", "evit", "evit by all", "patch_dropout",
    "sta", "tempme", "testa", "tome",
)  # fmt: skip


def built(kind: str, *labels: str):
    """The model, or None if it is refused."""
    try:
        return make_model(SPECS[kind], dict(METHODS[label] for label in labels), FRAMES)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        return None


def inputs_of(model):
    """Shapes of a batch of two; texts read at their end are as long as the tower can read."""
    whole = getattr(model.spec.text, "readout", "") == "last"
    return example_inputs(model.spec, FRAMES, model.longest_text if whole else 5, batch=2)


def outputs(model, params, inputs, train):
    rngs = {name: jax.random.key(1) for name in ("mask", "dropout")}
    return model.apply({"params": params}, *inputs, train=train, rngs=rngs)


def shapes_of(model):
    """Shapes of its parameters, or None if they are refused."""
    try:
        return abstract_params(model)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1
        return None


def check_shapes(model) -> None:
    """Checks in shapes alone that the model trains and predicts."""
    if (params := shapes_of(model)) is None:
        return
    inputs = inputs_of(model)
    for train in (False, True):
        jax.eval_shape(lambda p, *x, train=train: outputs(model, p, x, train), params, *inputs)


def check_step(model) -> None:
    """Checks that a step down the gradient of all training outputs leaves every leaf finite, and
    the predictions after it.

    The step's length is bounded: a chat model's tokens are a tower's states with no norm after
    them, whose squares have gradients of 10^5 where two adapters add up, and leaves moved by
    hundreds say nothing about a method.
    """
    if (shapes := shapes_of(model)) is None:
        return
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0, 0.4, x.shape).astype(np.float32), shapes)
    batch = inputs_of(model)
    inputs = [rng.integers(1, 255 if x.ndim == 5 else 19, x.shape).astype(x.dtype) for x in batch]

    def score(params, train):
        found = jax.tree.leaves(outputs(model, params, inputs, train))
        return sum(jnp.square(x.astype(jnp.float32)).mean() for x in found)

    @jax.jit
    def step(params):
        gradient = jax.grad(score)(params, True)
        step_size = 1e-3 / jnp.maximum(1.0, optax.global_norm(gradient))
        after = jax.tree.map(lambda x, down: x - step_size * down, params, gradient)
        return after, score(after, False)

    for path, leaf in jax.tree_util.tree_leaves_with_path(step(params)):
        assert np.isfinite(leaf).all(), path


def test_every_method_is_here():
    found = method_classes()
    assert found.keys() == {name for name, _ in METHODS.values()}
    merging = {name for name, method in found.items() if "attended_tokens" in method.breaks}
    assert merging == {METHODS[label][0] for label in MERGING}


def test_every_method_has_the_name_of_its_file_and_declares_known_words():
    for name, method in method_classes().items():
        assert method.name == name == method.__module__.rpartition(".")[2]
        assert method.needs | method.text_needs | method.breaks <= WORDS.keys()


@pytest.mark.quick(10)
@pytest.mark.parametrize("kind", SPECS)
def test_no_two_methods_merge_tokens(kind):
    for pair in itertools.permutations(MERGING, 2):
        assert METHODS[pair[0]][0] == METHODS[pair[1]][0] or built(kind, *pair) is None, pair


@pytest.mark.parametrize(
    ("kind", "names", "message"),
    [
        ("clip", ("tome", "tempme"), "tome merges or removes tokens, .* and tempme does too"),
        ("clip", ("tome", "evit"), "tome merges or removes tokens, .* and evit does too"),
        ("clip", ("patch_dropout", "tome"), "patch_dropout merges or .* tome does too"),
        ("clip", ("separate_st", "tempme"), "separate_st finds patches by .*places.*which tempme"),
        ("clip", ("tome", "separate_st"), "separate_st finds patches by .*places.*which tome"),
        ("clip", ("btadapter", "tempme"), "btadapter finds patches by .*places.*which tempme"),
        ("clip", ("btadapter", "prompt matched"), "btadapter finds patches.*which prompt"),
        ("clip", ("st_adapter", "prompt matched"), "st_adapter finds patches.*which prompt"),
        ("clip", ("token_mixing", "neighbour_attention"), "chooses which.*attention does too"),
        ("captioner", ("btadapter",), "btadapter outputs a pooled embedding.* reads every token"),
        ("retriever", ("btadapter",), "btadapter outputs a pooled embedding.* reads every token"),
        ("captioner", ("clip4clip",), "clip4clip needs .*dual_encoder and retriever have"),
        ("answerer", ("caption_reconstruction",), "reads the embedding.*this model has a BERT"),
        ("captioner", ("diffrate learned",), "diffrate.kept=None: while counts are learned"),
        ("viclip", ("tome",), "tome needs every frame in a group of its own"),
        ("clip", ("vl_adapter",), "vl_adapter is in the layers of a BERT, .*causal"),
        ("clip", ("token_rows",), "token_rows trains words of .*kind dual_encoder have none .chat"),
        ("answerer", ("token_rows",), "token_rows trains words of .*kind answerer have none .chat"),
        ("chat", ("tome",), "tome changes where patches are.* means over frames of each; take it"),
        ("chat", ("prompt matched",), "prompt changes where patches are, and this model's"),
        ("chat", ("clip4clip",), "clip4clip needs .*dual_encoder and retriever have"),
        ("chat", ("caption_reconstruction",), "reads the embedding.*has a language model"),
        ("chat", ("vl_adapter",), "vl_adapter is in the layers of a BERT, .*causal"),
        ("chat", ("mv_adapter tied",), "mv_adapter.tie='in': .*; set towers=.* and tie='n"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_a_sentence_when_the_model_is_built(kind, names, message):
    with pytest.raises(ValueError, match=message):
        make_model(SPECS[kind], dict(METHODS[name] for name in names), FRAMES)


def test_modules_put_together_by_hand_are_checked_when_they_run():
    merging = make_model(SPECS["clip"], {"tome": {"r": 3}}, FRAMES).methods
    other = make_model(SPECS["clip"], {"evit": {"layers": (0,)}}, FRAMES)
    with pytest.raises(ValueError, match="tome merges or removes tokens, .* and evit does too"):
        abstract_params(DualEncoder(SPECS["clip"], merging + other.methods, FRAMES))


def test_a_method_of_both_towers_is_refused_beside_a_bert_unless_it_says_that_it_fits():
    class Both(Method):
        name = "both"
        towers = ("visual", "text")

    class Dense(Both):
        text_needs = frozenset()

    for kind in ("captioner", "retriever", "answerer"):
        check_methods((Dense(),), SPECS[kind])
        with pytest.raises(ValueError, match="both is in the pre-LN blocks.*BERT has none; set"):
            check_methods((Both(),), SPECS[kind])
    check_methods((Both(),), SPECS["clip"])


def test_prompts_among_patches_whose_counts_are_learned_are_a_sentence():
    model = built("clip", "prompt matched", "diffrate learned")
    with pytest.raises(ValueError, match="counts of 16 patches, but there are 18, prompts"):
        abstract_params(model)


def test_prompts_do_not_move_what_a_branch_reads():
    """Prompts carried through the blocks are between the CLS token and the patches."""
    model = built("clip", "prompt shallow", "btadapter")
    video, _ = example_inputs(model.spec, FRAMES, 5)
    embedding = jax.eval_shape(
        lambda p, v: model.apply({"params": p}, v, method="encode_video")[0],
        abstract_params(model),
        video,
    )
    assert embedding.shape == (1, model.spec.embed_dim)


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("label", METHODS)
def test_each_method_alone(kind, label):
    """It takes a step if the model has all it needs; else an error says what the model lacks."""
    name, options = METHODS[label]
    needed = method_class(name)(**options).needs_here() & lacks(SPECS[kind]).keys()
    if needed:
        word = next(word for word in WORDS if word in needed)
        with pytest.raises(ValueError, match=f"{name} {WORDS[word]}, and .*; "):
            make_model(SPECS[kind], {name: options}, FRAMES)
    elif (model := built(kind, label)) is not None:
        check_step(model)
    else:
        # Options that `check` refuses, since they do not fit these sizes.
        assert kind not in TABLE.values() or label in ("dgl", "prompt matched", "vificlip")


def test_the_table_of_backbones_is_that_of_these_towers():
    """Small as they are, they lack exactly what the published sizes lack."""
    assert BACKBONES.keys() == TABLE.keys()
    for column, kind in TABLE.items():
        for name in method_classes():
            assert missing(name, spec_of(column)) == missing(name, SPECS[kind]), (column, name)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("kind", "label"),
    [("pe_core", "btadapter"), ("siglip", "tempme"), ("eva02", "diffrate by all")],
)
def test_some_cells_of_the_table(kind, label):
    check_step(built(kind, label))


@pytest.mark.slow
@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("first", METHODS)
def test_every_pair_takes_a_step_or_is_refused(kind, first):
    """In both orders: one computed, the other, whose program differs little, in shapes alone."""
    for second in METHODS:
        if METHODS[first][0] == METHODS[second][0]:
            continue
        if (model := built(kind, first, second)) is not None:
            i, j = (list(METHODS).index(label) for label in (first, second))
            (check_step if (i < j) == ((i + j) % 2 == 0) else check_shapes)(model)


@pytest.mark.quick(4)
@pytest.mark.parametrize("kind", SPECS)
def test_many_pairs_fit(kind):
    """Otherwise the test above would try nothing."""
    pairs = [
        pair
        for pair in itertools.combinations(METHODS, 2)
        if METHODS[pair[0]][0] != METHODS[pair[1]][0]
    ]
    assert sum(built(kind, *pair) is not None for pair in pairs) > 20
