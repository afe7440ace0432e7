"""Certified steps against the two programs they stand for, and against a checker with its own kinematics."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from checker import np_clearance

from implicit_layers import SolverWarning, SolveStatus, solve_qp
from robotics import Circles, PlanarArm
from robotics.free_step import damped_step, free_step
from robotics.ik_qp import MARGIN, build_step, certified_fraction, clearance_rows, remainder, task_error
from robotics.models.answer import is_safe
from robotics.steps import certified_step, certified_steps

ARMS = [PlanarArm.duka(), PlanarArm.unit(2), PlanarArm.unit(3), PlanarArm.chain(6)]
SAME = 1e-7  # [rad]: two methods on one program, whose condition is up to 1e8 where the arm is stretched
FREE = 1e-6  # relative: the normal equations, of condition 1e8, lose as many digits; the orthogonal rows do not


def queries(arm, count, generator, k=4):
    """Clear postures, one in ten almost stretched, targets near and far, a scene of its own for each."""
    angle = 2 * torch.pi * torch.rand(count, k, generator=generator, dtype=torch.float64)
    radii = arm.reach * (0.03 + 0.08 * torch.rand(count, k, generator=generator, dtype=torch.float64))
    away = radii + (arm.reach - radii) * torch.rand(count, k, generator=generator, dtype=torch.float64).sqrt()
    scene = Circles(away[..., None] * torch.stack((angle.cos(), angle.sin()), -1), radii)
    theta = arm.sample(count, generator)
    lower, upper = arm.limits_tensor(theta)
    theta[::10, 1:] *= 1e-4
    theta = theta.clamp(lower, upper)
    targets = arm.tip(arm.sample(count, generator))
    targets[1::3] = arm.tip((theta + 0.1 * torch.randn(theta.shape, generator=generator).double()).clamp(lower, upper))[
        1::3
    ]
    clear = is_safe(arm, theta, scene).nonzero()[:, 0]
    return theta[clear], targets[clear], scene.pick(clear)


def solve(problem):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SolverWarning)
        solution = solve_qp(*problem)
    solved = (solution.status == SolveStatus.SOLVED)[..., None]
    return torch.where(solved, solution.x, 0.0), solved


def two_programs(arm, theta, targets, circles):
    """The step as rows (C) define it: both programs of every element, then the certified part."""
    rows = clearance_rows(arm, theta, circles)
    step, _ = solve(build_step(arm, theta, targets, rows))
    again, solved = solve(build_step(arm, theta, targets, rows, remainder(arm, step, rows)))
    step = torch.where(solved, again, step)
    lower, upper = arm.limits_tensor(theta)
    step = (theta + step).clamp(lower, upper) - theta
    fraction = certified_fraction(arm, step, rows._replace(gap=rows.gap + 0.1 * MARGIN))
    return (theta + fraction * step).clamp(lower, upper)


@pytest.mark.parametrize("pose", [False, True])
@pytest.mark.parametrize("arm", ARMS, ids=lambda arm: f"{arm.num_links}-links")
def test_a_step_is_that_of_the_two_programs(arm, pose, generator):
    theta, targets, scene = queries(arm, 800, generator)
    if pose:
        turn = theta.sum(-1, keepdim=True) + torch.randn(len(theta), 1, generator=generator).double()
        targets = torch.cat((targets, turn), -1)
    _, free = free_step(arm, theta, targets, scene)
    assert 0 < free.double().mean() < 1
    difference = (certified_step(arm, theta, targets, scene) - two_programs(arm, theta, targets, scene)).abs()
    assert difference.max() <= SAME


def test_its_gradients_are_those_of_the_two_programs(generator):
    arm = PlanarArm.unit(3)
    theta, targets, scene = queries(arm, 200, generator)
    weights = torch.randn(theta.shape, generator=generator, dtype=torch.float64)
    found = []
    for step in (certified_step, two_programs):
        leaves = [v.clone().requires_grad_() for v in (theta, targets, scene.centers, scene.radii)]
        value = step(arm, leaves[0], leaves[1], Circles(leaves[2], leaves[3]))
        found.append(torch.autograd.grad((weights * value).sum(), leaves))
    for ours, reference in zip(*found, strict=True):
        assert reference.abs().max() > 0.1
        assert (ours - reference).abs().max() <= 1e-5 * (1 + reference.abs().max())


@pytest.mark.parametrize("pose", [False, True])
def test_the_free_step_solves_the_normal_equations(pose, generator):
    arm = PlanarArm.chain(6)
    theta, targets, _ = queries(arm, 200, generator)
    if pose:
        targets = torch.cat((targets, theta.sum(-1, keepdim=True) + 0.3), -1)
    J, e = arm.jacobian(theta) / arm.reach, task_error(arm, theta, targets)
    if pose:
        J = torch.cat((J, torch.ones_like(J[:, :1])), 1)
    mu = 0.1 * e.square().sum(-1) + 1e-8
    P = J.mT @ J + mu[:, None, None] * torch.eye(arm.num_links, dtype=torch.float64)
    expected = torch.linalg.solve(P, -(J.mT @ e[..., None])[..., 0])
    assert torch.allclose(damped_step(arm, theta, targets), expected, rtol=FREE, atol=FREE)


@torch.no_grad()
def test_an_element_keeps_every_bit_whoever_its_neighbours_are(generator):
    arm = PlanarArm.unit(3)
    theta, targets, scene = queries(arm, 300, generator)
    whole = certified_steps(arm, theta, targets, scene, 6)
    for part in (slice(0, 1), slice(5, 12), slice(1, None, 3), slice(200, None)):
        alone = certified_steps(arm, theta[part], targets[part], scene.pick(part), 6)
        assert torch.equal(alone, whole[part])
    poisoned = theta.clone()
    poisoned[::7] = torch.nan
    healthy = torch.arange(len(theta)) % 7 != 0
    assert torch.equal(certified_steps(arm, poisoned, targets, scene, 6)[healthy], whole[healthy])


def test_finished_elements_stay_where_more_steps_would_leave_them(generator):
    arm = PlanarArm.unit(3)
    theta, targets, scene = queries(arm, 300, generator)
    every = theta
    for _ in range(10):
        every = certified_step(arm, every, targets, scene)
    with torch.no_grad():
        found = certified_steps(arm, theta, targets, scene, 10)
    assert (found - every).abs().max() <= SAME
    near, all_near = (task_error(arm, t, targets).norm(dim=-1) < 1e-12 for t in (found, every))
    assert torch.equal(near, all_near)
    assert near.double().mean() > 0.3


@pytest.mark.slow
def test_two_hundred_thousand_steps_are_clear_all_along(generator):
    """Four arms, four steps in a row: the later ones start in contact, stretched, or at the target."""
    steps = 0
    for arm in ARMS:
        theta, targets, scene = queries(arm, 24000, generator)
        centers, radii = scene.centers.numpy(), scene.radii.numpy()
        for _ in range(4):
            end = certified_step(arm, theta, targets, scene)
            assert (arm.limit_violation(end) == 0).all()
            for part in np.linspace(0, 1, 7)[1:]:
                posture = (theta + part * (end - theta)).numpy()
                assert (np_clearance(arm.lengths, posture, centers, radii, arm.link_radius) > 0).all()
            steps, theta = steps + len(theta), end
    assert steps >= 200_000
