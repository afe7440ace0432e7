"""Models of inverse kinematics: one per file, all with `forward`, `loss`, `answer` and `config`."""

from collections.abc import Mapping
from typing import Any

from robotics.arm import PlanarArm
from robotics.checks import check_choice, check_keys
from robotics.models.answer import IKAnswer, IKStatus, check_answer
from robotics.models.heads import Heads
from robotics.models.heads_qp import HeadsQP
from robotics.models.mlp import MLP, NETWORKS
from robotics.models.mlp_qp import MLPQP
from robotics.models.optnet import BUILDS, OptNetIK

MODELS = ("mlp", "mlp-qp", "mlp-qp-oneshot")


def build_model(arm: PlanarArm, config: Mapping[str, Any]) -> MLP | MLPQP | HeadsQP | OptNetIK:
    """Build a model from what its `config()` returned.

    Args:
        arm: the arm.
        config: `model` (one of `MODELS`, or of `BUILDS` of the learned program), `inputs`, `hidden`, `network` (a kind
            of `MLP`, "plain" if left out), `layers` for "mlp-qp" and "mlp-qp-oneshot", `heads` (1 if left out) for
            "mlp-qp", `rows` and `equations` for the learned program.

    Raises:
        ValueError: a key is unknown or missing, or its value is.
    """
    check_keys("model", config, {"model", "inputs"}, {"hidden", "layers", "network", "heads", "rows", "equations"})
    name = config["model"]
    check_choice("model", name, (*MODELS, *BUILDS))
    if config.get("heads") is not None:
        return _build_heads(arm, config)
    network = MLP(arm, config["inputs"], config.get("hidden", 100), config.get("network", "plain"))
    if name == "mlp":
        return network
    if name in BUILDS:
        return OptNetIK(network, config.get("rows", 4), config.get("equations", 1), BUILDS[name])
    return MLPQP(network, "sequential" if name == "mlp-qp" else "one-shot", config.get("layers", 6))


def _build_heads(arm: PlanarArm, config: Mapping[str, Any]) -> HeadsQP:
    for name, expected in (("model", "mlp-qp"), ("network", "plain")):
        found = config.get(name, expected)
        if found != expected:
            raise ValueError(f"heads: expected {name} {expected!r} for labelled heads, found {found!r}")
    network = Heads(arm, config["heads"], config.get("hidden", 100), config["inputs"])
    return HeadsQP(network, config.get("layers", 10))


__all__ = [
    "BUILDS",
    "MLP",
    "MLPQP",
    "MODELS",
    "NETWORKS",
    "Heads",
    "HeadsQP",
    "IKAnswer",
    "IKStatus",
    "OptNetIK",
    "build_model",
    "check_answer",
]
