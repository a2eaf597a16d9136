import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from vlt.pytrees.partition import merge
from vlt.training import rules

PARAMS = {
    "visual": {
        "patch_embedding": {"kernel": np.ones((2, 3))},
        "btadapter": {
            "temporal_0": {"projection": {"kernel": np.ones((3, 2)), "bias": np.ones(2)}},
            "class_token": np.ones(3),
        },
    },
    "logit_scale": np.ones(()),
}
RULES = (
    (r".*/temporal_\d+/.*", dict(lr=100.0, weight_decay=0.05)),
    (r"visual/btadapter/.*", dict(lr=10.0)),
    (r".*", "frozen"),
)


def test_first_match_wins_and_every_leaf_has_a_rule():
    found = rules.assign(PARAMS, RULES)
    assert found == {
        "visual/patch_embedding/kernel": rules.Rule(".*", frozen=True),
        "visual/btadapter/temporal_0/projection/kernel": rules.parse_rules(RULES)[0],
        "visual/btadapter/temporal_0/projection/bias": rules.parse_rules(RULES)[0],
        "visual/btadapter/class_token": rules.Rule("visual/btadapter/.*", lr=10.0),
        "logit_scale": rules.Rule(".*", frozen=True),
    }


def test_rules_survive_a_config_dict():
    config = ml_collections.ConfigDict(dict(rules=RULES))
    assert rules.assign(PARAMS, config.rules) == rules.assign(PARAMS, RULES)


def test_partition_leaves_nothing_of_the_frozen_and_merge_restores():
    trained, frozen = rules.partition(PARAMS, RULES)
    assert set(trained) == {"visual"} and set(trained["visual"]) == {"btadapter"}
    assert set(frozen["visual"]) == {"patch_embedding"} and "logit_scale" in frozen
    merged = merge(trained, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(PARAMS)
    assert all(
        a is b for a, b in zip(jax.tree.leaves(merged), jax.tree.leaves(PARAMS), strict=True)
    )


def test_what_is_trained_is_in_full():
    half = {"visual": {"btadapter": jnp.ones(2, jnp.bfloat16)}, "logit_scale": np.float16(1)}
    trained, frozen = rules.partition(half, [("visual/.*", {"lr": 1.0}), (".*", "frozen")])
    assert trained["visual"]["btadapter"].dtype == np.float32
    assert frozen["logit_scale"].dtype == np.float16
    shapes = jax.eval_shape(lambda: half["visual"])
    trained, _ = rules.partition(shapes, [(".*", {"lr": 1.0})])
    assert trained["btadapter"].dtype == np.float32


def test_merge_refuses_a_leaf_twice():
    with pytest.raises(ValueError, match="logit_scale"):
        merge({"logit_scale": 1.0}, {"logit_scale": 2.0})


@pytest.mark.parametrize(
    "wrong, words",
    [
        ([(r".*/temporal_\d+/.*", "frozen")], ["3 of 5", "logit_scale", "patch_embedding/kernel"]),
        ([("visual/btadaptor/class_tokens", "frozen"), (".*", "frozen")],
         ["matches nothing", "btadaptor", "visual/btadapter/class_token"]),
        ([(".*", "frozen"), ("visual/btadapter/.*", dict(lr=1.0))],
         ["never applies", "all 3 leaves", "'.*'"]),
        ([("visual", "frozen"), (".*", "frozen")], ["'visual' matches nothing", "whole path"]),
        ([(".*", "forzen")], ["'forzen'", "'frozen'"]),
        ([(".*", dict(lr=1.0, decay=0.1))], ["'decay'", "weight_decay"]),
        ([(".*", dict(lr=-1.0))], ["lr=-1.0"]),
        ([("(", "frozen")], ["'('", "regular expression"]),
        ([".*"], ["rule 0", "pair"]),
    ],
)  # fmt: skip
def test_rules_that_do_not_fit_say_why(wrong, words):
    with pytest.raises(rules.RuleError) as raised:
        rules.partition(PARAMS, wrong)
    for word in words:
        assert word in str(raised.value)
