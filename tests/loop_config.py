"""A config for tests of the loop: a few small clips, seconds per run."""

from ml_collections import ConfigDict

from configs import common

PAIRS = 6


def get_config(variant: str = "") -> ConfigDict:
    """BT-Adapter on an untrained tiny CLIP."""
    del variant
    config = common.base()
    data = f"moving_shapes:clips:train:{PAIRS}"
    config.model.update(
        size="tiny_clip",
        tokenizer=f"{data}:tokenizer",
        methods=("btadapter",),
        btadapter={"depth": 1, "mask_rate": 0.5, "drop_path": 0.0},
        frames=4,
        context=16,
    )
    config.rules = (("visual/btadapter/.*", {"lr": 1.0}), (".*", "frozen"))
    config.optimizer.lr = 1e-3
    config.task.losses = {"vtc": 1.0, "mbta": 0.1, "mbca": 0.1}
    config.data.train = common.videos(data, "linspace", 4, batch_size=4, group="pair")
    config.evals = {
        "looks": common.retrieval("moving_shapes", common.videos(data, "linspace", 4, 8))
    }
    config.table = (("looks/t2v_R@1", "R@1"),)
    config.train.update(steps=12, log_every=1, checkpoint_every=4, keep_last=2)
    return config
