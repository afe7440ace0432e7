"""Reproducible data sets of (target, joint angles) for learning inverse kinematics."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from robotics.checks import check_choice, check_keys, shown
from robotics.dataset_config import DatasetConfig
from robotics.files import FileError, StrPath, read_json, read_npz, write_json, write_npz
from robotics.labels import Labels, label
from robotics.obstacles import Circles
from robotics.sampling import workspace_sample

SPLITS = ("train", "validation", "test")
_BLOCK = 2048  # samples drawn at once; a part of what a seed means
_PATIENCE = 50 * _BLOCK  # draws before a yield under _LEAST_YIELD gives up
_LEAST_YIELD = 1e-3


@dataclass(frozen=True, eq=False)  # eq=False: tensors have no single truth value to compare by
class IKDataset(Dataset[tuple[Tensor, Tensor]]):
    """Targets and joint angles that reach them, in float64 on the CPU.

    Attributes:
        config: What the set was made from.
        targets: (N, 2) or (N, 3): x, y [m] and Θ [rad].
        theta: Joint angles (N, n) [rad].
        removed: Tips (M, 2) [m] of the samples that were removed; a split keeps those of the whole set.
        labels: What the oracle says of every sample; None unless the configuration asks for it.
    """

    config: DatasetConfig
    targets: Tensor
    theta: Tensor
    removed: Tensor
    labels: Labels | None = None

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
        tensors = {"targets": self.targets, "theta": self.theta, "removed": self.removed}
        if self.labels is not None:
            tensors |= self.labels._asdict()
        return {name: tensor.double().numpy() for name, tensor in tensors.items()}

    def split(self, name: str) -> "IKDataset":
        """Return one of the splits train, validation and test: disjoint, and together the whole set."""
        check_choice("split", name, SPLITS)
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
        labels = self.labels and Labels(*(column[part] for column in self.labels))
        return IKDataset(self.config, self.targets[part], self.theta[part], self.removed, labels)

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
        names = Labels._fields if config.labels else ()
        arrays = read_npz(data_path, ("targets", "theta", "removed", *names))
        if any(array.dtype != np.float64 for array in arrays.values()):
            raise FileError(f"{data_path}: expected arrays of float64, found another type")
        columns = {name: torch.from_numpy(array) for name, array in arrays.items()}
        found_labels = {
            name: columns.pop(name).to(torch.float64 if name == "interval" else torch.int64) for name in names
        }
        dataset = cls(config, **columns, labels=Labels(**found_labels) if found_labels else None)
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
    labels = label(config.arm, theta[keep], targets, circles) if config.labels else None
    return IKDataset(config, targets, theta[keep], config.arm.tip(theta[~keep]), labels)


def _draw(config: DatasetConfig, generator: torch.Generator) -> Tensor:
    """Return joint angles (up to _BLOCK, n) [rad] within the limits."""
    if config.sampling == "joints":
        return config.arm.sample(_BLOCK, generator)
    return workspace_sample(config.arm, _BLOCK, generator)


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
