import copy
import json
import math
import pickle

import numpy as np
import pytest
import torch
from scipy.optimize import approx_fprime
from torch.func import jacrev, vmap

from robotics import PlanarArm
from robotics.angles import principal_angle, wrap_angle
from robotics.models.answer import in_reach

EXACT = 1e-12  # round-off of a few sums of numbers of size one to ten, in float64
ARMS = [PlanarArm.duka(), PlanarArm.unit(), PlanarArm.unit(2), PlanarArm.unit(6)]
UNEQUAL = PlanarArm(lengths=(1.3, 0.4, 2.1), limits=((-3.0, 3.0),) * 3)
LONG_FIRST = PlanarArm(lengths=(5.0, 0.2, 0.01), limits=((-3.0, 3.0),) * 3)
SIX_LONG = PlanarArm(lengths=(2, 2, 1, 2, 3, 2, 4, 4, 1, 2), limits=((-0.5, 1.0),) * 10)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_angles(*shape, seed=0):
    return (2 * torch.rand(*shape, generator=seeded(seed), dtype=torch.float64) - 1) * math.pi


def angle_distance(a, b):
    return wrap_angle(a - b).abs()


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("n", range(1, 11))
def test_points_are_sums_of_complex_exponentials(n, batch):
    arm = PlanarArm(lengths=tuple(0.5 + 0.3 * i for i in range(n)), limits=((-1.0, 1.0),) * n)
    theta = random_angles(*batch, n, seed=n)
    z = np.cumsum(np.array(arm.lengths) * np.cumprod(np.exp(1j * theta.numpy()), -1), -1)
    points = arm.points(theta)
    assert points.shape == (*batch, n + 1, 2)
    assert (points[..., 0, :] == 0).all()
    assert np.allclose(points[..., 1:, 0].numpy(), z.real, rtol=0, atol=EXACT)
    assert np.allclose(points[..., 1:, 1].numpy(), z.imag, rtol=0, atol=EXACT)
    assert torch.equal(arm.tip(theta), points[..., -1, :])
    assert torch.equal(arm.pose(theta), torch.cat((arm.tip(theta), theta.sum(-1, keepdim=True)), -1))


def test_a_straight_arm_reaches_along_the_x_axis():
    assert torch.equal(PlanarArm.duka().pose(torch.zeros(3)), torch.tensor([6.0, 0.0, 0.0]))
    assert PlanarArm.duka().reach == 6


@pytest.mark.parametrize("arm", [*ARMS, SIX_LONG])
def test_jacobian_agrees_with_finite_differences(arm):
    theta = random_angles(arm.num_links, seed=1)
    differences = approx_fprime(theta.numpy(), lambda t: arm.points(torch.from_numpy(t)).flatten().numpy(), 1e-7)
    analytic = arm.point_jacobians(theta)
    assert analytic.shape == (arm.num_links + 1, 2, arm.num_links)
    assert np.allclose(analytic.flatten(0, 1).numpy(), differences, rtol=0, atol=1e-5)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
@pytest.mark.parametrize("arm", [*ARMS, SIX_LONG])
def test_jacobians_agree_with_automatic_differentiation(arm, batch):
    theta = random_angles(*batch, arm.num_links, seed=2)
    flat = theta.reshape(-1, arm.num_links)
    expected = vmap(jacrev(arm.points))(flat).reshape(*batch, arm.num_links + 1, 2, arm.num_links)
    jacobians = arm.point_jacobians(theta)
    assert torch.allclose(jacobians, expected, rtol=0, atol=EXACT)
    assert torch.allclose(arm.jacobian(theta), jacobians[..., -1, :, :], rtol=0, atol=EXACT)
    assert (jacobians[..., 0, :, :] == 0).all()


def test_determinant_of_the_pose_jacobian_is_l1_l2_sin_theta_2():
    theta = random_angles(20, 3)
    determinant = torch.linalg.det(vmap(jacrev(UNEQUAL.pose))(theta))
    assert torch.allclose(determinant, 1.3 * 0.4 * theta[:, 1].sin(), rtol=0, atol=EXACT)


def test_derivatives_of_kinematics_pass_gradcheck_to_second_order():
    theta = random_angles(2, 4).requires_grad_()
    arm = PlanarArm.unit(4)
    for function in (arm.points, arm.pose, arm.jacobian, arm.point_jacobians):
        assert torch.autograd.gradcheck(function, theta)
        assert torch.autograd.gradgradcheck(function, theta)


@pytest.mark.parametrize("batch", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("arm", [PlanarArm.duka(), PlanarArm.unit(), UNEQUAL, LONG_FIRST])
def test_both_answers_of_the_inverse_reach_the_pose(arm, batch):
    pose = arm.pose(random_angles(*batch, 3))
    theta, reachable = arm.inverse(pose)
    assert theta.shape == (*batch, 2, 3)
    assert reachable.shape == (*batch, 2)
    assert reachable.dtype == torch.bool
    assert reachable.all()
    found = arm.pose(theta)
    assert torch.allclose(found[..., :2], pose[..., None, :2].expand_as(found[..., :2]), rtol=0, atol=EXACT)
    assert (angle_distance(found[..., 2], pose[..., None, 2]) < EXACT).all()
    assert (theta[..., 0, 1] <= 0).all()
    assert (theta[..., 1, 1] >= 0).all()
    assert (theta > -math.pi).all()
    assert (theta <= math.pi).all()


@pytest.mark.parametrize("arm", [PlanarArm.duka(), UNEQUAL, LONG_FIRST])
def test_the_inverse_finds_the_angles_that_made_the_pose(arm):
    theta = random_angles(200, 3, seed=3)
    answers, _ = arm.inverse(arm.pose(theta))
    distance = angle_distance(answers, theta[:, None]).amax(-1).amin(-1)
    # The condition number of the map is 1/sin(theta_2) times the ratio of the lengths.
    assert (distance * theta[:, 1].sin().abs() < 1e-10).all()


@pytest.mark.parametrize("elbow", [0.0, 1e-12, 1e-8, 1e-4, math.pi - 1e-4, math.pi - 1e-8, math.pi])
@pytest.mark.parametrize("arm", [PlanarArm.duka(), PlanarArm.unit(), UNEQUAL, LONG_FIRST])
def test_the_inverse_is_accurate_and_its_gradient_finite_near_singular_poses(arm, elbow):
    for sign in (-1, 1):
        theta = random_angles(50, 3, seed=4)
        theta[:, 1] = sign * elbow
        pose = arm.pose(theta).requires_grad_()
        answers, reachable = arm.inverse(pose)
        assert reachable.all()
        assert torch.allclose(arm.tip(answers), pose[:, None, :2].expand(-1, 2, 2), rtol=0, atol=1e-11)
        answers.sum().backward()
        assert pose.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_keeps_its_accuracy_for_any_ratio_of_the_lengths(dtype):
    for trial in range(100):
        lengths = 10 ** (6 * torch.rand(3, generator=seeded(trial), dtype=torch.float64) - 3)
        arm = PlanarArm(lengths=tuple(lengths.tolist()), limits=((-3.0, 3.0),) * 3)
        theta = random_angles(32, 3, seed=trial).to(dtype)
        theta[:8, 1] = 0
        theta[8:16, 1] = math.pi
        theta[16:24, 1] *= 1e-6
        pose = arm.pose(theta).requires_grad_()
        answers, reachable = arm.inverse(pose)
        assert reachable.all()
        error = (arm.tip(answers) - pose[:, None, :2]).norm(dim=-1).amax()
        assert error < 50 * torch.finfo(dtype).eps * arm.reach
        answers.sum().backward()
        assert pose.grad.isfinite().all()


def test_a_pose_is_reachable_where_the_wrist_lies_between_the_two_circles_of_the_elbow():
    pose = 4 * random_angles(10_000, 3) / math.pi
    wrist = pose[:, :2] - 2.1 * torch.stack((pose[:, 2].cos(), pose[:, 2].sin()), -1)
    distance = wrist.norm(dim=-1)
    expected = (distance <= 1.3 + 0.4) & (distance >= 1.3 - 0.4)
    assert 1000 < expected.sum() < 9000
    assert torch.equal(UNEQUAL.inverse(pose)[1][:, 0], expected)


def test_the_inverse_matches_the_formula_of_the_literature():
    arm, theta = UNEQUAL, random_angles(50, 3, seed=5)
    x, y, orientation = arm.pose(theta).numpy().T
    wx, wy = x - 2.1 * np.cos(orientation), y - 2.1 * np.sin(orientation)
    theta_2 = -np.arccos((wx**2 + wy**2 - 1.3**2 - 0.4**2) / (2 * 1.3 * 0.4))
    theta_1 = np.arctan2(wy, wx) - np.arctan2(0.4 * np.sin(theta_2), 1.3 + 0.4 * np.cos(theta_2))
    expected = torch.tensor(np.stack((theta_1, theta_2, orientation - theta_1 - theta_2), -1))
    answers, _ = arm.inverse(arm.pose(theta))
    assert (angle_distance(answers[:, 0], expected) < 1e-8).all()


def test_the_gradient_of_the_inverse_is_the_inverse_of_the_pose_jacobian():
    theta = random_angles(20, 3, seed=6)
    theta[:, 1] = theta[:, 1].clamp(0.2, 2.9) * torch.tensor([-1.0, 1.0]).repeat(10)
    for i, elbow in enumerate([0, 1] * 10):
        slope = jacrev(lambda p, elbow=elbow: UNEQUAL.inverse(p)[0][elbow])(UNEQUAL.pose(theta[i]))
        assert torch.allclose(slope @ jacrev(UNEQUAL.pose)(theta[i]), torch.eye(3).double(), rtol=0, atol=1e-9)


def test_the_inverse_passes_gradgradcheck():
    theta = torch.tensor([[0.3, -1.1, 0.4], [2.0, 0.9, -0.5]], dtype=torch.float64)
    pose = UNEQUAL.pose(theta).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: UNEQUAL.inverse(p)[0], pose)
    assert torch.autograd.gradgradcheck(lambda p: UNEQUAL.inverse(p)[0], pose)


def test_unreachable_poses_are_nan_rows_that_harm_no_others():
    pose = torch.tensor(
        [
            [3.0, 1.0, 0.3],  # reachable
            [6.1, 0.0, 0.0],  # beyond the reach
            [5.0, 0.0, math.pi],  # the tip is near enough, its wrist is not
            [1e200, 0.0, 0.0],  # squares overflow
            [math.nan, 0.0, 0.0],
            [0.0, 0.0, math.nan],
            [math.inf, 0.0, 0.0],
        ],
        dtype=torch.float64,
        requires_grad=True,
    )
    arm = PlanarArm.duka()
    theta, reachable = arm.inverse(pose)
    assert reachable[:, 0].tolist() == [True] + 6 * [False]
    assert torch.equal(reachable[:, 0], reachable[:, 1])
    assert theta[1:].isnan().all()
    alone = pose[0].detach().requires_grad_()
    arm.inverse(alone)[0].sum().backward()
    theta.nan_to_num().sum().backward()
    assert torch.equal(pose.grad[0], alone.grad)
    assert torch.equal(pose.grad[1:4], torch.zeros(3, 3).double())


def test_a_wrist_inside_the_hole_of_unequal_links_is_unreachable():
    hole = torch.tensor([2.1 + 0.89, 0.0, 0.0], dtype=torch.float64)  # the wrist 0.89 from the base
    assert not UNEQUAL.inverse(hole)[1].any()
    assert UNEQUAL.inverse(hole + torch.tensor([0.02, 0, 0]))[1].all()


@pytest.mark.parametrize("offset", [0.0, 1e-300, 1e-16])
def test_with_the_wrist_on_the_base_the_first_angle_is_zero_and_gradients_are_finite(offset):
    orientation = torch.linspace(-3, 3, 50, dtype=torch.float64)
    x, y = 2 * orientation.cos() + offset, 2 * orientation.sin()
    pose = torch.stack((x, y, orientation), dim=-1).requires_grad_()
    theta, reachable = PlanarArm.duka().inverse(pose)
    assert reachable.all()
    assert (theta[..., 0] == 0).all()
    tips = pose[:, None, :2].expand(-1, 2, 2)
    assert torch.allclose(PlanarArm.duka().tip(theta), tips, rtol=0, atol=EXACT)
    theta.sum().backward()
    assert pose.grad.isfinite().all()


def test_the_inverse_runs_under_vmap_and_agrees_with_the_batch():
    pose = UNEQUAL.pose(random_angles(5, 3, seed=7))
    theta, reachable = vmap(UNEQUAL.inverse)(pose)
    assert torch.equal(theta, UNEQUAL.inverse(pose)[0])
    assert reachable.all()


def test_the_inverse_is_defined_for_three_links_alone():
    with pytest.raises(ValueError, match="inverse: expected an arm of 3 links, found 2"):
        PlanarArm.unit(2).inverse(torch.zeros(3))


def test_wrapped_angles_lie_in_the_half_open_turn():
    turns = torch.arange(-5, 6, dtype=torch.float64)
    assert (wrap_angle(math.pi * (2 * turns + 1)).abs() > 3.14).all()
    assert wrap_angle(torch.tensor([-math.pi, math.pi], dtype=torch.float64)).tolist() == [math.pi] * 2
    inside = torch.tensor([-3.0, -1e-300, 0.0, 1e-20, 3.0], dtype=torch.float64)
    assert torch.equal(wrap_angle(inside), inside)
    for dtype in (torch.float32, torch.float64):
        turns = torch.arange(-100_000, 100_000, dtype=torch.float64)
        far = wrap_angle(((2 * turns + 1) * math.pi).to(dtype))
        assert (far > -math.pi).all()
        assert (far <= torch.tensor(math.pi, dtype=dtype)).all()
        angle = torch.linspace(-40, 40, 10001, dtype=dtype)
        wrapped = wrap_angle(angle)
        assert (wrapped > -math.pi).all()
        assert (wrapped <= torch.tensor(math.pi, dtype=dtype)).all()
        assert torch.allclose(wrapped.sin(), angle.sin(), rtol=0, atol=1e-5)
        assert torch.allclose(wrapped.cos(), angle.cos(), rtol=0, atol=1e-5)
    assert wrap_angle(torch.tensor(math.nan)).isnan()


def test_limit_violation_is_the_largest_excess_over_any_limit():
    arm = PlanarArm.duka()
    theta = random_angles(2, 50, 3, seed=8)
    expected = [
        max(0.0, *(max(low - t, t - high) for (low, high), t in zip(arm.limits, row, strict=True)))
        for row in theta.reshape(-1, 3).tolist()
    ]
    assert torch.allclose(
        arm.limit_violation(theta).flatten(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=EXACT
    )
    lower, upper = arm.limits_tensor(theta)
    assert arm.limit_violation(lower) == 0
    assert arm.limit_violation(upper) == 0


def test_samples_are_uniform_within_the_limits_and_follow_the_seed():
    arm = PlanarArm.duka()
    theta = arm.sample(20_000, seeded(1))
    assert theta.dtype == torch.float64
    assert (arm.limit_violation(theta) == 0).all()
    lower, upper = arm.limits_tensor(theta)
    unit = (theta - lower) / (upper - lower)
    # Standard errors: 1/sqrt(12 N) = 2e-3 of the mean and 7e-3 of a correlation.
    assert ((unit.mean(0) - 0.5).abs() < 0.01).all()
    assert ((unit.var(0) - 1 / 12).abs() < 0.003).all()
    assert ((torch.corrcoef(unit.T) - torch.eye(3)).abs() < 0.03).all()
    assert torch.equal(theta, arm.sample(20_000, seeded(1)))
    assert not torch.equal(theta, arm.sample(20_000, seeded(2)))
    assert arm.sample(0, seeded()).shape == (0, 3)


def test_a_locked_joint_is_sampled_at_its_only_angle():
    arm = PlanarArm(lengths=(1, 1), limits=((0.1, 0.1), (-1.0, 1.0)))
    assert (arm.sample(10, seeded())[:, 0] == 0.1).all()


def test_nan_angles_spoil_their_own_row_alone():
    theta = random_angles(3, 3)
    clean = theta.clone()
    theta[1, 1] = math.nan
    arm = PlanarArm.unit()
    for function in (arm.points, arm.pose, arm.jacobian, arm.point_jacobians, arm.limit_violation):
        result, expected = function(theta), function(clean)
        assert torch.equal(result[[0, 2]], expected[[0, 2]])
        assert result[1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_method_follows_the_dtype_of_its_input(dtype):
    arm = PlanarArm.duka()
    theta = random_angles(4, 3).to(dtype)
    for function in (arm.points, arm.tip, arm.orientation, arm.pose, arm.jacobian, arm.point_jacobians):
        assert function(theta).dtype == dtype
    assert arm.limit_violation(theta).dtype == dtype
    answers, reachable = arm.inverse(arm.pose(theta))
    assert answers.dtype == dtype
    assert reachable.all()
    tips = arm.tip(theta)[:, None].expand(-1, 2, 2)
    assert torch.allclose(arm.tip(answers), tips, rtol=0, atol=100 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("theta", [torch.zeros(4), torch.tensor(0.0), torch.zeros(3, 2), torch.zeros(3).long()])
def test_angles_of_the_wrong_shape_or_type_are_refused(theta):
    for function in (PlanarArm.unit().points, PlanarArm.unit().orientation, PlanarArm.unit().limit_violation):
        with pytest.raises(ValueError, match=r"^theta: expected .* \(\*batch, 3\), found torch"):
            function(theta)


LIMITS = ((-1.0, 1.0), (-1.0, 1.0))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("lengths", {"lengths": ()}),
        ("lengths", {"lengths": (1.0, 0.0)}),
        ("lengths", {"lengths": (1.0, -1.0)}),
        ("lengths", {"lengths": (1.0, math.nan)}),
        ("lengths", {"lengths": (1.0, math.inf)}),
        ("lengths", {"lengths": (1.0, "2")}),
        ("lengths", {"lengths": (1.0, True)}),
        ("lengths", {"lengths": (1.0, 10**400)}),
        ("lengths", {"lengths": (1.0, 1e300)}),  # its square is no number
        ("lengths", {"lengths": (1.0, 1e-300)}),
        ("lengths", {"lengths": "12"}),
        ("lengths", {"lengths": None}),
        ("lengths", {"lengths": 2.0}),
        ("limits", {"limits": LIMITS[:1]}),
        ("limits", {"limits": None}),
        ("limits[1]", {"limits": (LIMITS[0], (1.0, -1.0))}),
        ("limits[1]", {"limits": (LIMITS[0], (-1.0, math.nan))}),
        ("limits[1]", {"limits": (LIMITS[0], (-math.inf, 1.0))}),
        ("limits[0]", {"limits": ((1.0,), LIMITS[0])}),
        ("limits[0]", {"limits": (0.5, LIMITS[0])}),
        ("link_radius", {"link_radius": -0.1}),
        ("link_radius", {"link_radius": math.nan}),
        ("link_radius", {"link_radius": "thick"}),
    ],
)
def test_a_malformed_arm_is_refused_in_one_line_that_names_the_argument(name, change):
    with pytest.raises(ValueError, match=r"expected .* found") as raised:
        PlanarArm(**({"lengths": (1.0, 1.0), "limits": LIMITS} | change))
    message = str(raised.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    assert len(message) < 200


@pytest.mark.parametrize(
    "data",
    [
        [],
        {},
        {"lengths": [1]},
        {"lengths": [1], "limits": [[0, 1]], "colour": "red"},
        {"lengths": [1], "limits": [[0, 1]], 3: 4},
    ],
)
def test_a_malformed_json_arm_is_refused_in_one_line(data):
    with pytest.raises(ValueError, match=r"^arm: expected .* found [^\n]*$"):
        PlanarArm.from_json(data)


def test_an_arm_survives_json_pickle_and_copy():
    arm = PlanarArm(lengths=[1, 2.5], limits=[[-0.1, 0.3], (0, math.pi)], link_radius=0.05)
    for again in (PlanarArm.from_json(json.loads(json.dumps(arm.to_json()))), copy.deepcopy(arm)):
        assert again == arm
        assert hash(again) == hash(arm)
    assert pickle.loads(pickle.dumps(arm)) == arm
    assert PlanarArm.from_json({"lengths": [1], "limits": [[0, 1]]}).link_radius == 0
    assert PlanarArm.unit(4).num_links == 4
    with pytest.raises(AttributeError):
        arm.link_radius = 1.0


def test_the_principal_angle_is_exact_after_any_number_of_turns():
    angle = torch.tensor([0.3, -math.pi, math.pi, 4.0, -7.0, 1e3, 1e9, -1e15], dtype=torch.float64)
    found = principal_angle(angle)
    assert torch.equal(found[:3], angle[:3])
    assert found.abs().max() <= math.pi
    assert torch.allclose(found.sin(), angle.sin(), rtol=0, atol=1e-15)
    assert torch.allclose(found.cos(), angle.cos(), rtol=0, atol=1e-15)
    assert principal_angle(torch.tensor([math.nan, math.inf])).isnan().all()


def test_the_derivative_of_the_principal_angle_is_one():
    angle = torch.tensor([0.0, 1.0, -3.0, 5.0, 1e4], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(principal_angle(angle).sum(), angle)
    assert torch.allclose(slope, torch.ones(5).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("lengths", [(1.0, 1.0, 1.0), (1.0, 0.3, 0.8), (0.4, 1.5, 0.2)])
def test_a_pose_is_in_reach_where_the_inverse_has_an_answer(lengths):
    arm = PlanarArm(lengths=lengths, limits=((-4.0, 4.0),) * 3)
    generator = torch.Generator().manual_seed(1)
    pose = arm.reach * (2 * torch.rand(5000, 3, generator=generator, dtype=torch.float64) - 1)
    reachable = arm.inverse(pose)[1][:, 0]
    assert torch.equal(in_reach(arm, pose, 1e-12), reachable)
    assert 0.05 < float(reachable.double().mean()) < 0.95
    assert in_reach(arm, pose[reachable][:, :2], 1e-12).all()


def test_one_link_reaches_the_poses_on_its_circle_and_no_others():
    arm = PlanarArm(lengths=(2.0,), limits=((-4.0, 4.0),))
    pose = torch.tensor([[2.0, 0.0, 0.0], [0.0, 2.0, math.pi / 2], [2.0, 0.0, 0.1], [1.0, 0.0, 0.0]]).double()
    assert in_reach(arm, pose, 1e-6).tolist() == [True, True, False, False]
