"""Figures: each function draws one, writes it as PNG, whole or not at all, and returns its path."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import patches
from matplotlib.figure import Figure
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.dataset import IKDataset
from robotics.files import StrPath, write_bytes
from robotics.metrics import tip_errors
from robotics.obstacles import Circles
from robotics.trajectories import Track, TrackStatus

# Okabe and Ito: told apart with every kind of colour vision, and in grey.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY = "#7F7F7F"
_SAFE: dict[str, Any] = {"marker": "o", "markersize": 5, "markerfacecolor": "white", "linewidth": 2.2}
_UNSAFE: dict[str, Any] = {**_SAFE, "ls": (0, (2, 1))}
_TARGET: dict[str, Any] = {"marker": "x", "markersize": 10, "markeredgewidth": 2.5, "ls": ""}
_LEAST_ERROR, _LARGEST_ERROR = 1e-16, 10.0  # of reach: what is beyond is drawn here
_MOST_POINTS = 4000  # more hide each other
_POSTURES = 9  # of a track


def plot_workspace(path: StrPath, dataset: IKDataset) -> Path:
    """Draw the targets of a data set, the tips of its removed samples, and the circles.

    Args:
        path: The PNG file.
        dataset: The set.
    """
    config = dataset.config
    figure = Figure(figsize=(6.5, 7), layout="constrained")
    axes = figure.add_subplot()
    draw_circles(axes, Circles.from_json({"circles": config.circles}), label="circles")
    for tips, colour, label in (
        (dataset.targets[:, :2], COLOURS[0], f"kept: {len(dataset)}"),
        (dataset.removed, COLOURS[1], f"removed: {len(dataset.removed)}"),
    ):
        x, y = tips[:_MOST_POINTS].T
        axes.scatter(x, y, s=4, color=colour, alpha=0.5, linewidths=0, label=label, zorder=2)
    draw_base(axes, config.arm)
    workspace_axes(axes, config.arm, f"Workspace: tips of {config.sampling} samples, {config.removal} removal")
    axes.set_ylabel("y [m]")
    figure.legend(loc="outside lower center", ncols=3, markerscale=3, frameon=False)
    return save(figure, path)


def plot_losses(path: StrPath, histories: Mapping[str, Sequence[Mapping[str, float]]]) -> Path:
    """Draw the training and validation losses of every model against the epoch.

    Args:
        path: The PNG file.
        histories: For each model the rows that `fit` returned, with epoch, train_loss and val_loss.
    """
    figure = Figure(figsize=(1.5 + 3.5 * len(histories), 3.6), layout="constrained")
    panels = figure.subplots(1, len(histories), squeeze=False, sharey=True)[0]
    for axes, (name, rows) in zip(panels, histories.items(), strict=True):
        epochs = [row["epoch"] for row in rows]
        marker = "o" if len(rows) < 30 else ""
        style = {"marker": marker, "markersize": 3.5, "linewidth": 1.5}
        axes.plot(epochs, [row["train_loss"] for row in rows], color=COLOURS[0], label="training", **style)
        axes.plot(epochs, [row["val_loss"] for row in rows], color=COLOURS[1], label="validation", ls="--", **style)
        axes.set(title=name, xlabel="epoch", yscale="log")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, which="both")
    panels[0].set_ylabel("loss")
    panels[0].legend(frameon=False)
    figure.suptitle("Training: the loss of each model")
    return save(figure, path)


def plot_arms(path: StrPath, arm: PlanarArm, circles: Circles, targets: Tensor, answers: Mapping[str, Tensor]) -> Path:
    """Draw the arms of every model, side by side, on the same few targets.

    Args:
        path: The PNG file.
        arm: The arm.
        circles: Obstacles.
        targets: A few targets (N, 2) or (N, 3); each has a colour.
        answers: For each model its joint angles (N, n) [rad], NaN where there is no answer.
    """
    figure = Figure(figsize=(0.5 + 4.2 * len(answers), 6.0), layout="compressed")
    panels = figure.subplots(1, len(answers), squeeze=False, sharex=True, sharey=True)[0]
    for axes, (name, theta) in zip(panels, answers.items(), strict=True):
        points = arm.points(theta)
        colliding = circles.clearance(points, arm.link_radius) < 0
        violating = arm.limit_violation(theta) > 0
        draw_circles(axes, circles)
        for i, (target, chain) in enumerate(zip(targets.tolist(), points, strict=True)):
            colour = COLOURS[i % len(COLOURS)]
            unsafe = bool(colliding[i] | violating[i])
            line = _UNSAFE if unsafe else _SAFE
            axes.plot(*chain.T, color=colour, zorder=3, **line)
            axes.plot(*target[:2], color=colour, zorder=4, **_TARGET)
        draw_base(axes, arm)
        facts = f"{int(colliding.sum())} collide, {int(violating.sum())} beyond a limit"
        if missing := int(theta.isnan().any(-1).sum()):
            facts += f", {missing} without answer"
        workspace_axes(axes, arm, f"{name}\n{facts}")
    panels[0].set_ylabel("y [m]")
    panels[0].plot([], [], label="target", color="black", **_TARGET)
    panels[0].plot([], [], label="safe arm", color="black", **_SAFE)
    panels[0].plot([], [], label="arm that collides or is beyond a limit", color="black", **_UNSAFE)
    figure.suptitle(f"Answers to the same {len(targets)} targets")
    figure.legend(loc="outside lower center", ncols=3 if len(answers) > 1 else 1, frameon=False)
    return save(figure, path)


def plot_errors(
    path: StrPath, arm: PlanarArm, targets: Tensor, answers: Mapping[str, Tensor], tolerance: float = 1e-3
) -> Path:
    """Draw how the tip errors of every model are spread, on a logarithmic axis.

    Args:
        path: The PNG file.
        arm: The arm.
        targets: (N, 2) or (N, 3) [m, m, rad].
        answers: For each model its joint angles (N, n) [rad], NaN where there is no answer.
        tolerance: Marked in the figure [share of reach].
    """
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axes = figure.add_subplot()
    bins: list[float] = np.geomspace(_LEAST_ERROR, _LARGEST_ERROR, 3 * 17 + 1).tolist()  # three in a decade
    for i, (name, theta) in enumerate(answers.items()):
        errors = tip_errors(arm, theta, targets)
        answered = errors[errors.isfinite()]
        missing = len(errors) - len(answered)
        label = name + (f" ({missing} without answer)" if missing else "")
        values = answered.clamp(_LEAST_ERROR, _LARGEST_ERROR).numpy()
        axes.hist(values, bins, histtype="stepfilled", color=COLOURS[i % len(COLOURS)], alpha=0.15)
        axes.hist(values, bins, histtype="step", color=COLOURS[i % len(COLOURS)], linewidth=1.8, label=label)
    axes.axvline(tolerance, color=GREY, ls="--", linewidth=1.2, label=f"tolerance {tolerance:g}")
    axes.set(
        xscale="log",
        xlim=(_LEAST_ERROR, _LARGEST_ERROR),
        xlabel="tip error [share of reach]",
        ylabel="targets",
        title=f"Tip errors on {len(targets)} held-out targets",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return save(figure, path)


def plot_track(path: StrPath, arm: PlanarArm, circles: Circles, targets: Tensor, track: Track) -> Path:
    """Draw the path wanted and the tip's, some postures on the way, the tip error and the joint angles by tick.

    Args:
        path: The PNG file.
        arm: The arm.
        circles: Obstacles.
        targets: (T, 2) or (T, 3).
        track: What the arm did, without batch.
    """
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    left, errors, joints = figure.subplot_mosaic("AB;AC", width_ratios=[1.2, 1]).values()
    draw_circles(left, circles)
    shown = np.unique(np.linspace(0, len(targets) - 1, _POSTURES).astype(int))
    for points in arm.points(track.theta[shown]):
        left.plot(*points.T, color=GREY, alpha=0.6, marker="o", markersize=3, linewidth=1.2, zorder=2)
    tips = arm.tip(track.theta)
    left.plot(*targets[:, :2].T, color="black", ls="--", linewidth=1.2, label="path wanted", zorder=3)
    left.plot(*tips.T, color=COLOURS[0], linewidth=1.8, label="tip", zorder=4)
    tick, relative = np.arange(len(targets)), (track.tip_error / arm.reach).clamp(_LEAST_ERROR, _LARGEST_ERROR)
    errors.plot(tick, relative, color=COLOURS[0], linewidth=1.2)
    for i, status in enumerate(sorted(set(track.status.tolist()) - {TrackStatus.REACHED})):
        here = track.status == status
        style: dict[str, Any] = {"color": COLOURS[1:][i % (len(COLOURS) - 1)], "s": 12, "linewidths": 0, "zorder": 5}
        left.scatter(*tips[here].T, label=TrackStatus(status).name.lower().replace("_", " "), **style)
        errors.scatter(tick[here], relative[here], **style)
    for i, angle in enumerate(track.theta.T):
        joints.plot(tick, angle, color=COLOURS[i % len(COLOURS)], label=f"θ{i + 1}", linewidth=1.5)
    draw_base(left, arm)
    held = int((track.status != TrackStatus.REACHED).sum())
    workspace_axes(left, arm, f"Tip among circles: {len(targets) - held} of {len(targets)} targets reached")
    left.set_ylabel("y [m]")
    errors.set(yscale="log", ylabel="tip error [share of reach]", title="Tip error and joint angles by tick")
    joints.set(xlabel="tick", ylabel="angle [rad]")
    for axes in (errors, joints):
        axes.grid(alpha=0.3)
    joints.legend(frameon=False, ncols=3, loc="best")
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    return save(figure, path)


def draw_circles(axes: Any, circles: Circles, label: str | None = None, numbers: bool = False) -> None:
    """Draw circles, hatched or with their numbers; the first has the label."""
    hatch = None if numbers else "///"
    for i, (x, y, radius) in enumerate(circles.to_json()["circles"]):
        patch = patches.Circle((x, y), radius, facecolor="#D9D9D9", edgecolor=GREY, hatch=hatch, linewidth=1, zorder=1)
        patch.set_label(label if i == 0 else None)
        axes.add_patch(patch)
        if numbers:
            axes.text(x, y, str(i), ha="center", va="center", color="#333333", fontsize=10, zorder=2.5, clip_on=True)


def draw_base(axes: Any, arm: PlanarArm) -> None:
    """Draw the base and the ring of the reach."""
    axes.add_patch(patches.Circle((0, 0), arm.reach, fill=False, edgecolor=GREY, ls=":", linewidth=1, zorder=1))
    axes.plot(0, 0, color="black", marker="s", markersize=8, zorder=7)


def workspace_axes(axes: Any, arm: PlanarArm, title: str) -> None:
    """Set the limits, label and grid of axes [m] that hold the arm."""
    bound = 1.05 * arm.reach
    axes.set(aspect="equal", xlim=(-bound, bound), ylim=(-bound, bound), xlabel="x [m]", title=title)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)


def save(figure: Figure, path: StrPath) -> Path:
    """Write a figure as PNG, whole or not at all."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    write_bytes(path, buffer.getvalue())
    return Path(path)
