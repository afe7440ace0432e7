"""Training of labelled heads on random targets among random circles: no data set, and no labels but the heads' own."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor
from tqdm import tqdm

from robotics.arm import PlanarArm
from robotics.models.heads import Heads
from robotics.obstacles import Circles

STEPS = 10_000  # about 80 CPU seconds for three links and eight heads
BASE_ROOM = 0.1  # of the mean link: circles keep this far off the base


def random_scenes(arm: PlanarArm, num: int, circles: int, generator: torch.Generator) -> Circles:
    """Return one scene for each of `num` targets: radius U[0.1, 0.4] of a link, uniform in reach, the base clear."""
    link = arm.reach / arm.num_links

    def uniform() -> Tensor:
        return torch.rand(num, circles, generator=generator, dtype=torch.float64)

    radii = link * (0.1 + 0.3 * uniform())
    nearest = radii + BASE_ROOM * link + arm.link_radius
    distance = (nearest**2 + (arm.reach**2 - nearest**2) * uniform()).sqrt()
    angle = math.tau * uniform()
    return Circles(distance[..., None] * torch.stack((angle.cos(), angle.sin()), -1), radii)


@torch.enable_grad()
def train_heads(
    arm: PlanarArm,
    heads: int = 8,
    *,
    inputs: str = "xy",
    hidden: int = 100,
    steps: int = STEPS,
    batch_size: int = 256,
    learning_rate: float = 3e-3,
    most_circles: int = 6,
    seed: int = 0,
    progress: bool = False,
) -> Heads:
    """Return heads trained by Adam on `Heads.loss`; the same arguments give the same weights.

    Args:
        arm: the arm.
        heads: number of labelled heads.
        inputs: "xy" for positions, "xytheta" for poses.
        hidden: width of the hidden layers.
        steps: batches, each of new targets (tips or poses of uniform joints) and scenes of 0 to `most_circles` circles.
        batch_size: targets in a batch.
        learning_rate: of Adam at the start; it falls to zero as a half cosine.
        most_circles: circles in the largest scene.
        seed: of the first weights, targets and scenes.
        progress: whether to show a bar on stderr, if that is a terminal.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Heads(arm, heads, hidden, inputs).float()  # the steps are coarse: half the time, nothing lost
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in tqdm(range(steps), desc="train heads", file=sys.stderr, disable=None if progress else True):
        count = int(torch.randint(most_circles + 1, (), generator=generator))
        theta = arm.sample(batch_size, generator)
        targets = arm.tip(theta) if inputs == "xy" else arm.pose(theta)
        scene = random_scenes(arm, batch_size, count, generator)
        optimizer.zero_grad()
        targets, scene = targets.float(), Circles(scene.centers.float(), scene.radii.float())
        network.loss(network(targets, scene), targets, scene).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return network.double()
