"""Reproducible data sets of (target, joint angles) for learning inverse kinematics."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from robotics.arm import PlanarArm, check_keys, finite_numbers, shown, wrap_angle
from robotics.files import FileError, StrPath, read_json, read_npz, write_json, write_npz
from robotics.obstacles import Circles

SPLITS = ("train", "validation", "test")
_BLOCK = 2048  # samples drawn at once; a part of what a seed means
_ORIENTATIONS = 64  # tried for every workspace tip
_PATIENCE = 50 * _BLOCK  # draws before a yield under _LEAST_YIELD gives up
_LEAST_YIELD = 1e-3


@dataclass(frozen=True, kw_only=True)
class DatasetConfig:
    """Everything that determines a data set.

    Attributes:
        arm: The arm.
        circles: Obstacles (x, y, r) [m].
        num_samples: Number of samples kept after removal.
        sampling: `joints`: joint angles uniform within the limits. `workspace`: tips uniform over the
            reachable area, the joint angles drawn from all that reach them (three links only).
        removal: `none`, `tip` (drop a sample whose tip lies in a circle) or `whole-arm` (drop it if any
            link, with its capsule, touches one).
        inputs: `xy` for targets (x, y), `xytheta` for (x, y, Θ).
        seed: Seed of the draws and of the splits.
        fractions: Parts of the splits train, validation and test; they add up to one.
    """

    arm: PlanarArm
    num_samples: int
    circles: tuple[tuple[float, float, float], ...] = ()
    sampling: Literal["joints", "workspace"] = "joints"
    removal: Literal["none", "tip", "whole-arm"] = "none"
    inputs: Literal["xy", "xytheta"] = "xy"
    seed: int = 0
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15)

    def __post_init__(self) -> None:
        if not isinstance(self.arm, PlanarArm):
            raise ValueError(f"arm: expected a PlanarArm, found {shown(self.arm)}")
        _check_integer("num_samples", self.num_samples, 1)
        _check_integer("seed", self.seed, 0)
        _check_choice("sampling", self.sampling, ("joints", "workspace"))
        _check_choice("removal", self.removal, ("none", "tip", "whole-arm"))
        _check_choice("inputs", self.inputs, ("xy", "xytheta"))
        if self.sampling == "workspace" and self.arm.num_links != 3:
            raise ValueError(
                f"sampling: expected 'joints' for an arm that has not 3 links, found 'workspace' for "
                f"{self.arm.num_links} links"
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
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "DatasetConfig":
        """Return the configuration that `to_json` described, or raise ValueError."""
        optional = {"circles", "sampling", "removal", "inputs", "seed", "fractions"}
        values = dict(check_keys("config", data, {"arm", "num_samples"}, optional))
        return cls(**values | {"arm": PlanarArm.from_json(values["arm"])})


@dataclass(frozen=True, eq=False)  # eq=False: tensors have no single truth value to compare by
class IKDataset(Dataset[tuple[Tensor, Tensor]]):
    """Targets and joint angles that reach them, in float64 on the CPU.

    Attributes:
        config: What the set was made from.
        targets: (N, 2) or (N, 3): x, y [m] and Θ [rad].
        theta: Joint angles (N, n) [rad].
        removed: Tips (M, 2) [m] of the samples that were removed; a split keeps those of the whole set.
    """

    config: DatasetConfig
    targets: Tensor
    theta: Tensor
    removed: Tensor

    def __len__(self) -> int:
        return self.theta.shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.targets[index], self.theta[index]

    @property
    def hash(self) -> str:
        """The sha256 of the arrays and the configuration, in hexadecimal."""
        return _config_hash(self.config, self._data_hash)

    @property
    def _data_hash(self) -> str:
        digest = hashlib.sha256()
        for name, array in self._arrays().items():
            digest.update(f"{name} {array.shape} ".encode())
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()

    def _arrays(self) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        return {name: getattr(self, name).numpy() for name in ("targets", "theta", "removed")}

    def split(self, name: str) -> "IKDataset":
        """Return one of the splits train, validation and test: disjoint, and together the whole set."""
        _check_choice("split", name, SPLITS)
        num = len(self)
        if num != self.config.num_samples:
            raise ValueError(
                f"split: expected the whole set of {self.config.num_samples} samples, found a part of {num}"
            )
        order = torch.randperm(num, generator=torch.Generator().manual_seed(self.config.seed))
        first, second, _ = self.config.fractions
        edges = (0, round(first * num), round((first + second) * num), num)
        i = SPLITS.index(name)
        part = order[edges[i] : edges[i + 1]]
        return IKDataset(self.config, self.targets[part], self.theta[part], self.removed)

    def save(self, path: StrPath) -> None:
        """Write the folder `path` with data.npz and config.json, which holds the hashes."""
        folder = Path(path)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{folder}: expected a folder, found: {error.strerror}") from error
        # The configuration last: a set that was cut short between the two files does not load.
        write_npz(folder / "data.npz", self._arrays())
        hashes = {"data_hash": self._data_hash, "hash": self.hash}
        write_json(folder / "config.json", {"config": self.config.to_json(), **hashes})

    @classmethod
    def load(cls, path: StrPath) -> "IKDataset":
        """Return the set that `save` wrote.

        Raises:
            FileError: If a file is missing, damaged or was changed: which one, and how that was found.
        """
        config_path, data_path = Path(path) / "config.json", Path(path) / "data.npz"
        data = read_json(config_path)
        try:
            stored = check_keys("dataset", data, {"config", "data_hash", "hash"}, set())
            config = DatasetConfig.from_json(stored["config"])
        except ValueError as error:
            raise FileError(f"{config_path}: {error}") from error
        found = _config_hash(config, str(stored["data_hash"]))
        if found != stored["hash"]:
            raise FileError(f"{config_path}: expected the hash {shown(stored['hash'])}, found {found!r}")
        arrays = read_npz(data_path, ("targets", "theta", "removed"))
        if any(array.dtype != np.float64 for array in arrays.values()):
            raise FileError(f"{data_path}: expected arrays of float64, found another type")
        dataset = cls(config, **{name: torch.from_numpy(array) for name, array in arrays.items()})
        if dataset._data_hash != stored["data_hash"]:
            raise FileError(
                f"{data_path}: expected the data hash {shown(stored['data_hash'])}, found {dataset._data_hash!r}"
            )
        return dataset


def make_dataset(config: DatasetConfig) -> IKDataset:
    """Draw a data set; the same configuration gives the same set.

    Samples are drawn one after the other until `num_samples` are kept, repeated ones left out. So with
    the same seed a smaller set is the beginning of a larger one.

    Raises:
        ValueError: If almost no sample is kept, as with a circle over the base.
    """
    generator = torch.Generator().manual_seed(config.seed)
    circles = Circles.from_json({"circles": config.circles})
    seen: set[bytes] = set()
    blocks: list[Tensor] = []
    keeps: list[Tensor] = []
    draws = kept = 0
    while kept < config.num_samples:
        if draws >= _PATIENCE and kept < _LEAST_YIELD * draws:
            raise ValueError(
                f"num_samples: expected {config.num_samples} samples (sampling {config.sampling!r}, removal "
                f"{config.removal!r}), found {kept} in {draws} draws; is the base or the workspace covered?"
            )
        theta = _draw(config, generator)
        theta = theta[[_is_new(row.tobytes(), seen) for row in theta.numpy()]]
        blocks.append(theta)
        keeps.append(_keep(config, circles, theta))
        draws += _BLOCK
        kept += int(keeps[-1].sum())
    theta, keep = torch.cat(blocks), torch.cat(keeps)
    end = int(keep.nonzero()[config.num_samples - 1]) + 1
    theta, keep = theta[:end], keep[:end]
    pose = config.arm.pose(theta[keep])
    targets = pose if config.inputs == "xytheta" else pose[:, :2].contiguous()
    return IKDataset(config, targets, theta[keep], config.arm.tip(theta[~keep]))


def _draw(config: DatasetConfig, generator: torch.Generator) -> Tensor:
    """Return joint angles (up to _BLOCK, n) [rad] within the limits."""
    if config.sampling == "joints":
        return config.arm.sample(_BLOCK, generator)
    return _workspace_sample(config.arm, generator)


def _workspace_sample(arm: PlanarArm, generator: torch.Generator) -> Tensor:
    """Return joint angles with tips uniform over the reachable area.

    Tips are uniform over the disc of the reach. Each keeps one of its answers within the
    limits, among evenly spread orientations with a random offset and both elbows, and is dropped if there
    is none. (One orientation for each tip would make tips with many answers more frequent.)
    """

    def uniform(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, dtype=torch.float64)

    radius = arm.reach * uniform(_BLOCK, 1).sqrt()
    azimuth = 2 * math.pi * uniform(_BLOCK, 1)
    steps = torch.arange(_ORIENTATIONS) + uniform(_BLOCK, 1)
    x, y = (radius * azimuth.cos()).expand_as(steps), (radius * azimuth.sin()).expand_as(steps)
    theta, _ = arm.inverse(torch.stack((x, y, 2 * math.pi / _ORIENTATIONS * steps), dim=-1))
    # Limits may lie beyond ±π: take each angle in the turn about the middle of its limits.
    lower, upper = arm.limits_tensor(theta)
    middle = (lower + upper) / 2
    theta = (middle + wrap_angle(theta - middle)).flatten(1, 2)
    allowed = arm.limit_violation(theta) <= 0  # False for the NaN of unreachable poses
    choice = torch.where(allowed, uniform(*allowed.shape), -1.0).argmax(-1)
    rows = allowed.any(-1)
    return theta[torch.arange(_BLOCK), choice][rows]


def _keep(config: DatasetConfig, circles: Circles, theta: Tensor) -> Tensor:
    points = config.arm.points(theta)
    if config.removal == "tip":
        return circles.tip_clearance(points) > 0
    if config.removal == "whole-arm":
        return circles.clearance(points, config.arm.link_radius) > 0
    return torch.ones(theta.shape[0], dtype=torch.bool)


def _is_new(row: bytes, seen: set[bytes]) -> bool:
    if row in seen:
        return False
    seen.add(row)
    return True


def _config_hash(config: DatasetConfig, data_hash: str) -> str:
    return hashlib.sha256((json.dumps(config.to_json(), sort_keys=True) + data_hash).encode()).hexdigest()


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, found {shown(value)}")


def _check_integer(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**63:
        raise ValueError(f"{name}: expected an integer >= {least}, found {shown(value)}")
