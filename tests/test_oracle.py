"""The oracle against dense sampling with kinematics of its own: plain numpy, from the law of cosines."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from checker import np_clearance, np_points

from robotics import Circles, PlanarArm, oracle
from robotics.oracle import Verdict, solve, solve_poses, solve_positions

DUKA, UNIT = PlanarArm.duka(), PlanarArm.unit()
ARMS = {
    "duka": DUKA,
    "unit": UNIT,
    "capsules": PlanarArm(lengths=(1.3, 0.4, 0.9), limits=((-2.0, 2.5), (-2.9, 1.0), (-3.0, 2.0)), link_radius=0.03),
    "long-middle": PlanarArm(lengths=(0.5, 1.5, 0.7), limits=((-math.pi, math.pi),) * 3),
    "long-last": PlanarArm(lengths=(0.5, 0.3, 1.2), limits=((-3.0, 3.0), (0.3, 2.5), (-2.0, 3.0))),
    "far-limits": PlanarArm(lengths=(1.0, 1.0, 1.0), limits=((2.0, 5.0), (0.5, 4.0), (-5.0, -2.0))),
    "beyond-a-turn": PlanarArm(lengths=(1.0, 0.8, 0.6), limits=((-4.0, 4.0), (-9.0, -4.0), (-4.0, 1.0))),
}
NO_CIRCLES = Circles.from_json({"circles": []})
SAME = 1e-11  # another batch: sines of other round-off, through a root
END = 1e-9  # how far from a limit or a circle a sample must be to be judged [m, rad]


def f64(values):
    return torch.tensor(values, dtype=torch.float64)


def scenes(arm, count, k, generator):
    """One scene for each target: radius U[0.1, 0.4] of a link, anywhere in reach but on the base."""
    link = arm.reach / arm.num_links
    radii = link * (0.1 + 0.3 * torch.rand(count, k, generator=generator, dtype=torch.float64))
    nearest = radii + 0.05 * link + arm.link_radius
    distance = nearest + (arm.reach - nearest) * torch.rand(count, k, generator=generator, dtype=torch.float64).sqrt()
    angle = 2 * math.pi * torch.rand(count, k, generator=generator, dtype=torch.float64)
    return Circles(distance[..., None] * torch.stack((angle.cos(), angle.sin()), -1), radii)


def np_postures(arm, targets, orientation, elbow):
    """Joint angles (N, S, 3) from the law of cosines for targets (N, 2); NaN where the wrist is out of reach."""
    l1, l2, l3 = arm.lengths
    wrist = targets[:, None, 0] + 1j * targets[:, None, 1] - l3 * np.exp(1j * orientation)
    with np.errstate(invalid="ignore"):
        bend = np.arccos((np.abs(wrist) ** 2 - l1**2 - l2**2) / (2 * l1 * l2)) * elbow
    first = np.angle(wrist * np.conj(l1 + l2 * np.exp(1j * bend)))
    theta = np.stack((first, bend, orientation - first - bend), -1)
    lower, upper = np.array(arm.limits).T
    middle = (lower + upper) / 2
    return middle + np.angle(np.exp(1j * (theta - middle)))


def np_room(arm, theta, scene):
    """Least distance to a limit or a circle, negative beyond; NaN stays NaN. (N, S, 3), one scene or N -> (N, S)."""
    lower, upper = np.array(arm.limits).T
    room = np.minimum(theta - lower, upper - theta)
    room = np.where((upper - lower >= 2 * np.pi) & ~np.isnan(theta), np.inf, room).min(-1)
    centers, radii = (part[:, None] if scene[1].ndim == 2 else part for part in scene)
    return np.minimum(room, np_clearance(arm.lengths, theta, centers, radii, arm.link_radius))


def arrays(scene):
    return scene.centers.numpy(), scene.radii.numpy()


def inside(found, target, elbow, orientation):
    """Whether samples, (S,) of each of N targets, are in an interval, (N, S)."""
    hit = np.zeros(orientation.shape, dtype=bool)
    for i, sign, (low, high) in zip(
        found.target.tolist(), found.elbow.tolist(), found.orientation.tolist(), strict=True
    ):
        hit[i] |= (elbow[i] == sign) & ((orientation[i] - low) % (2 * np.pi) <= high - low)
    return hit


@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("name", ARMS)
def test_intervals_hold_exactly_the_postures_that_dense_sampling_allows(name, k, generator):
    arm = ARMS[name]
    radius = 1.05 * arm.reach * torch.rand(40, 1, generator=generator, dtype=torch.float64).sqrt()
    angle = 2 * math.pi * torch.rand(40, 1, generator=generator, dtype=torch.float64)
    targets = torch.cat((arm.tip(arm.sample(40, generator)), radius * torch.cat((angle.cos(), angle.sin()), 1)))
    scene = scenes(arm, 80, k, generator)
    found = solve_positions(arm, targets, scene)
    orientation = np.linspace(-np.pi, np.pi, 1501)[None] + np.zeros((80, 1))
    allowed = 0
    for sign in (-1, 1):
        elbow = np.full(orientation.shape, sign)
        room = np_room(arm, np_postures(arm, targets.numpy(), orientation, elbow), arrays(scene))
        hit = inside(found, targets, elbow, orientation)
        assert hit[room > END].all()
        assert not hit[(room < -END) | np.isnan(room)].any()
        allowed += (room > END).any(-1)
    feasible = (found.verdict == Verdict.FEASIBLE).numpy()
    assert 15 < feasible.sum() < 80
    assert feasible[allowed > 0].all()
    assert (found.verdict <= Verdict.INFEASIBLE).all()
    assert torch.equal(found.num_intervals > 0, found.verdict == Verdict.FEASIBLE)


@pytest.mark.parametrize("name", ARMS)
def test_the_posture_of_every_interval_is_allowed_and_its_ends_are_ends(name, generator):
    arm = ARMS[name]
    targets, scene = arm.tip(arm.sample(100, generator)), scenes(arm, 100, 3, generator)
    found = solve_positions(arm, targets, scene)
    own = found.target.numpy()
    theta, (centers, radii) = found.theta.numpy(), arrays(scene)
    lower, upper = np.array(arm.limits).T
    assert ((theta >= lower) & (theta <= upper)).all()
    assert np.abs(np_points(arm.lengths, theta)[:, -1] - targets.numpy()[own]).max() < 1e-13 * arm.reach
    assert (np_clearance(arm.lengths, theta, centers[own], radii[own], arm.link_radius) >= -1e-13).all()
    assert (np.where(np.sin(theta[:, 1]) > 0, 1, -1) == found.elbow.numpy()).all()
    low, high = found.orientation.numpy().T
    assert ((low > -np.pi) & (low <= np.pi) & (high >= low) & (high <= low + 2 * np.pi + 1e-12)).all()
    turned = (theta.sum(-1) - low + 1e-9) % (2 * np.pi) - 1e-9
    assert (turned <= high - low + 1e-9).all()
    # Just inside of an end all is well, just outside it is not; at a stretched elbow the wrist is out of reach there.
    closed = high - low > 2 * np.pi - 1e-9
    narrow = high - low < 1e-6
    for end, way in ((low, 1), (high, -1)):
        for offset, expected in ((1e-9, True), (-1e-9, False)):
            place = (end + way * offset)[:, None]
            postures = np_postures(arm, targets.numpy()[own], place, found.elbow.numpy()[:, None])
            room = np_room(arm, postures, (centers[own], radii[own]))[:, 0]
            keep = ~closed & ~narrow
            # The slope at an end is anything but zero: 1e-9 from it, round-off of the sample is far below the room.
            assert ((room > 0) == expected)[keep].mean() > 0.99


def test_samples_of_clear_postures_are_in_an_interval_of_their_elbow(generator):
    for arm in ARMS.values():
        theta = arm.sample(300, generator)
        scene = scenes(arm, 300, 3, generator)
        room = np_room(arm, theta.numpy()[:, None], arrays(scene))[:, 0]
        found = solve_positions(arm, arm.tip(theta), scene)
        elbow = np.where(np.sin(theta[:, 1:2].numpy()) > 0, 1, -1)
        hit = inside(found, None, elbow, theta.sum(-1).numpy()[:, None])[:, 0]
        assert hit[room > END].all()
        assert not hit[room < -END].any()


@pytest.mark.parametrize("width", [1e-3, 1e-6, 1e-9])
def test_narrow_intervals_are_not_missed(width, generator):
    for theta in UNIT.sample(10, generator):
        limits = (*UNIT.limits[:2], (float(theta[2]) - width / 2, float(theta[2]) + width / 2))
        arm = PlanarArm(lengths=UNIT.lengths, limits=limits)
        found = solve_positions(arm, arm.tip(theta)[None], NO_CIRCLES)
        assert found.verdict.tolist() == [Verdict.FEASIBLE]
        off = (found.orientation - theta.sum() + math.pi) % (2 * math.pi) - math.pi
        assert (off.abs() < 100 * width + 1e-9).any()


def test_a_gap_between_two_circles_is_found_or_proved_closed(generator):
    # Link 3 points at the base along a corridor between two circles, which is opened by a hair and closed by one.
    for gap, verdict in ((1e-3, 0), (1e-5, 0), (1e-7, 0), (-1e-7, 1), (-1e-5, 1), (-1e-3, 1)):
        radius = 0.3
        arm = PlanarArm(lengths=(1.0, 1.0, 1.0), limits=((-3.0, 3.0),) * 3, link_radius=0.01)
        rows = [[1.6, sign * (radius + 0.01 + gap / 2), radius] for sign in (-1, 1)]
        # Rings of circles on both sides leave no other way to the target.
        rows += [[1.6 + 0.25 * i, sign * (0.32 + 0.02 * i), 0.3] for i in (1, 2, 3, 4) for sign in (-1, 1)]
        rows += [[2.75, 0.0, 0.2]]
        found = solve_positions(arm, f64([[2.1, 0.0]]), Circles.from_json({"circles": rows}))
        assert found.verdict.tolist() == [verdict], gap


def test_a_closed_self_motion_is_one_interval_of_a_whole_turn():
    arm = PlanarArm(lengths=(2.0, 1.5, 0.3), limits=((-math.pi, math.pi),) * 3)
    found = solve_positions(arm, f64([[1.5, 1.0]]), NO_CIRCLES)
    assert found.elbow.tolist() == [-1, 1]
    assert torch.allclose(found.orientation.diff(dim=1), f64([[2 * math.pi]] * 2), rtol=0, atol=1e-12)


def test_an_interval_across_half_a_turn_is_one():
    arm = PlanarArm(lengths=(2.0, 1.5, 0.3), limits=((-math.pi, math.pi),) * 3)
    # One circle in front of the wrist forbids link 3 to point away from the base, and nothing else.
    scene = Circles.from_json({"circles": [[1.75, 0.0, 0.1]]})
    found = solve_positions(arm, f64([[2.0, 0.0]]), scene)
    low, high = found.orientation.T
    assert (low > 0).all()
    assert (high > math.pi).all()
    assert found.num_intervals.tolist() == [2]


@pytest.mark.parametrize("arm", [DUKA, UNIT, ARMS["long-last"]])
def test_targets_beyond_the_reach_are_infeasible_and_those_on_it_are_not_wrongly_so(arm):
    for distance, expected in ((1.0 + 1e-9, {1}), (1.0, {0, 2}), (1.0 - 1e-9, {0, 2}), (1.0 - 1e-6, {0})):
        target = f64([[0.6, 0.8]]) * distance * arm.reach
        verdict = set(solve_positions(arm, target, NO_CIRCLES).verdict.tolist())
        assert verdict <= (expected if arm is not ARMS["long-last"] else {1})  # its elbow does not stretch


def test_the_inner_ring_of_a_long_link_is_infeasible():
    arm = PlanarArm(lengths=(0.5, 0.3, 1.2), limits=((-math.pi, math.pi),) * 3)
    found = solve_positions(arm, f64([[0.4 - 1e-9, 0.0], [0.4 + 1e-6, 0.0], [0.0, 0.0]]), NO_CIRCLES)
    assert found.verdict.tolist() == [1, 0, 1]


def test_a_target_on_the_base_turns_all_the_way():
    found = solve_positions(UNIT, f64([[0.0, 0.0]]), NO_CIRCLES)
    assert found.verdict.tolist() == [Verdict.FEASIBLE]
    assert (UNIT.tip(found.theta).abs() < 1e-15).all()
    # θ_1 is Θ up to a constant, and misses 20 degrees of a turn.
    assert torch.allclose(found.orientation.diff(dim=1), f64([[math.radians(340)]] * 2), rtol=0, atol=1e-9)


def test_circles_over_base_or_target_block_everything_and_those_that_nearly_touch_do_not():
    for gap, verdict in ((-1e-9, Verdict.INFEASIBLE), (1e-9, Verdict.FEASIBLE), (1e-12, Verdict.FEASIBLE)):
        over_base = Circles.from_json({"circles": [[-0.3, 0.0, 0.3 - gap]]})
        over_target = Circles.from_json({"circles": [[2.5, 0.0, 0.5 - gap]]})
        for scene in (over_base, over_target):
            assert solve_positions(UNIT, f64([[2.0, 0.0]]), scene).verdict.tolist() == [verdict]


def test_locked_joints_are_never_wrongly_infeasible(generator):
    for joint in range(3):
        theta = UNIT.sample(4, generator)
        for row in theta:
            limits = [list(pair) for pair in UNIT.limits]
            limits[joint] = [float(row[joint])] * 2
            arm = PlanarArm(lengths=UNIT.lengths, limits=tuple(map(tuple, limits)))
            verdicts = solve_positions(arm, torch.stack((arm.tip(row), f64([3.01, 0.0]))), NO_CIRCLES).verdict.tolist()
            assert verdicts[0] in (Verdict.FEASIBLE, Verdict.UNDECIDED)
            assert verdicts[1] == Verdict.INFEASIBLE


def test_one_bad_target_or_scene_leaves_the_others_as_they_are(generator):
    targets, scene = UNIT.tip(UNIT.sample(6, generator)), scenes(UNIT, 6, 2, generator)
    whole = solve_positions(UNIT, targets, scene)
    spoiled, radii = targets.clone(), scene.radii.clone()
    spoiled[1], spoiled[3, 0], radii[5, 1] = torch.nan, torch.inf, torch.nan
    found = solve_positions(UNIT, spoiled, Circles(scene.centers, radii))
    assert found.verdict[[1, 3, 5]].tolist() == [Verdict.INVALID_INPUT] * 3
    keep = torch.isin(whole.target, torch.tensor([0, 2, 4]))
    assert torch.equal(found.target, whole.target[keep])
    assert torch.allclose(found.orientation, whole.orientation[keep], rtol=0, atol=SAME)


def test_chunks_shared_scenes_and_single_precision_change_nothing(monkeypatch, generator):
    targets = UNIT.tip(UNIT.sample(20, generator))
    shared = Circles.from_json({"circles": [[1.2, 0.8, 0.3], [-1.0, 1.2, 0.2]]})
    whole = solve_positions(UNIT, targets, shared)
    each = Circles(shared.centers.expand(20, 2, 2), shared.radii.expand(20, 2))
    monkeypatch.setattr(oracle, "CHUNK", 11)
    for found in (solve_positions(UNIT, targets, shared), solve_positions(UNIT, targets, each)):
        assert all(torch.allclose(a, b, rtol=0, atol=SAME) for a, b in zip(whole, found, strict=True))
    single = targets.float()
    assert torch.equal(solve(UNIT, single, shared).theta, solve(UNIT, single.double(), shared).theta)


@pytest.mark.parametrize("width", [2, 3])
def test_no_targets_have_no_solutions(width):
    found = solve(UNIT, torch.zeros(0, width, dtype=torch.float64), NO_CIRCLES)
    assert found.verdict.shape == found.num_intervals.shape == (0,)
    assert found.theta.shape == (0, 3)
    assert found.orientation.shape == (0, 2)


@pytest.mark.parametrize("name", ARMS)
def test_poses_have_the_answers_of_the_law_of_cosines_that_keep_limits_and_circles(name, generator):
    arm = ARMS[name]
    theta = torch.cat((arm.sample(150, generator), 6.28 * torch.rand(150, 3, generator=generator, dtype=torch.float64)))
    targets, scene = arm.pose(theta), scenes(arm, 300, 2, generator)
    found = solve_poses(arm, targets, scene)
    orientation = targets[:, 2:].numpy().repeat(2, 1)
    elbow = np.array([[-1, 1]]) + np.zeros((300, 1))
    room = np_room(arm, np_postures(arm, targets.numpy(), orientation, elbow), arrays(scene))
    allowed, answers = room > 0, torch.zeros(300, 2, dtype=torch.bool)
    answers[found.target, (found.elbow + 1) // 2] = True
    assert (np.abs(room[~np.isnan(room)]) > 1e-7).all()  # none is so close that round-off decides
    assert np.array_equal(answers.numpy(), allowed)
    assert np.array_equal(found.verdict.numpy(), np.where(allowed.any(1), Verdict.FEASIBLE, Verdict.INFEASIBLE))
    assert (arm.limit_violation(found.theta) == 0).all()
    assert torch.allclose(arm.tip(found.theta), targets[found.target, :2], rtol=0, atol=1e-12)
    turn = (found.orientation[:, 0] - targets[found.target, 2]).numpy()
    assert np.allclose(np.exp(1j * turn), 1)


def test_a_pose_at_the_edge_of_round_off_is_undecided_and_a_nan_is_invalid():
    inside_limit = UNIT.pose(f64([[0.3, 0.5, math.radians(170)], [0.3, 0.5, 1.0], [0.3, 0.5, 1.0]]))
    inside_limit[2, 1] = torch.nan
    blocked = Circles.from_json({"circles": [[0.4, 0.1, 0.1]]})
    assert solve(UNIT, inside_limit, NO_CIRCLES).verdict[1:].tolist() == [Verdict.FEASIBLE, Verdict.INVALID_INPUT]
    # The other elbow of a straight one is the same posture.
    straight = UNIT.pose(f64([[0.3, 0.0, 0.5]]))
    assert solve(UNIT, straight, NO_CIRCLES).num_intervals.tolist() == [1]
    assert solve(UNIT, straight, blocked).verdict.tolist() == [Verdict.INFEASIBLE]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((PlanarArm.unit(4), torch.zeros(1, 2), NO_CIRCLES), r"^arm: expected 3 links.* found 4$"),
        ((UNIT, torch.zeros(2), NO_CIRCLES), r"^targets: expected .*\(N, 2\), found \(2,\)$"),
        ((UNIT, torch.zeros(1, 2, dtype=torch.long), NO_CIRCLES), r"^targets: expected numbers"),
        ((UNIT, torch.zeros(3, 2), Circles(torch.zeros(2, 1, 2), torch.ones(2, 1))), r"^circles: expected .*\(3, k\)"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve_positions(*arguments)


def test_every_verdict_says_in_one_line_what_it_means():
    assert all(verdict.advice and "\n" not in verdict.advice for verdict in Verdict)


def test_a_fold_that_may_turn_about_the_base_is_never_called_infeasible():
    # Duka's arm has it at (2 cos Θ, 2 sin Θ, Θ): (π, -π, π/4) is inside the limits, the posture with θ_1 = 0 is not.
    orientation = torch.cat((f64([math.pi / 4]), torch.linspace(-3, 3, 41, dtype=torch.float64)))
    targets = torch.stack((2 * orientation.cos(), 2 * orientation.sin(), orientation), -1)
    for nudge in (0.0, 1e-16, 1e-14):
        verdict = solve_poses(DUKA, targets + nudge, NO_CIRCLES).verdict
        assert (verdict != Verdict.INFEASIBLE).all()
    found = DUKA.pose(f64([[math.pi, -math.pi, math.pi / 4]]))
    assert torch.allclose(found, targets[:1], rtol=0, atol=1e-14)
    unfolded = PlanarArm(lengths=DUKA.lengths, limits=(DUKA.limits[0], (-3.0, 0.0), DUKA.limits[2]))
    assert (solve_poses(unfolded, targets, NO_CIRCLES).verdict == Verdict.INFEASIBLE).all()


def test_a_fold_near_the_base_is_judged_where_its_direction_is_known():
    # The wrist is a little off the base in the direction of link 1: the postures are known to 1e-13 / off.
    arm = PlanarArm(lengths=(1.0, 1.0, 0.5), limits=((-0.5, 0.5), (-4.0, 4.0), (-4.0, 4.0)))
    direction = f64([0.0, 1.0, 2.0, 3.0])
    unit = torch.stack((direction.cos(), direction.sin()), -1)
    for off in (1e-2, 1e-4, 1e-6):
        targets = torch.cat((off * unit + f64([0.5, 0.0]), f64([[0.0]] * 4)), -1)
        theta, _ = arm.inverse(targets)
        inside = ((theta[..., 0] > -0.5) & (theta[..., 0] < 0.5)).any(-1)
        expected = torch.where(inside, int(Verdict.FEASIBLE), int(Verdict.INFEASIBLE))
        assert torch.equal(solve_poses(arm, targets, NO_CIRCLES).verdict, expected)
        assert 0 < int(inside.sum()) < 4


@pytest.mark.parametrize("turns", [1, -3, 1000, 10**7])
def test_an_orientation_of_many_turns_is_its_direction(turns):
    generator = torch.Generator().manual_seed(6)
    targets = UNIT.pose(UNIT.sample(200, generator))
    targets[:, 2] += 2 * math.pi * turns
    targets[:, 2] = targets[:, 2].to(torch.float32).double()  # a direction that no wrapped angle has by chance
    same = torch.cat((targets[:, :2], torch.atan2(targets[:, 2:].sin(), targets[:, 2:].cos())), -1)
    found, expected = (solve_poses(UNIT, t, NO_CIRCLES) for t in (targets, same))
    assert torch.equal(found.verdict, expected.verdict)
    assert torch.allclose(found.theta, expected.theta, rtol=0, atol=SAME)
    heading = np.exp(1j * UNIT.orientation(found.theta).numpy()) / np.exp(1j * targets[found.target, 2].numpy())
    assert np.abs(heading - 1).max() < SAME
