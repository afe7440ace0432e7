"""Everything that determines a data set."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from robotics.arm import PlanarArm
from robotics.checks import check_choice, check_count, check_keys, finite_numbers, shown
from robotics.obstacles import Circles


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Everything that determines a data set.

    Attributes:
        arm: The arm.
        circles: Obstacles (x, y, r) [m].
        num_samples: Number of samples kept after removal.
        sampling: `joints`: joint angles uniform within the limits. `workspace`: tips uniform over the
            reachable area, the joint angles drawn from those that reach them (two links or more).
        removal: `none`, `tip` (drop a sample whose tip lies in a circle) or `whole-arm` (drop it if any
            link, with its capsule, touches one).
        inputs: `xy` for targets (x, y), `xytheta` for (x, y, Θ).
        seed: Seed of the draws and of the splits.
        fractions: Parts of the splits train, validation and test; they add up to one.
        labels: Whether the oracle labels every sample (three links only).
    """

    arm: PlanarArm
    num_samples: int
    circles: tuple[tuple[float, float, float], ...] = ()
    sampling: Literal["joints", "workspace"] = "joints"
    removal: Literal["none", "tip", "whole-arm"] = "none"
    inputs: Literal["xy", "xytheta"] = "xy"
    seed: int = 0
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)
    labels: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.arm, PlanarArm):
            raise ValueError(f"arm: expected a PlanarArm, found {shown(self.arm)}")
        check_count("num_samples", self.num_samples)
        check_count("seed", self.seed, 0)
        check_choice("sampling", self.sampling, ("joints", "workspace"))
        check_choice("removal", self.removal, ("none", "tip", "whole-arm"))
        check_choice("inputs", self.inputs, ("xy", "xytheta"))
        if self.sampling == "workspace" and self.arm.num_links == 1:
            raise ValueError("sampling: expected 'joints' for one link, whose tip has no area, found 'workspace'")
        if not isinstance(self.labels, bool):
            raise ValueError(f"labels: expected true or false, found {shown(self.labels)}")
        if self.labels and self.arm.num_links != 3:
            raise ValueError(
                f"labels: expected false for an arm that has not 3 links, found {self.arm.num_links} links"
            )
        fractions = finite_numbers("fractions", self.fractions, 3)
        if min(fractions) < 0 or not math.isclose(sum(fractions), 1):
            raise ValueError(f"fractions: expected numbers >= 0 of sum 1, found {shown(self.fractions)}")
        circles = Circles.from_json({"circles": self.circles}).to_json()["circles"]
        # Plain tuples, whatever came in: they compare and hash alike.
        object.__setattr__(self, "fractions", fractions)
        object.__setattr__(self, "circles", tuple(map(tuple, circles)))

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain lists and numbers, ready for a JSON file."""
        return {
            "arm": self.arm.to_json(),
            "num_samples": self.num_samples,
            "circles": [list(circle) for circle in self.circles],
            "sampling": self.sampling,
            "removal": self.removal,
            "inputs": self.inputs,
            "seed": self.seed,
            "fractions": list(self.fractions),
            **({"labels": True} if self.labels else {}),  # sets without keep the hash they had before there were any
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "DatasetConfig":
        """Return the configuration that `to_json` described, or raise ValueError."""
        optional = {"circles", "sampling", "removal", "inputs", "seed", "fractions", "labels"}
        values = dict(check_keys("config", data, {"arm", "num_samples"}, optional))
        return cls(**values | {"arm": PlanarArm.from_json(values["arm"])})
