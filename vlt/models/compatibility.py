"""Which methods fit which kind of model, and each other."""

import itertools
from collections.abc import Sequence

from vlt.models.points import Method
from vlt.models.spec import Spec


def method_name(method: Method) -> str:
    """As in `model.methods`: the file that the method is in."""
    return type(method).__module__.rpartition(".")[2]


def check_methods(methods: Sequence[Method], spec: Spec) -> None:
    """Raises ValueError where a method is not for the kind of model, or two exclude each other."""
    for method in methods:
        _check_kind(method, spec)
    for method, other in itertools.permutations(methods, 2):
        if method.needs_places and other.moves_patches:
            raise ValueError(
                f"{method_name(method)} finds patches by their places in each frame, which "
                f"{type(other).__name__} changes; take one of them out of model.methods"
            )
        for what, both in (
            ("merge or remove tokens, by what attention saw of all", (method.merges, other.merges)),
            ("choose which tokens attention reads", (method.chooses_keys, other.chooses_keys)),
        ):
            if all(both):
                raise ValueError(
                    f"{method_name(method)} and {method_name(other)} both {what}; take one of them "
                    "out of model.methods"
                )


def _check_kind(method: Method, spec: Spec) -> None:
    name = method_name(method)
    if spec.kind not in method.kinds:
        raise ValueError(
            f"{name} is for models of kind {' or '.join(method.kinds)}, and this is a {spec.kind}; "
            "take it out of model.methods"
        )
    if spec.visual.temporal_frames and not method.joint:
        raise ValueError(
            f"{name} needs every frame in a group of its own, and this vision tower holds the "
            f"patches of all in one (temporal_frames={spec.visual.temporal_frames}); take it "
            "out of model.methods"
        )
