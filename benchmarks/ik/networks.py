"""The networks of the benchmark: small, trained on the fly, and kept under runs/ by what determines them."""

from __future__ import annotations

import functools
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

import robotics
from robotics import Circles, DatasetConfig, IKDataset, PlanarArm, make_dataset
from robotics.head_training import STEPS, train_heads
from robotics.joint_training import train_as_duka
from robotics.models import MLP, MLPQP, HeadsQP, build_model
from robotics.training import TrainingConfig, copy_network, fit

from ..report import write_bytes

CACHE = Path("runs") / "benchmark_ik"


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much training a network gets.

    Attributes:
        samples: of the training set, 70/15/15, at joint angles uniform within the limits and clear of the circles.
        epochs: of the networks alone.
        learning_rate: of the networks alone, at the start.
        layer_epochs: of the models with programs, from the trained network, on `layer_samples` targets each.
        layer_samples: see there.
        duka_samples: of Duka's network.
        head_steps: of labelled heads, each with 256 new targets and scenes of 0 to 6 circles.
        seed: of data, weights and order.
    """

    samples: int = 16_000
    epochs: int = 200
    learning_rate: float = 1e-2
    layer_epochs: int = 4
    layer_samples: int = 1024
    duka_samples: int = 1000
    head_steps: int = STEPS
    seed: int = 0


QUICK = Budget(samples=300, epochs=3, layer_epochs=1, layer_samples=64, duka_samples=60, head_steps=20)


@functools.cache
def _code() -> str:
    """Return a hash of the files that say what a network is and how it is trained."""
    folder = Path(robotics.__file__).parent
    files = [*folder.glob("*training.py"), *folder.glob("models/*.py"), folder / "dataset.py", folder / "sampling.py"]
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(files))).hexdigest()


class Networks:
    """Trained models of one arm and scene, each made when first asked for."""

    def __init__(self, arm: PlanarArm, circles: Circles, budget: Budget, cache: Path = CACHE) -> None:
        self.arm, self.circles, self.budget, self.cache = arm, circles, budget, cache
        self._models: dict[str, Any] = {}

    def network(self, kind: str, inputs: str = "xy") -> MLP:
        """Return a network of a kind of `MLP`, trained on its tip loss."""
        config = {"model": "mlp", "inputs": inputs, "network": kind}
        model: MLP = self._get(
            config, lambda model: fit(model, self._data(inputs), self.circles, self._plan(), None, False)
        )
        return model

    def layered(self, config: dict[str, Any], layers: int) -> Any:
        """Return a model with programs, trained from the network of unit vectors, with `layers` steps an answer."""

        def train(model: Any) -> None:
            if isinstance(model, MLPQP):
                copy_network(model, self.network("unit", config["inputs"]))
            plan = self._plan(self.budget.layer_epochs, self.budget.layer_samples, 1e-3)
            fit(model, self._data(config["inputs"]), self.circles, plan, None, False)

        model = self._get(config, train)
        if not isinstance(model, MLPQP):
            return model
        return MLPQP(model.network, model.mode, layers)

    def heads(self, number: int, inputs: str = "xy") -> HeadsQP:
        """Return labelled heads for positions or poses, trained on scenes of their own, with ten certified layers."""
        budget = self.budget
        model: HeadsQP = self._get(
            {"model": "mlp-qp", "inputs": inputs, "heads": number},
            None,
            lambda: HeadsQP(train_heads(self.arm, number, inputs=inputs, steps=budget.head_steps, seed=budget.seed)),
        )
        return model

    def duka(self) -> MLP:
        """Return Duka's network, trained as he did; it knows no circles."""
        budget = self.budget
        model: MLP = self._get(
            {"model": "mlp", "inputs": "xytheta"},
            None,
            lambda: train_as_duka(budget.seed, num_samples=budget.duka_samples)[0],
        )
        return model

    def _get(
        self, config: dict[str, Any], train: Callable[[Any], object] | None, make: Callable[[], Any] | None = None
    ) -> Any:
        scene = self.circles.to_json() if train is not None else None  # what has its own data knows no circles
        key = json.dumps([config, self.arm.to_json(), scene, asdict(self.budget), _code()])
        name = hashlib.sha256(key.encode()).hexdigest()[:16]
        if name in self._models:
            return self._models[name]
        torch.manual_seed(self.budget.seed)
        model, path = build_model(self.arm, config), self.cache / f"{name}.pt"
        if path.is_file():
            model.load_state_dict(torch.load(path, weights_only=True))
        else:
            if train is not None:
                with torch.enable_grad():  # the caller may be answering
                    train(model)
            elif make is not None:
                model = make()
            buffer = io.BytesIO()
            torch.save(model.state_dict(), buffer)
            self.cache.mkdir(parents=True, exist_ok=True)
            write_bytes(path, buffer.getvalue())
        self._models[name] = model
        return model

    def _data(self, inputs: str) -> IKDataset:
        if inputs not in self._models:
            circles = tuple(map(tuple, self.circles.to_json()["circles"]))
            self._models[inputs] = make_dataset(
                DatasetConfig(
                    arm=self.arm, num_samples=self.budget.samples, circles=circles, removal="whole-arm",
                    inputs="xy" if inputs == "xy" else "xytheta", seed=self.budget.seed,
                )
            )  # fmt: skip
        data: IKDataset = self._models[inputs]
        return data

    def _plan(self, epochs: int | None = None, samples: int | None = None, rate: float | None = None) -> TrainingConfig:
        return TrainingConfig(
            epochs=epochs or self.budget.epochs,
            learning_rate=rate or self.budget.learning_rate,
            epoch_samples=samples,
            validation_samples=256,
            seed=self.budget.seed,
        )
