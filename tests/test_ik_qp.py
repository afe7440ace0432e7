"""Rows (C) and the programs built from them, against plain numpy that shares no code with the package."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import pytest
import tolerances as tol
import torch
from checker import np_clearance, np_points, path_clearance

from implicit_layers import SolveStatus, solve_qp
from robotics import Circles, PlanarArm
from robotics.ik_qp import (
    MARGIN,
    TRUST,
    ClearanceRows,
    build_step,
    certified_fraction,
    clearance_rows,
    remainder,
    task_error,
)

EXACT = 1e-12  # round-off of sums of ten numbers of size one, in float64
POSE_TURNS = 2 * math.pi * np.array([-3, -1, 0, 1, 2])


# --- the checker and the derivatives of its points -------------------------------------------------


def np_jacobians(points):
    """dp_e/dtheta_j = quarter turn of p_e - p_{j-1} for j <= e, (..., n+1, 2, n)."""
    n = points.shape[-2] - 1
    out = np.zeros((*points.shape[:-2], n + 1, 2, n))
    for e in range(n + 1):
        for j in range(e):
            lever = points[..., e, :] - points[..., j, :]
            out[..., e, 0, j], out[..., e, 1, j] = -lever[..., 1], lever[..., 0]
    return out


def test_the_checker_itself_knows_the_distances_of_simple_scenes():
    centers = np.array([[1.0, 2.0], [-3.0, 4.0], [5.0, -4.0], [1.0, 0.0], [2.5, 0.0], [0.0, 0.0]])
    each = np_clearance([2.0], np.zeros((6, 1)), centers[:, None], np.zeros((6, 1)), 0.0)
    assert each == pytest.approx([2, 5, 5, 0, 0.5, 0], abs=EXACT)
    assert np_points([2.0, 1.0], np.array([math.pi / 2, -math.pi / 2]))[-1] == pytest.approx([1, 2], abs=EXACT)
    swept = path_clearance([1.0], np.array([0.0]), np.array([math.pi]), np.array([[0.0, 2.0]]), np.array([0.5]), 0.1)
    assert swept == pytest.approx(0.4, abs=EXACT)
    assert np_clearance([1.0], np.array([0.0]), np.zeros((0, 2)), np.zeros(0), 0.1) == np.inf


# --- ten thousand arms ----------------------------------------------------------------------------

ARMS_OF_EACH_SIZE = 2000
CIRCLES = 3


class Arms(NamedTuple):
    """2000 arms of n links, each with its own lengths, link radius, posture, scene and five steps to try."""

    lengths: np.ndarray  # (B, n)
    link_radius: np.ndarray  # (B,)
    theta: np.ndarray  # (B, n)
    centers: np.ndarray  # (B, k, 2)
    radii: np.ndarray  # (B, k)
    steps: np.ndarray  # (B, 5, n)
    fraction: np.ndarray  # (B, 5)
    gap: np.ndarray  # (B, r)
    slope: np.ndarray  # (B, r, n)
    remainder: np.ndarray  # (B, 5, r)

    @property
    def reach(self):
        return self.lengths.sum(-1)

    def swept(self, steps, samples=65):
        """Least clearance along every step, (B, 5)."""
        return path_clearance(
            self.lengths[:, None],
            self.theta[:, None],
            steps,
            self.centers[:, None],
            self.radii[:, None],
            self.link_radius[:, None],
            samples,
        )


def scenes_about(lengths, link_radius, theta, random, *, k=CIRCLES, inside=False):
    """Circles that the arms do not touch (or do), half of them by less than a thousandth of their radius."""
    reach, arm = lengths.sum(-1), (lengths[:, None], theta[:, None])
    centers = np.zeros((len(theta), k, 2))
    room = np.zeros((len(theta), k))  # radius at which the circle would touch the arm
    todo = np.ones((len(theta), k), bool)
    while todo.any():
        spots = random.uniform(-1.1, 1.1, (*todo.shape, 2)) * reach[:, None, None]
        centers = np.where(todo[..., None], spots, centers)
        room = np_clearance(*arm, centers[..., None, :], np.zeros((*todo.shape, 1)), link_radius[:, None])
        todo = room < 0.03 * reach[:, None]
    part = 10 ** random.uniform(-7, 0, room.shape)
    return centers, room * (1 + part if inside else np.maximum(1 - part, 0.1))


def clearance_slope(lengths, theta, centers, radii):
    """Derivative of the arm's clearance by the joints, from central differences, (B, n)."""
    n, h = theta.shape[-1], 1e-6
    moved = theta[:, None] + h * np.concatenate((np.eye(n), -np.eye(n)))
    value = np_clearance(lengths[:, None], moved, centers[:, None], radii[:, None], 0.0)
    return (value[:, :n] - value[:, n:]) / (2 * h)


def steps_to_try(lengths, theta, centers, radii, random):
    """At random, small and large; straight at the nearest circle; along its surface; and a fold of all joints."""
    shape = theta.shape
    at_circle = -clearance_slope(lengths, theta, centers, radii)
    at_circle /= np.maximum(np.linalg.norm(at_circle, axis=-1, keepdims=True), 1e-9)
    sideways = random.normal(size=shape)
    sideways -= (sideways * at_circle).sum(-1, keepdims=True) * at_circle
    fold = np.diff(np.sign(random.normal(size=shape)), axis=-1, prepend=0.0)  # every link turns by one radian
    return np.stack(
        (
            random.normal(size=shape),
            10 ** random.uniform(-3, 0, (shape[0], 1)) * random.normal(size=shape),
            random.uniform(0.1, 2, (shape[0], 1)) * at_circle,
            random.uniform(0.1, 1, (shape[0], 1)) * sideways,
            fold,
        ),
        -2,
    )


def draw_arms(n, count=ARMS_OF_EACH_SIZE, *, inside=False):
    random = np.random.default_rng(1000 * n + inside)
    lengths = 10 ** random.uniform(-0.7, 0.5, (count, n))
    link_radius = np.where(random.random(count) < 0.5, 0.0, random.uniform(0, 0.02, count) * lengths.sum(-1))
    theta = random.uniform(-math.pi, math.pi, (count, n))
    theta[: count // 10, 1:] *= 1e-3  # stretched
    centers, radii = scenes_about(lengths, link_radius, theta, random, inside=inside)
    steps = steps_to_try(lengths, theta, centers, radii, random)
    columns = []
    for b in range(count):
        arm = PlanarArm(lengths=tuple(lengths[b]), limits=((-4.0, 4.0),) * n, link_radius=float(link_radius[b]))
        scene = Circles(torch.from_numpy(centers[b]), torch.from_numpy(radii[b]))
        rows = clearance_rows(arm, torch.from_numpy(theta[b]), scene)
        step = torch.from_numpy(steps[b])
        columns.append((certified_fraction(arm, step, rows)[:, 0], rows.gap, rows.slope, remainder(arm, step, rows)))
    found = (torch.stack(column).numpy() for column in zip(*columns, strict=True))
    return Arms(lengths, link_radius, theta, centers, radii, steps, *found)


@pytest.fixture(scope="module", params=range(2, 7), ids=lambda n: f"{n}-links")
def arms(request) -> Arms:
    return draw_arms(request.param)


def test_certified_steps_of_ten_thousand_random_arms_are_clear_all_along(arms):
    start = np_clearance(arms.lengths, arms.theta, arms.centers, arms.radii, arms.link_radius)
    assert (start > 0).all()
    swept = arms.swept(arms.fraction[..., None] * arms.steps)
    kept = np.minimum(start, MARGIN * arms.reach)  # what the start had of the margin is not spent either
    assert (swept >= kept[:, None] - EXACT * arms.reach[:, None]).all()
    # ... and the steps were neither refused nor harmless.
    assert (arms.fraction > 0.01).mean() > 0.4
    assert (arms.swept(arms.steps, 17) < 0).mean() > 0.3


def test_one_row_at_the_closest_point_certifies_nothing(arms):
    """The checker sees it: the usual row of differential inverse kinematics, scaled to hold exactly."""
    points = np_points(arms.lengths, arms.theta)
    J = np_jacobians(points)
    a, b, o = points[:, :-1, None], points[:, 1:, None], arms.centers[:, None]
    t = (((o - a) * (b - a)).sum(-1) / ((b - a) ** 2).sum(-1)).clip(0, 1)
    away = a + t[..., None] * (b - a) - o
    distance = np.linalg.norm(away, axis=-1)
    slope = np.einsum("bikx,bixj->bikj", away * ((1 - t) / distance)[..., None], J[:, :-1])
    slope += np.einsum("bikx,bixj->bikj", away * (t / distance)[..., None], J[:, 1:])
    gap = (distance - arms.radii[:, None] - arms.link_radius[:, None, None]).reshape(len(a), 1, -1)
    change = np.einsum("bikj,bsj->bsik", slope, arms.steps).reshape(*arms.steps.shape[:2], -1)
    fraction = np.where(gap + change < 0, gap / np.maximum(-change, 1e-300), 1.0).min(-1)
    swept = arms.swept(fraction[..., None] * arms.steps, 17)
    assert (swept < -1e-3 * arms.reach[:, None]).mean() > 0.05


def test_rows_at_both_ends_without_the_remainder_certify_nothing(arms):
    gap = arms.gap.clip(0)[:, None]
    change = np.einsum("brj,bsj->bsr", arms.slope, arms.steps)
    fraction = np.where(gap + change < 0, gap / np.maximum(-change, 1e-300), 1.0).min(-1)
    assert (arms.swept(fraction[..., None] * arms.steps, 17) < -1e-3 * arms.reach[:, None]).mean() > 0.02


def test_the_certified_fraction_is_the_largest_that_keeps_the_rows(arms):
    a = arms.gap.clip(0)[:, None]
    b = np.einsum("brj,bsj->bsr", arms.slope, arms.steps)

    def worst(s):
        return (a + s[..., None] * b - s[..., None] ** 2 * arms.remainder).min(-1)

    assert ((arms.fraction >= 0) & (arms.fraction <= 1)).all()
    assert (worst(arms.fraction) >= -EXACT).all()
    holds = worst(np.ones_like(arms.fraction)) >= 0
    assert (arms.fraction[holds] == 1).all()
    assert holds.any()
    assert (~holds).any()
    assert (worst(arms.fraction * (1 + 1e-6) + 1e-9)[~holds] < 0).all()


def test_the_remainder_bounds_the_second_order_of_every_row(arms):
    """For whatever unit normals: those that the second-order term itself points against are the worst."""
    points = np_points(arms.lengths, arms.theta)[:, None]
    moved = np_points(arms.lengths[:, None], arms.theta[:, None] + arms.steps)
    linear = np.einsum("bsexj,bsj->bsex", np_jacobians(points).repeat(arms.steps.shape[1], 1), arms.steps)
    second = np.linalg.norm(moved - points - linear, axis=-1)[..., 1:]
    dphi = arms.steps.cumsum(-1)
    bound = (0.5 * arms.lengths[:, None] * dphi**2).cumsum(-1)
    assert (second <= bound + EXACT * arms.reach[:, None, None]).all()
    assert np.allclose(arms.remainder.max(-1) * arms.reach[:, None], bound[..., -1], rtol=EXACT, atol=0)


def test_the_remainder_is_not_more_than_needed():
    arm = PlanarArm(lengths=(1.0, 2.0, 0.5), limits=((-3.0, 3.0),) * 3)
    theta = torch.zeros(3, dtype=torch.float64)  # along x, away from a circle behind the base
    rows = clearance_rows(arm, theta, Circles.from_json({"circles": [[-1.0, 0.0, 0.5]]}))
    step = 1e-3 * torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
    gap = rows.gap + rows.slope @ step
    moved = arm.points(theta + step)[rows.end, 0] + 1.0 - 0.5 - MARGIN * arm.reach
    assert torch.allclose(gap - moved / arm.reach, remainder(arm, step, rows), rtol=1e-5, atol=1e-15)


def test_every_row_is_the_linearised_distance_of_an_end_in_the_direction_of_a_closest_point(generator):
    for n in range(1, 7):
        arm = PlanarArm(lengths=tuple(0.5 + 0.2 * i for i in range(n)), limits=((-3.0, 3.0),) * n, link_radius=0.05)
        theta = arm.sample(20, generator)
        random = np.random.default_rng(n)
        centers, radii = scenes_about(np.full((20, n), arm.lengths), np.full(20, 0.05), theta.numpy(), random)
        rows = clearance_rows(arm, theta, Circles(torch.from_numpy(centers), torch.from_numpy(radii)), 1e-3)
        assert rows.gap.shape == (20, (2 * n - 1) * CIRCLES)
        assert rows.slope.shape == (20, (2 * n - 1) * CIRCLES, n)
        points, J = np_points(arm.lengths, theta.numpy()), np_jacobians(np_points(arm.lengths, theta.numpy()))
        unseen = {(b, link, e, c) for b in range(20) for link in range(n) for e in (link, link + 1) for c in range(3)}
        unseen = {key for key in unseen if key[2] > 0}
        for b in range(20):
            for r, (e, c) in enumerate(zip(rows.end.tolist(), rows.circle.tolist(), strict=True)):
                for link in {min(e, n - 1), e - 1}:
                    p, q, o = points[b, link], points[b, link + 1], centers[b, c]
                    t = np.clip((o - p) @ (q - p) / ((q - p) @ (q - p)), 0, 1)
                    normal = (p + t * (q - p) - o) / np.linalg.norm(p + t * (q - p) - o)
                    gap = (normal @ (points[b, e] - o) - radii[b, c] - 0.05) / arm.reach - 1e-3
                    slope = normal @ J[b, e] / arm.reach
                    if (b, link, e, c) in unseen and np.allclose(rows.gap[b, r], gap, rtol=0, atol=EXACT):
                        assert np.allclose(rows.slope[b, r].numpy(), slope, rtol=0, atol=EXACT)
                        unseen.remove((b, link, e, c))
                        break
        assert not unseen


def test_slopes_are_the_finite_differences_of_the_ends(generator):
    """The Jacobian of the checker is not believed either."""
    arm = PlanarArm(lengths=(1.3, 0.4, 2.1, 0.7), limits=((-3.0, 3.0),) * 4)
    theta, scene = arm.sample(1, generator)[0], Circles.from_json({"circles": [[1.0, 1.0, 0.2], [-2.0, 0.5, 0.3]]})
    rows = clearance_rows(arm, theta, scene)
    h = 1e-6
    for j in range(4):
        ends = [np_points(arm.lengths, theta.numpy() + s * h * np.eye(4)[j]) for s in (1, -1)]
        difference = torch.from_numpy((ends[0] - ends[1]) / (2 * h * arm.reach))[rows.end]
        # A unit normal recovered from the row itself: gap and slope of the same row must agree on it.
        normal = scene.witness(arm.points(theta)).normal
        candidates = torch.stack([normal[rows.end - 1, rows.circle], normal[rows.end.clamp(max=3), rows.circle]])
        error = ((candidates * difference).sum(-1) - rows.slope[:, j]).abs().amin(0)
        assert (error < 1e-9).all()


def test_three_links_have_five_rows_for_each_circle():
    theta = torch.tensor([0.3, 0.4, 0.5], dtype=torch.float64)
    for k in (0, 1, 4):
        scene = Circles(2 + torch.arange(2.0 * k, dtype=torch.float64).reshape(k, 2), torch.full((k,), 0.1))
        rows = clearance_rows(PlanarArm.duka(), theta, scene)
        assert rows.gap.shape == rows.end.shape == rows.circle.shape == (5 * k,)
        assert sorted(rows.end.tolist()) == sorted([1, 1, 2, 2, 3] * k)
        assert torch.equal(rows.circle.bincount(minlength=k), torch.full((k,), 5))


def test_a_start_inside_a_circle_goes_no_deeper():
    arms = draw_arms(3, 300, inside=True)
    start = np_clearance(arms.lengths, arms.theta, arms.centers, arms.radii, arms.link_radius)
    assert (start < 0).all()
    swept = arms.swept(arms.fraction[..., None] * arms.steps)
    assert (swept >= start[:, None] - EXACT * arms.reach[:, None]).all()
    assert (arms.fraction > 0.01).mean() > 0.1


@pytest.mark.parametrize("radius", [1e-6, 1e-3, 1.0, 1e3, 1e6])
def test_circles_of_any_size_that_touch_the_arm_are_not_entered(radius, seed):
    random = np.random.default_rng(seed)
    arm = PlanarArm(lengths=(1.0, 0.5, 2.0), limits=((-3.0, 3.0),) * 3)
    for link in range(3):
        for t in (0.0, 0.5, 1.0):
            theta = random.uniform(-1, 1, 3)
            p = np_points(arm.lengths, theta)
            along = (p[link + 1] - p[link]) / arm.lengths[link]
            spot = p[link] + t * (p[link + 1] - p[link])
            centers = spot + radius * (1 + 1e-9) * np.array([[-along[1], along[0]]])
            start = np_clearance(arm.lengths, theta, centers, np.array([radius]), 0.0)
            rows = clearance_rows(
                arm, torch.from_numpy(theta), Circles(torch.from_numpy(centers), torch.tensor([radius]).double())
            )
            steps = random.normal(size=(200, 3))
            steps = certified_fraction(arm, torch.from_numpy(steps), rows).numpy() * steps
            swept = path_clearance(arm.lengths, theta, steps, centers, np.array([radius]), 0.0)
            assert (swept >= min(start, MARGIN * arm.reach) - 1e-15 * (10 + radius)).all()


def test_a_centre_on_the_link_has_a_row_across_the_link():
    arm = PlanarArm.unit(2)
    theta = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    rows = clearance_rows(arm, theta, Circles.from_json({"circles": [[1.5, 0.0, 0.2]]}))
    assert torch.allclose(rows.gap.detach(), torch.tensor([0.3, -0.2, -0.2]).double() / 2, rtol=0, atol=2 * MARGIN)
    assert torch.isfinite(rows.slope).all()
    across = rows.slope[rows.end == 2]  # of link 2: the tip moves across it with both joints
    assert torch.allclose(across.detach().abs(), torch.tensor([[1.0, 0.5]], dtype=torch.float64), atol=EXACT)
    (rows.gap.sum() + rows.slope.square().sum()).backward()
    assert torch.isfinite(theta.grad).all()


@pytest.mark.parametrize(
    ("gap", "slope", "step", "fraction"),
    [
        (1.0, 0.0, 0.0, 1.0),  # no step
        (0.0, 0.0, 0.0, 1.0),  # no step from contact
        (0.0, -1.0, 0.1, 0.0),  # into the circle from contact
        (0.0, 1.0, 0.1, 1.0),  # out of it: 0.1 against a remainder of 0.005
        (0.0, 1.0, 4.0, 0.5),  # out and round: 4 s = 8 s²
        (0.125, 0.0, 1.0, 0.5),  # 1/8 = s²/2
        (-0.3, 1.0, 4.0, 0.5),  # inside counts as contact
        (1e-12, -1.0, 1.0, 1e-12),  # a small root without cancellation
        (1e-300, -1.0, 1.0, 1e-300),
    ],
)
def test_the_certified_fraction_solves_its_quadratic(gap, slope, step, fraction):
    """One link of length one: the row is gap + slope t s - t² s²/2."""

    def row(value, *shape):
        return torch.full(shape, value, dtype=torch.float64)

    rows = ClearanceRows(row(gap, 1), row(slope, 1, 1), torch.tensor([1]), torch.tensor([0]))
    found = certified_fraction(PlanarArm.unit(1), row(step, 1), rows)
    assert found.shape == (1,)
    assert found.item() == pytest.approx(fraction, rel=1e-11, abs=0)


def test_without_circles_every_step_is_certified():
    arm, step = PlanarArm.unit(), torch.ones(4, 3, dtype=torch.float64)
    rows = clearance_rows(arm, step, Circles.from_json({"circles": []}))
    assert rows.gap.shape == (4, 0)
    assert rows.slope.shape == (4, 0, 3)
    assert torch.equal(certified_fraction(arm, step, rows), torch.ones(4, 1, dtype=torch.float64))


def test_derivatives_of_rows_and_fraction_pass_gradcheck(generator):
    """Also in the centres: the normal moves with them."""
    arm = PlanarArm(lengths=(1.0, 0.6, 1.4), limits=((-3.0, 3.0),) * 3, link_radius=0.03)
    theta = torch.tensor([[0.4, 0.9, -0.7], [1.1, -0.5, 0.3]], dtype=torch.float64, requires_grad=True)
    centers = torch.tensor([[1.9, 0.3], [-0.6, 0.8]], dtype=torch.float64, requires_grad=True)
    radii = torch.tensor([0.2, 0.3], dtype=torch.float64, requires_grad=True)
    step = torch.tensor([[-0.6, -0.4, 0.9], [-1.2, 0.4, 0.5]], dtype=torch.float64, requires_grad=True)

    def rows_of(theta, centers, radii, step):
        rows = clearance_rows(arm, theta, Circles(centers, radii))
        return rows.gap, rows.slope, remainder(arm, step, rows), certified_fraction(arm, step, rows)

    fraction = rows_of(theta, centers, radii, step)[-1]
    assert ((fraction > 0) & (fraction < 1)).all()
    assert torch.autograd.gradcheck(rows_of, (theta, centers, radii, step), **tol.GRADCHECK)


@pytest.mark.parametrize("gap", [-0.1, 0.0, 1e-300, 0.5])
@pytest.mark.parametrize("slope", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("step", [0.0, 1e-200, 1.0, 4.0])
def test_gradients_of_the_fraction_are_numbers(gap, slope, step):
    values = [torch.full((1,), v, dtype=torch.float64, requires_grad=True) for v in (gap, slope, step)]
    rows = ClearanceRows(values[0], values[1][:, None], torch.tensor([1]), torch.tensor([0]))
    certified_fraction(PlanarArm.unit(1), values[2], rows).sum().backward()
    assert all(v.grad is None or not v.grad.isnan().any() for v in values)


# --- the programs ---------------------------------------------------------------------------------

ARMS = [PlanarArm.duka(), *(PlanarArm.unit(n) for n in (1, 2, 6, 10))]


def clear_starts(arm, count, generator, k=CIRCLES):
    """Postures inside the limits, targets near and far, and a scene for each that the posture does not touch."""
    theta = arm.sample(count, generator)
    lower, upper = arm.limits_tensor(theta)
    ends = [0, -1]  # first and last joint of some at their limits: the others may fold the arm onto its base
    theta[: count // 4, ends] = torch.where(theta > (lower + upper) / 2, upper, lower)[: count // 4, ends]
    random = np.random.default_rng(arm.num_links)
    lengths = np.broadcast_to(arm.lengths, theta.shape)
    centers, radii = scenes_about(lengths, np.full(count, arm.link_radius), theta.numpy(), random, k=k)
    angle, size = 2 * math.pi * torch.rand(count, generator=generator), torch.rand(count, generator=generator)
    targets = (1.5 * arm.reach * size)[:, None].double() * torch.stack((angle.cos(), angle.sin()), -1).double()
    return theta, targets, Circles(torch.from_numpy(centers), torch.from_numpy(radii))


def with_orientation(targets, generator):
    turn = 10 * torch.rand(len(targets), 1, generator=generator, dtype=torch.float64) - 5
    return torch.cat((targets, turn), -1)


@pytest.mark.parametrize("pose", [False, True])
@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: f"{arm.num_links}-links")
def test_the_objective_is_damped_least_squares_on_the_task_of_reach(arm, pose, generator):
    theta, targets, scene = clear_starts(arm, 20, generator)
    if pose:
        targets = with_orientation(targets, generator)
    problem = build_step(arm, theta, targets, clearance_rows(arm, theta, scene))
    step = torch.randn(theta.shape, generator=generator, dtype=torch.float64).numpy()
    found = 0.5 * np.einsum("bi,bij,bj->b", step, problem.P.numpy(), step) + (problem.q.numpy() * step).sum(-1)
    points = np_points(arm.lengths, theta.numpy())
    error = (points[:, -1] - targets.numpy()[:, :2]) / arm.reach
    change = np.einsum("bxj,bj->bx", np_jacobians(points)[:, -1], step) / arm.reach
    if pose:
        turn = theta.numpy().sum(-1) - targets.numpy()[:, 2]
        turn = np.arctan2(np.sin(turn), np.cos(turn))
        error = np.concatenate((error, turn[:, None]), -1)
        change = np.concatenate((change, step.sum(-1, keepdims=True)), -1)
    mu = 0.1 * (error**2).sum(-1) + 1e-8
    expected = 0.5 * ((change + error) ** 2).sum(-1) - 0.5 * (error**2).sum(-1) + 0.5 * mu * (step**2).sum(-1)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_the_orientation_error_takes_the_short_way_round():
    arm, turns = PlanarArm.unit(), torch.from_numpy(POSE_TURNS)
    theta = torch.tensor([1.0, 1.0, 1.1], dtype=torch.float64)
    targets = torch.cat((arm.tip(theta).expand(5, 2), (theta.sum() + 0.2 + turns)[:, None]), -1)
    error = task_error(arm, theta, targets)
    assert error.shape == (5, 3)
    assert torch.allclose(error, torch.tensor([0.0, 0.0, -0.2], dtype=torch.float64), rtol=0, atol=1e-13)
    assert torch.equal(task_error(arm, theta, targets[:, :2]), error[:, :2])


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: f"{arm.num_links}-links")
def test_to_stay_is_feasible_from_every_clear_start(arm, generator):
    theta, targets, scene = clear_starts(arm, 200, generator)
    problem = build_step(arm, theta, targets, clearance_rows(arm, theta, scene))
    assert (problem.h >= 0).all()
    assert (problem.lb <= 0).all()
    assert (problem.ub >= 0).all()
    assert problem.A is None


def solved(problem):
    solution = solve_qp(*problem)
    assert (solution.status == SolveStatus.SOLVED).all()
    return solution.x


@pytest.mark.parametrize("pose", [False, True])
@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: f"{arm.num_links}-links")
def test_steps_keep_limits_trust_region_and_rows_and_lower_the_task_error(arm, pose, generator):
    theta, targets, scene = clear_starts(arm, 100, generator)
    if pose:
        targets = with_orientation(targets, generator)
    rows = clearance_rows(arm, theta, scene)
    step = solved(build_step(arm, theta, targets, rows))
    lower, upper = arm.limits_tensor(theta)
    assert (theta + step >= lower - tol.KKT).all()
    assert (theta + step <= upper + tol.KKT).all()
    assert (step.cumsum(-1).abs() <= TRUST + tol.KKT).all()
    assert (step.cumsum(-1).abs() > TRUST - tol.KKT).any()
    assert (rows.gap + (rows.slope @ step[..., None])[..., 0] >= -tol.KKT).all()
    short = theta + 1e-4 * certified_fraction(arm, step, rows) * step  # a direction of descent
    moved = step.abs().amax(-1) > 1e-3
    before, after = (task_error(arm, t, targets).norm(dim=-1) for t in (theta, short))
    assert (after <= before)[moved].all()
    assert moved.any()


def test_the_remainder_moves_the_rows_by_itself(generator):
    arm = PlanarArm.unit()
    theta, targets, scene = clear_starts(arm, 50, generator)
    rows = clearance_rows(arm, theta, scene)
    moved = torch.rand(rows.gap.shape, generator=generator, dtype=torch.float64)
    for slack_weight in (None, 1.0):
        without = build_step(arm, theta, targets, rows, slack_weight=slack_weight)
        problem = build_step(arm, theta, targets, rows, moved, slack_weight=slack_weight)
        assert torch.allclose(without.h[:, 6:] - moved, problem.h[:, 6:], rtol=0, atol=EXACT)
        assert torch.equal(without.h[:, :6], problem.h[:, :6])
        assert torch.equal(without.G, problem.G)


@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: f"{arm.num_links}-links")
def test_the_softened_program_is_feasible_from_anywhere_with_one_slack_for_each_circle(arm, generator):
    theta, targets, _ = clear_starts(arm, 60, generator)
    n, k = arm.num_links, 2
    centers = torch.randn(60, k, 2, generator=generator, dtype=torch.float64) * arm.reach / 3
    scene = Circles(centers, torch.full((60, k), 0.5 * arm.reach, dtype=torch.float64))
    rows = clearance_rows(arm, theta, scene)
    assert (rows.gap < 0).any(-1).double().mean() > 0.5
    problem = build_step(arm, theta, targets, rows, slack_weight=10.0)
    stay = torch.zeros(60, n + k, dtype=torch.float64)
    for c in range(k):
        stay[:, n + c] = -rows.gap[:, rows.circle == c].amin(-1).clamp(max=0)
    assert (problem.G @ stay[..., None]).squeeze(-1).sub(problem.h).amax() <= EXACT
    assert (stay >= problem.lb).all()
    assert (stay <= problem.ub).all()
    x = solved(problem)
    assert x.shape == (60, n + k)
    step, slack = x[:, :n], x[:, n:]
    assert (slack >= -tol.KKT).all()
    value = rows.gap + (rows.slope @ step[..., None])[..., 0] + slack[:, rows.circle]
    assert (value >= -tol.KKT).all()
    lower, upper = arm.limits_tensor(theta)
    assert ((theta + step >= lower - tol.KKT) & (theta + step <= upper + tol.KKT)).all()
    assert (step.cumsum(-1).abs() <= TRUST + tol.KKT).all()


@pytest.mark.parametrize("off", [0.0, 1e-16, 1e-14, 1e-13, 1e-9])
@pytest.mark.parametrize(
    ("theta", "circle"),
    [
        ([math.pi / 2, 0.0, 0.0], [0.0, 4.0, 0.5]),  # straight up, below the circle: slopes are cos(pi/2) = 6e-17
        ([1.0, -math.pi, 0.5], [-1.5 * math.cos(1), -1.5 * math.sin(1), 0.2]),  # folded: joint 2 on the base
    ],
    ids=["upright", "folded"],
)
def test_rows_that_are_almost_zero_do_not_stop_the_arm(theta, circle, off):
    """An end that moves across the normal of a circle far away: its row says nothing, and must do no harm."""
    arm = PlanarArm(lengths=(1.0, 1.0, 1.0), limits=((-4.0, 4.0),) * 3)
    theta = torch.tensor(theta, dtype=torch.float64) + off
    rows = clearance_rows(arm, theta, Circles.from_json({"circles": [circle]}))
    assert (rows.slope.abs().amax(-1) < 1e-15 + 3 * off).any()
    assert (rows.gap > 0.1).all()
    solved(build_step(arm, theta, torch.tensor([1.0, 1.0], dtype=torch.float64), rows))


def test_slacks_of_clear_starts_with_a_large_weight_change_nothing(generator):
    arm = PlanarArm.duka()
    theta, targets, scene = clear_starts(arm, 100, generator)
    rows = clearance_rows(arm, theta, scene)
    rows = rows._replace(gap=rows.gap.clamp(min=1e-3))  # an interior: multipliers are bounded
    hard, soft = (solved(build_step(arm, theta, targets, rows, slack_weight=w)) for w in (None, 1e4))
    assert (soft[:, 3:] <= tol.KKT).all()
    assert torch.allclose(soft[:, :3], hard, rtol=0, atol=tol.X_DEGENERATE)


@pytest.mark.parametrize("slack_weight", [None, 1.0])
def test_programs_without_circles_have_only_limits_and_the_trust_region(slack_weight, generator):
    arm = PlanarArm.unit()
    theta, targets, _ = clear_starts(arm, 10, generator)
    rows = clearance_rows(arm, theta, Circles.from_json({"circles": []}))
    problem = build_step(arm, theta, targets, rows, slack_weight=slack_weight)
    assert problem.G.shape == (10, 6, 3)
    assert solved(problem).shape == (10, 3)


@pytest.mark.parametrize("slack_weight", [None, 1.0])
def test_batched_scenes_give_the_programs_of_each_alone(slack_weight, generator):
    arm = PlanarArm(lengths=(1.0, 0.4, 0.8, 1.2), limits=((-2.0, 2.0),) * 4, link_radius=0.02)
    theta, targets, scene = clear_starts(arm, 12, generator)

    def problem(index):
        alone = Circles(scene.centers[index], scene.radii[index])
        rows = clearance_rows(arm, theta[index], alone)
        rem = remainder(arm, 0.1 * theta[index], rows)
        return build_step(arm, theta[index], targets[index], rows, rem, slack_weight=slack_weight)

    together = problem(slice(None))
    grid = [v.reshape(3, 4, *v.shape[1:]) for v in (theta, targets, scene.centers, scene.radii)]
    rows = clearance_rows(arm, grid[0], Circles(*grid[2:]))
    rem = remainder(arm, 0.1 * grid[0], rows)
    on_grid = build_step(arm, grid[0], grid[1], rows, rem, slack_weight=slack_weight)
    for name in ("P", "q", "G", "h", "lb", "ub"):
        whole = getattr(together, name)
        assert torch.allclose(getattr(on_grid, name).reshape(whole.shape), whole, rtol=0, atol=EXACT)
        for i in range(12):
            assert torch.allclose(getattr(problem(i), name), whole[i], rtol=0, atol=EXACT)


def test_joints_whose_limits_coincide_stay_where_they_are(generator):
    arm = PlanarArm(lengths=(1.0, 1.0, 1.0), limits=((0.3, 0.3), (-2.0, 2.0), (0.0, 0.0)))
    theta = arm.sample(30, generator)
    rows = clearance_rows(arm, theta, Circles.from_json({"circles": [[-1.5, 0.0, 0.4]]}))
    step = solved(build_step(arm, theta, torch.tensor([0.5, 1.0], dtype=torch.float64).expand(30, 2), rows))
    assert (step[:, [0, 2]].abs() <= tol.KKT).all()
    assert (step[:, 1].abs() > 1e-3).any()
