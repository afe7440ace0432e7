"""Figures of one way to one target: in the workspace, among the reachable targets, in the configuration space."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colors, patches
from matplotlib.figure import Figure
from torch import Tensor

from robotics.arm import PlanarArm
from robotics.config_space import BLOCKED, FREE, Reachable, reachable_set, slice_at
from robotics.files import StrPath, make_folder
from robotics.models.answer import IKStatus
from robotics.obstacles import Circles
from robotics.plots import COLOURS, draw_base, draw_circles, save, workspace_axes
from robotics.recording import Recording

ARM, TIP, TARGET = COLOURS[0], COLOURS[4], COLOURS[1]
_GHOSTS = 9  # postures between start and end: more cannot be told apart
_PANELS = 4
_FREE_CELL, _BLOCKED_CELL = "#CFE5F5", "#F6C9A8"


def draw_recording(folder: StrPath, recording: Recording, joints: tuple[int, int] = (0, 1)) -> list[Path]:
    """Draw all figures of a recording into a folder; return their paths."""
    folder = make_folder(folder)
    paths = [
        plot_path(folder / "workspace.png", recording),
        plot_reachable(folder / "reachable.png", recording, reachable_set(recording.arm, recording.circles)),
    ]
    if recording.arm.num_links > 1:
        paths.append(plot_configuration(folder / "configuration.png", recording, joints))
    return paths


def plot_path(path: StrPath, recording: Recording) -> Path:
    """Draw the arm along its path: where it starts, on the way, and where it ends.

    Args:
        path: The PNG file.
        recording: The path.
    """
    arm = recording.arm
    figure, axes = _workspace(recording)
    moments = recording.frames(max(60, 2 * len(recording.layers)))
    chains = np.stack([arm.points(recording.theta(*moment)).numpy() for moment in moments])
    for i in _evenly_along(chains[:, -1], _GHOSTS):
        axes.plot(*chains[i].T, color=ARM, alpha=0.28, linewidth=1.2, zorder=3)
    axes.plot(*chains[0].T, color=ARM, ls=(0, (3, 1.5)), linewidth=1.8, zorder=4, label="start")
    axes.plot(*chains[:, -1].T, color=TIP, linewidth=2, zorder=5, label="path of the tip")
    draw_arm(axes, chains[-1], label="end")
    draw_target(axes, recording.target)
    axes.set_title(_headline(recording), fontsize=11)
    figure.legend(loc="outside lower center", ncols=5, frameon=False)
    return save(figure, path)


def plot_reachable(path: StrPath, recording: Recording, reachable: Reachable) -> Path:
    """Draw which targets can be reached, and which only the circles forbid.

    Args:
        path: The PNG file.
        recording: Its arm, circles and end are drawn.
        reachable: From `reachable_set`.
    """
    figure, axes = _workspace(recording)
    palette = colors.ListedColormap(["white", _BLOCKED_CELL, _FREE_CELL])
    bound = reachable.x[-1] + (reachable.x[1] - reachable.x[0]) / 2
    extent = (-bound, bound, -bound, bound)
    axes.imshow(reachable.kind, origin="lower", extent=extent, cmap=palette, vmin=0, vmax=2, zorder=0)
    for least, colour in ((BLOCKED, TARGET), (FREE, ARM)):
        inside = (reachable.kind >= least).astype(float)
        axes.contour(reachable.x, reachable.x, inside, [0.5], colors=colour, linewidths=0.8, zorder=0.5)
    axes.fill([], [], facecolor=_FREE_CELL, edgecolor=ARM, label="reachable")
    if (reachable.kind == BLOCKED).any():
        axes.fill([], [], facecolor=_BLOCKED_CELL, edgecolor=TARGET, label="blocked by the circles")
    draw_arm(axes, recording.arm.points(recording.layers[-1].end).numpy(), label="arm")
    draw_target(axes, recording.target)
    how = "judged by the oracle" if reachable.exact else "found by certified steps"
    axes.set_title(f"Reachable set of the tip ({how})", fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return save(figure, path)


def plot_configuration(path: StrPath, recording: Recording, joints: tuple[int, int] = (0, 1)) -> Path:
    """Draw slices through the configuration space at moments of the path, with the path projected on them.

    The posture of the moment lies in its slice, and so outside of all regions; the rest of the path is seen through it.

    Args:
        path: The PNG file.
        recording: The path.
        joints: The two joints of the slices, counted from 0.
    """
    arm = recording.arm
    points = recording.waypoints()
    moments = [0, *(i for i in _evenly_along(points.numpy(), _PANELS - 2) if 0 < i < len(points) - 1), len(points) - 1]
    if arm.num_links == 2:  # one plane is all there is
        moments = moments[-1:]
    (x0, x1), (y0, y1) = arm.limits[joints[0]], arm.limits[joints[1]]
    shape = min(max((y1 - y0) / max(x1 - x0, 1e-3), 0.4), 2.5)
    width = 2.9 if len(moments) > 1 else 4.4
    size = (max(width * len(moments) + 0.8, 6.0), width * shape + 1.6)
    figure = Figure(figsize=size, layout="compressed")
    panels = figure.subplots(1, len(moments), squeeze=False, sharex=True, sharey=True)[0]
    for axes, moment in zip(panels, moments, strict=True):
        _draw_moment(axes, recording, points, moment, joints)
    panels[0].set_ylabel(f"$\\theta_{{{joints[1] + 1}}}$ [rad]")
    handles, labels = panels[-1].get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda i: labels[i].startswith("circle"))
    names = [labels[i] for i in order]
    figure.legend(
        [handles[i] for i in order], names, loc="outside lower center", ncols=4, frameon=False, handlelength=2.2
    )
    figure.suptitle("Configuration space: where a link touches a circle, and the certified path", fontsize=11)
    return save(figure, path)


_POSTURE: dict[str, Any] = {
    **{"marker": "o", "markersize": 6, "markerfacecolor": COLOURS[4], "markeredgecolor": "black"},
    **{"markeredgewidth": 1.0, "ls": "", "zorder": 7, "color": "black"},
}


def _draw_moment(axes: Any, recording: Recording, points: Tensor, moment: int, joints: tuple[int, int]) -> None:
    """Draw the slice through one of the points of a path, with the path."""
    _draw_slice(axes, recording.arm, recording.circles, points[moment], joints)
    way = points[:, list(joints)].numpy()
    axes.plot(*way.T, color="black", linewidth=1.0, ls=":", zorder=4, label="path, projected")
    axes.plot(*way[: moment + 1].T, color="black", linewidth=1.8, zorder=5, label="path so far")
    axes.plot(*way[0], color="black", marker="s", markersize=5, ls="", zorder=6, label="start")
    axes.plot(*way[moment], **_POSTURE, label="posture in this slice")
    others = [i for i in range(recording.arm.num_links) if i not in joints]
    held = ", ".join(f"$\\theta_{{{i + 1}}} = {points[moment, i]:.2f}$" for i in others[:3])
    held += ", …" if len(others) > 3 else ""
    when = f"after layer {moment}" if moment else "start"
    axes.set_title(when + (f"\n{held} rad" if held else ""), fontsize=10)
    axes.set_xlabel(f"$\\theta_{{{joints[0] + 1}}}$ [rad]")


def draw_arm(axes: Any, chain: Any, label: str | None = None) -> Any:
    """Draw an arm by its points (n+1, 2), and return its line."""
    style = {"marker": "o", "markersize": 6, "markerfacecolor": "white", "markeredgewidth": 1.8, "linewidth": 3.2}
    (line,) = axes.plot(
        *chain.T, color=ARM, zorder=6, label=label, solid_capstyle="round", markevery=slice(1, None), **style
    )
    return line


def draw_target(axes: Any, target: Tensor) -> None:
    """Draw a target as a cross, with an arrow along its orientation if it has one; at the edge if it is outside."""
    edge = 0.98 * axes.get_xlim()[1]
    x, y = (min(max(value, -edge), edge) for value in target[:2].tolist())
    if [x, y] != target[:2].tolist():
        where = "target, farther out: ({:.4g}, {:.4g})".format(*target[:2].tolist()).replace("-", "\u2212")
        offset = (8 if x < 0 else -8, -20 if y == edge else 12)
        text: dict[str, Any] = {"ha": "left" if x < 0 else "right", "color": TARGET, "fontsize": 9.5, "zorder": 8}
        text["bbox"] = {"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1}
        axes.annotate(where, (x, y), offset, textcoords="offset points", **text)
    style = {"marker": "x", "markersize": 11, "markeredgewidth": 2.6, "ls": ""}
    axes.plot(x, y, color=TARGET, zorder=8, label="target", **style)
    if len(target) == 3:
        size = 0.12 * abs(axes.get_xlim()[1])
        end = (x + size * math.cos(target[2]), y + size * math.sin(target[2]))
        arrow = {"arrowstyle": "->", "color": TARGET, "linewidth": 2}
        axes.annotate("", end, (x, y), arrowprops=arrow, zorder=8)


def draw_scene(axes: Any, arm: PlanarArm, circles: Circles) -> None:
    """Draw the circles with their numbers, the ring of the reach and the base, on axes [m] that hold them."""
    draw_circles(axes, circles, label="circle", numbers=True)
    draw_base(axes, arm)
    workspace_axes(axes, arm, "")
    axes.set_ylabel("y [m]")


def _workspace(recording: Recording) -> tuple[Figure, Any]:
    figure = Figure(figsize=(6.4, 7.1), layout="compressed")
    axes = figure.add_subplot()
    draw_scene(axes, recording.arm, recording.circles)
    return figure, axes


def _headline(recording: Recording) -> str:
    count = len(recording.layers)
    soft = sum(not layer.certified for layer in recording.layers)
    steps = f"{count - soft} certified layers" + (f" after {soft} softened" if soft else "")
    error = recording.layers[-1].error
    state = IKStatus(recording.status).name
    return f"{steps}: {state}, task error {error:.1e} of reach"


def _evenly_along(points: Any, num: int) -> list[int]:
    """Return the indices of about `num` points of a curve, evenly spread along it, without its ends."""
    length = np.concatenate(([0.0], np.linalg.norm(np.diff(points, axis=0), axis=-1).cumsum()))
    wanted = np.linspace(0, length[-1], num + 2)[1:-1]
    return sorted({int(abs(length - value).argmin()) for value in wanted} - {0, len(points) - 1})


def _draw_slice(axes: Any, arm: PlanarArm, circles: Circles, theta: Tensor, joints: tuple[int, int]) -> None:
    plane = slice_at(arm, circles, theta, joints)
    for i, clearance in enumerate(plane.clearance):
        colour = COLOURS[i % len(COLOURS)]
        if clearance.min() < 0:
            axes.contourf(plane.first, plane.second, clearance, [-math.inf, 0], colors=[colour], alpha=0.3, zorder=1)
            axes.contour(plane.first, plane.second, clearance, [0], colors=[colour], linewidths=1.4, zorder=2)
        face = colors.to_rgba(colour, 0.3)
        axes.fill([], [], facecolor=face, edgecolor=colour, label=f"circle {i}")
    (x0, x1), (y0, y1) = arm.limits[joints[0]], arm.limits[joints[1]]
    axes.add_patch(patches.Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, linewidth=1, ls="--", zorder=3))
    room = 0.04 * max(x1 - x0, y1 - y0, 1e-3)
    axes.set(aspect="equal", xlim=(x0 - room, x1 + room), ylim=(y0 - room, y1 + room))
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
