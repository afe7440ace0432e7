"""Planar robot arms among circular obstacles: kinematics, clearance and data sets."""

from robotics.arm import PlanarArm
from robotics.dataset import IKDataset, make_dataset
from robotics.dataset_config import DatasetConfig
from robotics.files import FileError
from robotics.obstacles import Circles, Witness

__all__ = [
    "Circles",
    "DatasetConfig",
    "FileError",
    "IKDataset",
    "PlanarArm",
    "Witness",
    "make_dataset",
]
