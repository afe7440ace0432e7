"""Tracking, judged by the independent checker all along its steps."""

import math

import numpy as np
import pytest
import torch
from checker import np_points, unsafe_steps

from robotics import Circles, PlanarArm
from robotics.chords import certified_chord
from robotics.paths import SHAPES, line_path, shape_path
from robotics.trajectories import Track, TrackStatus, find_starts, track, track_best

DUKA = PlanarArm.duka()
SCENE = [[2.4, 2.6, 0.5], [-1.6, 3.2, 0.6], [0.6, -2.0, 0.6]]
CIRCLES, NOTHING = Circles.from_json({"circles": SCENE}), Circles.from_json({"circles": []})
SIX = PlanarArm.unit(6)


# --- how a motion is judged -----------------------------------------------------------------------------


def safe(arm, rows, found, speed):
    """Whether one whole motion keeps circles, limits and speed."""
    scene = Circles.from_json({"circles": rows})
    angles = torch.cat((found.start[None], found.theta))
    slow = abs(np.diff(angles.numpy(), axis=0)).max() <= speed + 1e-12
    return slow and not unsafe_steps(arm, angles[:-1], angles[1:], scene).any()


def tip_errors(theta, targets):
    return np.linalg.norm(np_points(DUKA.lengths, theta.numpy())[:, -1] - targets.numpy()[:, :2], axis=-1)


def test_the_check_sees_a_collision_a_limit_and_a_jump():
    def turn(angle):
        return Track(torch.zeros(3).double(), torch.tensor([[angle, 0.0, 0.0]]).double(), *torch.zeros(3, 1))

    angle = math.pi / 2 + 0.05
    in_the_way = [[3 * math.cos(angle), 3 * math.sin(angle), 0.2]]  # at no end of a half turn
    assert safe(DUKA, [], turn(math.pi - 0.1), math.pi)
    assert not safe(DUKA, in_the_way, turn(math.pi - 0.1), math.pi)
    assert not safe(DUKA, [], turn(math.pi + 1e-6), 4.0)
    assert not safe(DUKA, [], turn(0.11), 0.1)


# --- tracking -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_through_circles_are_tracked_without_collision(shape):
    targets = shape_path(shape, (1.0, 3.4), 1.3, 60)
    found = track_best(DUKA, targets, CIRCLES, speed=0.15, layers=3)
    assert safe(DUKA, SCENE, found, 0.15)
    statuses = set(found.status.tolist())
    assert TrackStatus.HELD_BY_CIRCLE in statuses  # the shapes pass through a circle
    reached = found.status == TrackStatus.REACHED
    assert reached.float().mean() > 0.6
    error = tip_errors(found.theta, targets)
    assert error[reached].max() < 6e-6 + 1e-12
    assert np.allclose(error, found.tip_error, atol=1e-12)


@pytest.mark.parametrize("links", [2, 6])
def test_other_arms_with_thick_links_track_too(links):
    arm = PlanarArm(lengths=(1.0,) * links, limits=((-2.9, 2.9),) * links, link_radius=0.05)
    circles = [[0.5 * links, 0.2 * links, 0.1 * links]]
    targets = shape_path("circle", (0.3 * links, 0.5 * links), 0.2 * links, 40)
    found = track_best(arm, targets, Circles.from_json({"circles": circles}), speed=0.3, layers=3)
    assert safe(arm, circles, found, 0.3)
    assert (found.status == TrackStatus.REACHED).float().mean() > 0.5


def test_random_tours_at_any_speed_are_safe(generator):
    """Targets that jump anywhere, in circles and out of reach too: nothing but safety can be asked."""
    for trial in range(3):
        targets = 9 * torch.rand(25, 2, generator=generator, dtype=torch.float64) - torch.tensor([4.5, 2.0]).double()
        start = DUKA.sample(500, generator)
        start = start[CIRCLES.clearance(DUKA.points(start)) > 1e-3][:10]
        speed = (0.05, 0.5, math.inf)[trial]
        found = track(DUKA, start, targets, CIRCLES, speed=speed, layers=3)
        for i in range(len(start)):
            assert safe(DUKA, SCENE, Track(*(v[i] for v in found)), min(speed, 10.0))


def test_a_batch_is_tracked_as_each_alone(generator):
    targets = shape_path("eight", (1.0, 3.4), 1.3, 12)
    start = find_starts(DUKA, targets[0], CIRCLES)
    together = track(DUKA, start, targets, CIRCLES, layers=2)
    for i in range(len(start)):
        alone = track(DUKA, start[i], targets, CIRCLES, layers=2)
        assert alone.theta.shape == (12, 3)
        assert torch.allclose(alone.theta, together.theta[i], atol=1e-7)


def test_dukas_circle_is_tracked_to_round_off_by_three_layers():
    targets = shape_path("circle", (2.0, 3.0), 1.0, 100, orientation=0.2)
    found = track_best(DUKA, targets, NOTHING, layers=3)
    assert tip_errors(found.theta, targets).max() < 1e-10 * 6
    assert abs(found.theta.numpy().sum(-1) - 0.2).max() < 1e-9
    assert (found.status == TrackStatus.REACHED).all()


@pytest.mark.parametrize("elbow", [-1, 1])
def test_the_branch_stays_the_same_all_along(elbow):
    arm = PlanarArm.unit(3)
    targets = shape_path("circle", (1.8, 1.2), 0.4, 60, orientation=0.5)
    starts = find_starts(arm, targets[0], NOTHING)
    (start,) = starts[starts[:, 1].sign() == elbow]
    found = track(arm, start, targets, NOTHING)
    assert (found.status == TrackStatus.REACHED).all()
    assert (found.theta[:, 1].sign() == elbow).all()
    assert found.steps.abs().max() < 0.3
    assert torch.allclose(found.theta[-1], found.theta[0], atol=1e-6)  # once around, and the posture is the same


# --- statuses -------------------------------------------------------------------------------------------


def last_status(targets, circles=NOTHING, arm=DUKA, start=(1.5, -1.0, 0.0), **how):
    start = torch.tensor(start, dtype=torch.float64)
    targets = torch.tensor(targets, dtype=torch.float64)
    return TrackStatus(int(track(arm, start, targets, circles, **how).status[-1]))


def test_every_status_says_what_stops_the_arm():
    tip = DUKA.tip(torch.tensor([1.5, -1.0, 0.0], dtype=torch.float64)).tolist()
    assert last_status([tip]) == TrackStatus.REACHED
    assert last_status([[tip[0] - 1, tip[1] + 0.5]], speed=0.01) == TrackStatus.HELD_BY_SPEED
    assert last_status([[7.0, 0.0]] * 5) == TrackStatus.OUT_OF_REACH
    assert last_status([tip, [math.nan, 1.0]]) == TrackStatus.INVALID_INPUT
    assert last_status([[1.0, -4.0]] * 30) == TrackStatus.HELD_BY_LIMIT
    wall = Circles.from_json({"circles": [[tip[0] + 0.9, tip[1] - 0.9, 0.6]]})
    assert last_status([[tip[0] + 0.9, tip[1] - 0.9]] * 10, wall) == TrackStatus.HELD_BY_CIRCLE
    assert last_status([[tip[0] - 1.0, tip[1] - 1.0]], layers=1, tolerance=1e-12) == TrackStatus.NOT_REACHED
    assert all(status.advice for status in TrackStatus)


def test_the_arm_stays_at_a_missing_target_and_goes_on_after_it():
    targets = shape_path("circle", (2.0, 3.0), 1.0, 10)
    targets[4] = math.nan
    found = track_best(DUKA, targets, NOTHING)
    assert (found.theta[4] == found.theta[3]).all()
    assert found.tip_error[4].isnan()
    assert found.status.tolist() == [0] * 4 + [int(TrackStatus.INVALID_INPUT)] + [0] * 5


@pytest.mark.parametrize("arm", [PlanarArm.unit(3), DUKA], ids=["both sides", "one side"])
def test_a_stretched_arm_bends_for_a_target_on_its_line(arm):
    line = arm.reach * torch.tensor([[0.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
    start = torch.tensor([math.pi / 2, 0.0, 0.0], dtype=torch.float64)
    found = track(arm, start, line_path(line, 30), NOTHING, speed=0.2)
    assert found.status[-1] == TrackStatus.REACHED
    assert safe(arm, [], found, 0.2)


def test_targets_of_any_size_leave_the_arm_safe():
    far = torch.tensor([[1e300, 1.0], [1e-300, 0.0], [0.0, 0.0], [-1e8, 1e8]], dtype=torch.float64)
    start = torch.tensor([1.5, -1.0, 0.0], dtype=torch.float64)
    found = track(DUKA, start, far, CIRCLES, speed=0.1)
    assert safe(DUKA, SCENE, found, 0.1)
    assert found.status[[0, 3]].tolist() == [TrackStatus.OUT_OF_REACH] * 2


def test_an_arm_held_by_a_circle_waits_and_goes_on():
    """The target passes behind a circle that covers its way, and comes out again."""
    there = line_path(torch.tensor([[3.6, 3.6], [1.2, 4.0]], dtype=torch.float64), 40)
    circles = [[2.4, 3.8, 0.3]]
    found = track_best(DUKA, there, Circles.from_json({"circles": circles}), speed=0.2)
    held = found.status == TrackStatus.HELD_BY_CIRCLE
    assert held.any()
    assert found.status[0] == found.status[-1] == TrackStatus.REACHED
    assert safe(DUKA, circles, found, 0.2)


def test_a_chord_through_a_circle_is_not_proved_and_one_beside_it_is():
    start = torch.tensor([[0.2, 0.0, 0.0], [0.2, 0.0, 0.0]], dtype=torch.float64)
    end = torch.tensor([[1.2, 0.0, 0.0], [0.5, 0.0, 0.0]], dtype=torch.float64)
    circles = Circles.from_json({"circles": [[3 * math.cos(0.8), 3 * math.sin(0.8), 0.1]]})
    assert certified_chord(PlanarArm.unit(3), start, end, circles).tolist() == [False, True]
    assert certified_chord(PlanarArm.unit(3), start, end, NOTHING).tolist() == [True, True]


# --- paths ----------------------------------------------------------------------------------------------


def test_shapes_are_what_they_are_called():
    circle, square, eight = (shape_path(shape, (1.0, 2.0), 0.5, 41).numpy() - [1.0, 2.0] for shape in SHAPES)
    assert np.allclose(np.hypot(*circle.T), 0.5)
    assert np.allclose(abs(square).max(-1), 0.5)
    for corner in ([0.5, 0.5], [-0.5, 0.5], [-0.5, -0.5], [0.5, -0.5]):
        assert abs(square - corner).max(-1).min() < 1e-12
    assert np.allclose(eight[:, 1] ** 2, eight[:, 0] ** 2 * (1 - eight[:, 0] ** 2 / 0.25))  # Gerono's lemniscate
    assert all((path[0] == path[-1]).all() for path in (circle, square, eight))
    assert shape_path("circle", (0.0, 0.0), 1.0, 5, orientation=0.3)[:, 2].tolist() == [0.3] * 5


def test_lines_pass_through_every_waypoint_at_one_speed():
    waypoints = torch.tensor([[0.0, 0.0, 3.0], [3.0, 0.0, -3.0], [3.0, 0.0, -3.0], [3.0, 1.0, 0.0]]).double()
    path = line_path(waypoints, 83)
    distances = (path[:, None, :2] - waypoints[:, :2]).norm(dim=-1).amin(0)
    assert distances.max() < 1e-12
    assert torch.allclose(path[[0, -1], :2], waypoints[[0, -1], :2])
    speed = path[:, :2].diff(dim=0).norm(dim=-1)
    assert speed.max() < 1.1 * speed[speed > 1e-9].min()
    assert path[:, 2].diff().abs().max() < 0.2  # from 3 to -3 over pi, the shorter way
    assert (line_path(waypoints[:1], 4) == waypoints[0]).all()
    assert (line_path(waypoints, 4)[:, :2] == waypoints[:, :2]).all()
    assert (line_path(waypoints[1:3], 5)[:, :2] == waypoints[1, :2]).all()


def test_mistakes_are_named():
    def refused(match, call, *arguments, **options):
        with pytest.raises(ValueError, match=rf"^{match}"):
            call(*arguments, **options)

    start, targets = torch.tensor([1.5, -1.0, 0.0]).double(), torch.zeros(2, 2).double()
    refused(r"shape: expected one of circle", shape_path, "star", (0.0, 0.0), 1.0, 10)
    refused(r"size: expected a number > 0", shape_path, "circle", (0.0, 0.0), -1.0, 10)
    refused(r"center: expected", shape_path, "circle", (math.nan, 0.0), 1.0, 10)
    refused(r"ticks: expected an integer >= 5", shape_path, "square", (0.0, 0.0), 1.0, 4)
    refused(r"orientation: expected", shape_path, "circle", (0.0, 0.0), 1.0, 10, math.inf)
    refused(r"waypoints: expected shape", line_path, targets[:0], 10)
    refused(r"waypoints: expected float64", line_path, targets.float(), 10)
    refused(r"waypoints\[1\]: expected finite", line_path, torch.tensor([[0.0, 1.0], [math.nan, 1.0]]).double(), 10)
    refused(r"targets: expected shape", track, DUKA, start, targets[:0], NOTHING)
    refused(r"targets: expected shape .* in float64", track, DUKA, start, targets.float(), NOTHING)
    refused(r"targets: expected shape", track_best, DUKA, targets[:0], NOTHING)
    refused(r"targets\[0\]: expected finite", track_best, DUKA, targets * math.nan, NOTHING)
    refused(r"start: expected shape", track, DUKA, start[:2], targets, NOTHING)
    refused(r"start: expected postures inside", track, DUKA, start - 9, targets, NOTHING)
    refused(r"speed: expected a number > 0", track, DUKA, start, targets, NOTHING, speed=math.nan)
    refused(r"tolerance: expected a number > 0", track, DUKA, start, targets, NOTHING, tolerance=0)
    refused(r"layers: expected a positive", track, DUKA, start, targets, NOTHING, layers=0)
    covered = Circles.from_json({"circles": [[0.0, 0.0, 1.0]]})
    refused(r"circles: expected a scene with room", track_best, DUKA, targets + 3, covered)
    batched = Circles(torch.zeros(2, 1, 2).double(), torch.ones(2, 1).double())
    refused(r"circles: expected one scene", track, DUKA, start, targets, batched)
