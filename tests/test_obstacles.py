import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.func import grad, jacrev, vmap

from robotics import Circles, PlanarArm

EXACT = 1e-12  # round-off of a few sums of numbers of size one to ten, in float64


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=seeded(seed), dtype=torch.float64)


def random_scene(*batch, k=3, seed=0):
    return Circles(4 * rand(*batch, k, 2, seed=seed) - 2, 0.1 + 0.9 * rand(*batch, k, seed=seed + 1))


def random_points(*batch, n=3, seed=0):
    return PlanarArm.unit(n).points(2 * math.pi * rand(*batch, n, seed=seed))


def circle(x, y, r):
    return Circles(torch.tensor([[x, y]], dtype=torch.float64), torch.tensor([r], dtype=torch.float64))


def link(*points):
    return torch.tensor(points, dtype=torch.float64)


def sampled_clearance(points, center, radius, start, count=2001):
    """Dense sampling along one link, then a bounded scalar minimisation about the best sample."""

    def distance(t):
        return np.linalg.norm(points[start] + t * (points[start + 1] - points[start]) - center)

    grid = np.linspace(0, 1, count)
    best = grid[np.argmin([distance(t) for t in grid])]
    step = grid[1]
    bounds = (max(0.0, best - step), min(1.0, best + step))
    found = minimize_scalar(distance, bounds=bounds, method="bounded", options={"xatol": 1e-12})
    return min(found.fun, distance(best)) - radius


def test_clearance_of_every_link_agrees_with_dense_sampling_along_it():
    for seed in range(6):
        points, circles = random_points(n=4, seed=seed), random_scene(k=2, seed=seed)
        clearance = circles.link_clearance(points)
        assert clearance.shape == (4, 2)
        for i in range(4):
            for j in range(2):
                center, radius = circles.centers[j].numpy(), float(circles.radii[j])
                expected = sampled_clearance(points.numpy(), center, radius, i, count=401)
                assert abs(float(clearance[i, j]) - expected) < 1e-7


@pytest.mark.parametrize(
    ("scene", "clearance", "normal"),
    [
        (circle(1.0, 2.0, 0.5), 1.5, (0, -1)),  # beside the link
        (circle(1.0, 0.2, 0.5), -0.3, (0, -1)),  # through the link
        (circle(-3.0, 4.0, 1.0), 4.0, (0.6, -0.8)),  # nearest the first end
        (circle(5.0, -4.0, 1.0), 4.0, (-0.6, 0.8)),  # nearest the second end
        (circle(1.0, 0.5, 9.0), -8.5, (0, -1)),  # around the whole link
        (circle(1.0, 0.0, 0.3), -0.3, (0, 1)),  # centre on the link: its left normal
        (circle(0.0, 0.0, 0.3), -0.3, (0, 1)),  # centre on the first end
        (circle(2.0, 0.0, 0.3), -0.3, (0, 1)),  # centre on the second end
        (circle(2.5, 0.0, 0.3), 0.2, (-1, 0)),  # on the axis, beyond the end
    ],
)
def test_clearance_and_normal_have_the_known_values_of_a_link_on_the_x_axis(scene, clearance, normal):
    witness = scene.witness(link((0, 0), (2, 0)))
    assert witness.clearance.item() == pytest.approx(clearance, abs=EXACT)
    assert witness.normal.flatten().tolist() == pytest.approx(normal, abs=EXACT)
    assert scene.clearance(link((0, 0), (2, 0)), 0.1).item() == pytest.approx(clearance - 0.1, abs=EXACT)


@pytest.mark.parametrize(
    ("points_batch", "scene_batch", "batch"),
    [
        ((), (), ()),
        ((3,), (), (3,)),
        ((), (3,), (3,)),
        ((2, 3), (3,), (2, 3)),
        ((2, 1), (1, 3), (2, 3)),
        ((0,), (), (0,)),
    ],
)
def test_batches_of_arms_and_of_scenes_broadcast(points_batch, scene_batch, batch):
    points, circles = random_points(*points_batch, n=4), random_scene(*scene_batch, k=2)
    witness = circles.witness(points, 0.1)
    for value in (witness.t, witness.distance, witness.clearance):
        assert value.shape == (*batch, 4, 2)
    assert witness.point.shape == witness.normal.shape == (*batch, 4, 2, 2)
    assert circles.clearance(points).shape == circles.tip_clearance(points).shape == batch
    assert torch.equal(circles.link_clearance(points, 0.1), witness.clearance)
    for index in np.ndindex(*batch):
        alone = Circles(circles.centers.expand(*batch, 2, 2)[index], circles.radii.expand(*batch, 2)[index]).witness(
            points.expand(*batch, 5, 2)[index], 0.1
        )
        for value, expected in zip(witness, alone, strict=True):
            assert torch.allclose(value[index], expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize("n", range(1, 11))
def test_the_normal_is_a_unit_vector_that_supports_the_link(n):
    points, circles = random_points(50, n=n, seed=n), random_scene(50, k=4, seed=n)
    witness = circles.witness(points)
    assert torch.allclose(witness.normal.norm(dim=-1), torch.ones(50, n, 4).double(), rtol=0, atol=EXACT)
    assert (witness.t >= 0).all()
    assert (witness.t <= 1).all()
    centers = circles.centers[:, None]
    along = (witness.normal * (witness.point - centers)).sum(-1)
    assert torch.allclose(along, witness.distance, rtol=0, atol=EXACT)
    for end in (points[:, :-1, None], points[:, 1:, None]):
        assert ((witness.normal * (end - centers)).sum(-1) >= witness.distance - EXACT).all()


def test_clearance_does_not_depend_on_the_direction_or_the_frame_of_the_links():
    points, circles = random_points(20), random_scene()
    expected = circles.clearance(points)
    assert torch.allclose(circles.clearance(points.flip(-2)), expected, rtol=0, atol=EXACT)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    shift = torch.tensor([3.0, -5.0], dtype=torch.float64)
    moved = Circles(circles.centers @ turn.T + shift, circles.radii)
    assert torch.allclose(moved.clearance(points @ turn.T + shift), expected, rtol=0, atol=EXACT)


def test_the_tip_is_never_closer_than_the_whole_arm_and_can_be_clear_of_what_the_arm_hits():
    points, circles = random_points(100), random_scene()
    assert (circles.tip_clearance(points) >= circles.clearance(points) - EXACT).all()
    blocked = link((0, 0), (1, 0), (2, 0), (3, 0))
    assert circle(1.5, 0.0, 0.4).clearance(blocked) == pytest.approx(-0.4)
    assert circle(1.5, 0.0, 0.4).tip_clearance(blocked) == pytest.approx(1.1)
    assert circle(1.5, 0.0, 0.4).tip_clearance(blocked, 0.2) == pytest.approx(0.9)


def test_all_parts_of_the_witness_pass_gradcheck_in_points_centers_and_radii():
    points, circles = random_points(2, n=3, seed=3), random_scene(k=2, seed=4)
    arguments = [value.requires_grad_() for value in (points.detach(), circles.centers, circles.radii)]
    witness = circles.witness(points)
    interior = (witness.t > 0) & (witness.t < 1)
    assert interior.any()  # the sample has closest points within links and at their ends
    assert not interior.all()

    def parts(points, centers, radii):
        return tuple(Circles(centers, radii).witness(points, 0.1))

    assert torch.autograd.gradcheck(parts, arguments)
    assert torch.autograd.gradgradcheck(parts, arguments)


def test_the_normal_turns_with_the_link_because_the_witness_is_not_detached():
    def normal(angle):
        tip = 2 * torch.stack((angle.cos(), angle.sin()))
        return circle(1.0, 1.0, 0.2).witness(torch.stack((torch.zeros(2).double(), tip))).normal.flatten()

    # Within the link the normal is perpendicular to it, so it turns at the same rate.
    slope = jacrev(normal)(torch.tensor(0.1, dtype=torch.float64))
    assert slope.tolist() == pytest.approx([math.cos(0.1), math.sin(0.1)], abs=EXACT)


@pytest.mark.parametrize("center", [(0.0, 0.0), (1.0, 0.0), (2.0, 0.0), (1.0, 1e-17), (1.0, -1e-300), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_finite_where_the_centre_lies_on_the_link(center, dtype):
    points = link((0, 0), (2, 0), (2, 2)).to(dtype).requires_grad_()
    centers = torch.tensor([center], dtype=dtype, requires_grad=True)
    radii = torch.ones(1, dtype=dtype, requires_grad=True)
    circles = Circles(centers, radii)
    witness = circles.witness(points)
    assert torch.allclose(witness.normal.norm(dim=-1), torch.ones(2, 1, dtype=dtype))
    outputs = [*witness, circles.clearance(points), circles.tip_clearance(points)]
    gradients = torch.autograd.grad(sum(out.sum() for out in outputs), (points, centers, radii), create_graph=True)
    assert all(gradient.isfinite().all() for gradient in gradients)
    sum(gradient.square().sum() for gradient in gradients).backward()
    assert points.grad.isfinite().all()


def test_a_link_far_from_the_origin_with_the_centre_on_it_has_its_own_normal():
    for seed in range(200):
        a, b, t = 10 * rand(2, seed=seed), 10 * rand(2, seed=seed + 1000), rand(1, seed=seed + 2000)
        center = a + t * (b - a)
        witness = Circles(center[None], torch.ones(1)).witness(torch.stack((a, b)))
        across = (witness.normal.flatten() * (b - a)).sum() / (b - a).norm()
        assert abs(across) < EXACT
        assert witness.distance.item() < 1e-14


def test_a_link_without_length_has_the_clearance_of_a_point():
    points = link((1, 1), (1, 1), (2, 1)).requires_grad_()
    clearance = circle(1.0, 3.0, 0.5).link_clearance(points)
    assert clearance.flatten().tolist() == [1.5, 1.5]
    clearance.sum().backward()
    assert points.grad.isfinite().all()


@pytest.mark.parametrize("batch", [(), (3,), (2, 3)])
def test_without_circles_clearance_is_infinite_and_its_gradient_zero(batch):
    points = random_points(*batch).requires_grad_()
    circles = Circles.from_json({"circles": []})
    assert circles.link_clearance(points).shape == (*batch, 3, 0)
    assert circles.witness(points).normal.shape == (*batch, 3, 0, 2)
    for clearance in (circles.clearance(points), circles.tip_clearance(points)):
        assert clearance.shape == batch
        assert (clearance == math.inf).all()
        (gradient,) = torch.autograd.grad(clearance.sum(), points)
        assert (gradient == 0).all()


def test_nan_points_spoil_their_own_row_alone():
    points, circles = random_points(3), random_scene()
    clean = circles.clearance(points)
    points[1, 2] = math.nan
    clearance = circles.clearance(points)
    assert clearance[1].isnan()
    assert torch.equal(clearance[[0, 2]], clean[[0, 2]])
    assert circles.witness(points).normal[1, 1].isnan().all()
    points[1, 3] = math.nan
    assert circles.tip_clearance(points)[1].isnan()


def test_circles_may_be_made_and_differentiated_under_vmap():
    points, circles = random_points(5, seed=5), random_scene(5, seed=6)

    def clearance(points, centers, radii):
        return Circles(centers, radii).clearance(points, 0.05)

    arguments = (points, circles.centers, circles.radii)
    expected = circles.clearance(points, 0.05)
    assert torch.allclose(vmap(clearance)(*arguments), expected, rtol=0, atol=EXACT)
    centers = circles.centers.clone().requires_grad_()
    (slope,) = torch.autograd.grad(Circles(centers, circles.radii).clearance(points).sum(), centers)
    assert torch.allclose(vmap(grad(clearance, argnums=1))(*arguments), slope, rtol=0, atol=EXACT)
    assert vmap(jacrev(clearance, argnums=2))(*arguments).sum(-1).tolist() == [-1] * 5
    empty = Circles.from_json({"circles": []})
    assert (vmap(empty.clearance)(points) == math.inf).all()


def test_results_follow_the_dtype_of_the_points():
    points, circles = random_points(4), random_scene()
    single = circles.witness(points.float())
    assert all(value.dtype == torch.float32 for value in single)
    assert circles.clearance(points.float()).dtype == torch.float32
    assert torch.allclose(single.clearance.double(), circles.link_clearance(points), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "centers", "radii"),
    [
        ("centers", torch.zeros(2), torch.zeros(1)),
        ("centers", torch.zeros(1, 3), torch.zeros(1)),
        ("radii", torch.zeros(2, 2), torch.zeros(1)),
        ("radii", torch.zeros(2, 2), torch.tensor(1.0)),
    ],
)
def test_circles_of_the_wrong_shape_are_refused(name, centers, radii):
    with pytest.raises(ValueError, match=rf"^{name}: expected shape .* found [^\n]*$"):
        Circles(centers, radii)


@pytest.mark.parametrize("points", [torch.zeros(2), torch.zeros(1, 2), torch.zeros(3, 3), torch.zeros(3, 2).long()])
def test_points_of_the_wrong_shape_or_type_are_refused(points):
    for function in (circle(0.0, 0.0, 1.0).clearance, circle(0.0, 0.0, 1.0).tip_clearance):
        with pytest.raises(ValueError, match=r"^points: expected .* shape .* found"):
            function(points)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("circles", []),
        ("circles", {}),
        ("circles", {"circles": [], "squares": []}),
        ("circles", {"circles": None}),
        ("circles", {"circles": 3}),
        ("circles[0]", {"circles": [3]}),
        ("circles[1]", {"circles": [[0, 0, 1], [0, 0, 0]]}),
        ("circles[0]", {"circles": [[0, 0, -1]]}),
        ("circles[0]", {"circles": [[0, 0]]}),
        ("circles[0]", {"circles": [[0, 0, 1, 2]]}),
        ("circles[0]", {"circles": [[0, math.nan, 1]]}),
        ("circles[0]", {"circles": [[0, 0, math.inf]]}),
        ("circles[0]", {"circles": [["0", 0, 1]]}),
        ("circles[0]", {"circles": [{"x": 0, "y": 0, "r": 1}]}),
    ],
)
def test_malformed_json_circles_are_refused_in_one_line_that_names_them(name, data):
    with pytest.raises(ValueError, match=r"expected .* found") as raised:
        Circles.from_json(data)
    assert str(raised.value).startswith(f"{name}: ")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("k", [0, 1, 5])
def test_circles_survive_json(k):
    circles = random_scene(k=k)
    again = Circles.from_json(json.loads(json.dumps(circles.to_json())))
    assert torch.equal(again.centers, circles.centers)
    assert torch.equal(again.radii, circles.radii)
    assert again.centers.shape == (k, 2)


def test_a_batch_of_scenes_has_no_json():
    with pytest.raises(ValueError, match=r"^circles: expected one scene"):
        random_scene(2).to_json()
