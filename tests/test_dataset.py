import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from robotics import Circles, DatasetConfig, FileError, IKDataset, PlanarArm, make_dataset

SCENE = ((2.5, 2.5, 0.8), (-2.0, 2.0, 0.6))
DUKA = PlanarArm.duka()


def config(**options):
    return DatasetConfig(**({"arm": DUKA, "num_samples": 200, "circles": SCENE} | options))


def same(a, b):
    return all(torch.equal(getattr(a, name), getattr(b, name)) for name in ("targets", "theta", "removed"))


@pytest.mark.parametrize("sampling", ["joints", "workspace"])
@pytest.mark.parametrize("removal", ["none", "tip", "whole-arm"])
@pytest.mark.parametrize("inputs", ["xy", "xytheta"])
def test_targets_are_the_forward_kinematics_of_angles_within_the_limits(sampling, removal, inputs):
    dataset = make_dataset(config(sampling=sampling, removal=removal, inputs=inputs))
    assert len(dataset) == 200
    assert dataset.theta.shape == (200, 3)
    assert dataset.theta.dtype == dataset.targets.dtype == dataset.removed.dtype == torch.float64
    assert (DUKA.limit_violation(dataset.theta) == 0).all()
    pose = DUKA.pose(dataset.theta)
    assert torch.equal(dataset.targets, pose if inputs == "xytheta" else pose[:, :2])


@pytest.mark.parametrize("sampling", ["joints", "workspace"])
def test_tip_removal_takes_the_tips_in_circles_and_no_others(sampling):
    dataset = make_dataset(config(sampling=sampling, removal="tip", num_samples=1000))
    circles = torch.tensor(SCENE, dtype=torch.float64)

    def inside(tips):
        return ((tips[:, None] - circles[:, :2]).norm(dim=-1) <= circles[:, 2]).any(-1)

    assert not inside(dataset.targets).any()
    assert len(dataset.removed) > 10
    assert inside(dataset.removed).all()


def test_whole_arm_removal_takes_every_touching_arm_and_more_than_tip_removal():
    arm = dataclasses.replace(DUKA, link_radius=0.1)
    dataset = make_dataset(config(arm=arm, removal="whole-arm", num_samples=1000))
    points = arm.points(dataset.theta)
    along = torch.linspace(0, 1, 201, dtype=torch.float64)[:, None, None]
    samples = points[:, None, :-1] + along * (points[:, None, 1:] - points[:, None, :-1])
    for x, y, r in SCENE:
        distance = (samples - torch.tensor([x, y], dtype=torch.float64)).norm(dim=-1)
        assert (distance > r + 0.1).all()
    tips = make_dataset(config(removal="tip", num_samples=1000))
    assert len(dataset.removed) > len(tips.removed)


def test_without_removal_the_circles_play_no_part():
    dataset = make_dataset(config())
    assert dataset.removed.shape == (0, 2)
    assert torch.equal(dataset.theta, make_dataset(config(circles=())).theta)


def test_kept_and_removed_samples_together_are_the_unfiltered_draw():
    dataset = make_dataset(config(removal="whole-arm"))
    drawn = make_dataset(config(num_samples=200 + len(dataset.removed)))
    together = torch.cat((dataset.targets, dataset.removed))
    assert sorted(together.tolist()) == sorted(drawn.targets.tolist())


@pytest.mark.parametrize("sampling", ["joints", "workspace"])
def test_the_same_configuration_gives_the_same_set_and_another_seed_another(sampling):
    first, again = (make_dataset(config(sampling=sampling, removal="tip", seed=3)) for _ in range(2))
    assert same(first, again)
    assert first.hash == again.hash
    other = make_dataset(config(sampling=sampling, removal="tip", seed=4))
    assert not torch.equal(first.theta, other.theta)
    assert first.hash != other.hash


def test_the_global_generator_plays_no_part_and_is_left_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = make_dataset(config())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert same(first, make_dataset(config()))


@pytest.mark.parametrize("sampling", ["joints", "workspace"])
def test_a_smaller_set_is_the_beginning_of_a_larger_one(sampling):
    small = make_dataset(config(sampling=sampling, removal="tip", num_samples=50))
    large = make_dataset(config(sampling=sampling, removal="tip", num_samples=5000))
    assert torch.equal(large.theta[:50], small.theta)
    assert torch.equal(large.removed[: len(small.removed)], small.removed)


def test_workspace_tips_are_uniform_over_the_reachable_area():
    # Without narrow limits the reachable area of links (3, 1, 1) is the annulus from 1 to 5.
    arm = PlanarArm(lengths=(3, 1, 1), limits=((-math.pi, math.pi),) * 3)
    tips = make_dataset(DatasetConfig(arm=arm, num_samples=8000, sampling="workspace")).targets
    radius = tips.norm(dim=-1)
    rings = (radius.square() - 1) / 24
    sectors = torch.atan2(tips[:, 1], tips[:, 0]) / (2 * math.pi) + 0.5
    counts, _, _ = np.histogram2d(rings.numpy(), sectors.numpy(), bins=10, range=[[0, 1], [0, 1]])
    assert counts.sum() == 8000
    chi_square = ((counts - 80) ** 2 / 80).sum()
    assert 60 < chi_square < 150  # 99 degrees of freedom: mean 99, standard deviation 14


def test_workspace_tips_are_uniform_where_limits_leave_few_orientations():
    dataset = make_dataset(DatasetConfig(arm=DUKA, num_samples=8000, sampling="workspace"))
    # Cells of 1 m that lie wholly in the reachable area all have the same number of tips.
    counts, _, _ = np.histogram2d(*dataset.targets.numpy().T, bins=12, range=[[-6, 6], [-6, 6]])
    corners = np.stack(np.meshgrid(np.arange(-6, 7), np.arange(-6, 7), indexing="ij"), -1).astype(float)
    orientations = torch.linspace(-math.pi, math.pi, 721, dtype=torch.float64)
    points = torch.from_numpy(corners)[:, :, None].expand(13, 13, 721, 2)
    pose = torch.cat((points, orientations.expand(13, 13, 721)[..., None]), -1)
    theta, _ = DUKA.inverse(pose)
    share = (DUKA.limit_violation(theta) <= 0).flatten(2).double().mean(-1).numpy() > 0.02
    inner = share[:-1, :-1] & share[1:, :-1] & share[:-1, 1:] & share[1:, 1:]
    cells = counts[inner]
    assert len(cells) > 20
    assert ((cells - cells.mean()) ** 2 / cells.mean()).sum() / len(cells) < 1.6


def test_workspace_sampling_reaches_limits_beyond_half_a_turn():
    arm = PlanarArm(lengths=(1, 1, 1), limits=((2.0, 5.0), (0.5, 4.0), (-5.0, -2.0)))
    dataset = make_dataset(DatasetConfig(arm=arm, num_samples=500, sampling="workspace"))
    assert (arm.limit_violation(dataset.theta) == 0).all()
    assert (dataset.theta[:, 0] > math.pi).any()


def test_no_two_samples_are_the_same_even_where_joints_are_locked(monkeypatch):
    # Three angles in all: two locked joints and one with room for three neighbouring numbers.
    edge = np.nextafter(np.nextafter(1.0, 2), 2)
    arm = PlanarArm(lengths=(1, 1, 1), limits=((0.1, 0.1), (1.0, float(edge)), (0.3, 0.3)))
    dataset = make_dataset(DatasetConfig(arm=arm, num_samples=3))
    assert len(dataset.theta.unique(dim=0)) == 3
    with pytest.raises(ValueError, match="found 3 in"):
        make_dataset(DatasetConfig(arm=arm, num_samples=4))
    assert len(make_dataset(config(num_samples=5000)).theta.unique(dim=0)) == 5000


@pytest.mark.parametrize(
    ("circles", "removal"),
    [
        ([[0, 0, 0.5]], "whole-arm"),  # over the base: every first link touches it
        ([[0, 0, 100]], "tip"),  # over everything
        ([[0, 0, 100]], "whole-arm"),
    ],
)
@pytest.mark.parametrize("sampling", ["joints", "workspace"])
def test_a_scene_that_leaves_nothing_fails_after_a_bounded_number_of_draws(circles, removal, sampling):
    with pytest.raises(ValueError, match=r"^num_samples: expected 200 .* found 0 in \d+ draws[^\n]*$"):
        make_dataset(config(circles=circles, removal=removal, sampling=sampling))


def test_limits_that_leave_no_workspace_fail_with_the_same_error():
    arm = PlanarArm(lengths=(1, 1, 1), limits=((0.1, 0.1), (0.2, 0.2), (0.3, 0.3)))
    with pytest.raises(ValueError, match="found 0 in"):
        make_dataset(DatasetConfig(arm=arm, num_samples=10, sampling="workspace"))


@pytest.mark.parametrize("n", [1, 2, 6, 10])
def test_arms_of_any_number_of_links_are_sampled_by_joints(n):
    arm = PlanarArm.unit(n)
    dataset = make_dataset(DatasetConfig(arm=arm, num_samples=100, circles=((1.5, 0, 0.4),), removal="whole-arm"))
    clearance = Circles.from_json({"circles": [[1.5, 0, 0.4]]}).clearance(arm.points(dataset.theta))
    assert (clearance > 0).all()


def test_the_workspace_of_one_link_has_no_area():
    with pytest.raises(ValueError, match=r"^sampling: expected 'joints' for one link"):
        DatasetConfig(arm=PlanarArm.unit(1), num_samples=100, sampling="workspace")


@pytest.mark.parametrize("n", [2, 4, 6, 10])
def test_workspace_tips_are_uniform_for_any_number_of_links(n):
    arm = PlanarArm.unit(n)
    dataset = make_dataset(DatasetConfig(arm=arm, num_samples=2000, sampling="workspace"))
    assert (arm.limit_violation(dataset.theta) == 0).all()
    assert torch.equal(arm.tip(dataset.theta), dataset.targets)
    # Limits of ±170° keep two links a little off the base, and nothing else off anything.
    x, y = dataset.targets.T.numpy()
    inner = 2 * math.cos(math.radians(85)) if n == 2 else 0.0
    rings = (x**2 + y**2 - inner**2) / (n**2 - inner**2)
    sectors = np.arctan2(y, x) / (2 * np.pi) + 0.5
    backwards = (np.abs(sectors - 0.5) < 0.45) if n == 2 else np.ones_like(x, dtype=bool)
    counts, _, _ = np.histogram2d(rings[backwards], sectors[backwards], bins=(10, 10), range=[[0, 1], [0.05, 0.95]])
    mean = counts.mean()
    assert ((counts - mean) ** 2 / mean).sum() < 150  # 99 degrees of freedom: mean 99, standard deviation 14


def test_labels_are_the_verdicts_of_the_oracle_and_hold_the_sample():
    dataset = make_dataset(config(labels=True, removal="none"))
    labels = dataset.labels
    circles = Circles.from_json({"circles": SCENE})
    points = DUKA.points(dataset.theta)
    clear = circles.clearance(points) > 0
    assert 20 < int((~clear).sum()) < 180
    assert (labels.verdict[clear] == 0).all()
    assert torch.equal(labels.verdict == 0, labels.num_intervals > 0)
    assert (labels.elbow == -1).all()  # Duka's joint 2 bends one way
    low, high = labels.interval.T
    assert torch.equal(low.isnan(), ~clear)
    turn = (dataset.theta.sum(-1) - low) % (2 * math.pi)
    assert (turn <= high - low)[clear].all()
    plain = make_dataset(config(removal="none"))
    assert plain.labels is None
    assert same(plain, dataset)
    assert plain.hash != dataset.hash


def test_labels_of_poses_count_postures():
    arm = PlanarArm.unit()
    dataset = make_dataset(DatasetConfig(arm=arm, num_samples=200, labels=True, inputs="xytheta"))
    assert set(dataset.labels.num_intervals.tolist()) == {1, 2}
    assert (dataset.labels.verdict == 0).all()
    assert (dataset.labels.interval[:, 0] == dataset.labels.interval[:, 1]).all()
    assert torch.equal(dataset.labels.elbow, torch.where(dataset.theta[:, 1] > 0, 1, -1))


def test_labels_survive_saving_splitting_and_loading(tmp_path):
    dataset = make_dataset(config(labels=True, num_samples=50))
    for part in (dataset, dataset.split("test")):
        part.save(tmp_path)
        again = IKDataset.load(tmp_path)
        assert again.config.labels
        for name in ("verdict", "num_intervals", "elbow", "interval"):
            stored, found = getattr(part.labels, name), getattr(again.labels, name)
            assert stored.dtype == found.dtype
            assert torch.equal(stored.nan_to_num(), found.nan_to_num())
    order = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    assert torch.equal(dataset.split("train").labels.elbow, dataset.labels.elbow[order[:35]])


def test_edited_labels_are_found_by_the_hash(tmp_path):
    make_dataset(config(labels=True, num_samples=20)).save(tmp_path)
    arrays = dict(np.load(tmp_path / "data.npz"))
    np.savez(tmp_path / "data.npz", **arrays | {"elbow": -arrays["elbow"]})
    assert "hash" in load_is_refused(tmp_path, "data.npz")
    del arrays["elbow"]
    np.savez(tmp_path / "data.npz", **arrays)
    assert "elbow" in load_is_refused(tmp_path, "data.npz")


def test_a_set_saved_before_there_were_labels_still_loads(tmp_path):
    dataset = make_dataset(config(num_samples=20))
    dataset.save(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())
    assert "labels" not in stored["config"]  # byte for byte what was written before
    assert IKDataset.load(tmp_path).labels is None


def test_labels_of_other_arms_are_refused():
    with pytest.raises(ValueError, match=r"^labels: expected false for an arm that has not 3 links, found 4 links$"):
        DatasetConfig(arm=PlanarArm.unit(4), num_samples=5, labels=True)


@pytest.mark.parametrize("num", [1, 2, 3, 7, 200])
@pytest.mark.parametrize("fractions", [(0.7, 0.15, 0.15), (1, 0, 0), (0, 0, 1), (1 / 3, 1 / 3, 1 / 3)])
def test_splits_are_disjoint_reproducible_and_cover_everything(num, fractions):
    dataset = make_dataset(config(num_samples=num, fractions=fractions))
    parts = [dataset.split(name) for name in ("train", "validation", "test")]
    rows = torch.cat([part.theta for part in parts])
    assert sorted(rows.tolist()) == sorted(dataset.theta.tolist())
    assert len(rows.unique(dim=0)) == num
    for part, fraction in zip(parts, fractions, strict=True):
        assert abs(len(part) - fraction * num) <= 1
        assert torch.equal(DUKA.tip(part.theta), part.targets)
        assert torch.equal(part.removed, dataset.removed)
    assert same(parts[0], make_dataset(config(num_samples=num, fractions=fractions)).split("train"))


def test_an_unknown_split_is_refused_with_the_choices():
    dataset = make_dataset(config())
    with pytest.raises(ValueError, match=r"^split: expected one of train, validation, test, found 'val'$"):
        dataset.split("val")
    with pytest.raises(ValueError, match="split: expected the whole set"):
        dataset.split("train").split("test")


def test_samples_are_indexed_and_batched_as_pairs():
    dataset = make_dataset(config(num_samples=10))
    target, theta = dataset[3]
    assert torch.equal(target, dataset.targets[3])
    assert torch.equal(theta, dataset.theta[3])
    targets, angles = next(iter(DataLoader(dataset, batch_size=4)))
    assert torch.equal(targets, dataset.targets[:4])
    assert torch.equal(angles, dataset.theta[:4])
    assert len(list(dataset)) == 10


@pytest.mark.parametrize("removal", ["none", "whole-arm"])
def test_a_set_survives_saving_and_loading(tmp_path, removal):
    dataset = make_dataset(config(removal=removal, arm=dataclasses.replace(DUKA, link_radius=0.01)))
    dataset.save(tmp_path / "runs" / "data")
    again = IKDataset.load(tmp_path / "runs" / "data")
    assert same(dataset, again)
    assert again.config == dataset.config
    assert again.hash == dataset.hash
    assert sorted(file.name for file in (tmp_path / "runs" / "data").iterdir()) == ["config.json", "data.npz"]
    assert json.loads((tmp_path / "runs" / "data" / "config.json").read_text())["hash"] == dataset.hash
    assert same(again, make_dataset(again.config))
    part = dataset.split("validation")
    part.save(tmp_path / "part")
    assert same(IKDataset.load(tmp_path / "part"), part)


def load_is_refused(folder, name):
    with pytest.raises(FileError) as raised:
        IKDataset.load(folder)
    message = str(raised.value)
    assert "\n" not in message
    assert message.startswith(str(folder / name))
    for fragment in ("expected", "found"):
        assert fragment in message
    return message


def test_missing_files_are_named(tmp_path):
    load_is_refused(tmp_path / "nowhere", "config.json")
    make_dataset(config()).save(tmp_path)
    (tmp_path / "data.npz").unlink()
    load_is_refused(tmp_path, "data.npz")


def test_a_set_that_cannot_be_saved_is_an_error_of_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match=r"file: expected a folder, found: [^\n]*$"):
        make_dataset(config()).save(tmp_path / "file")


def test_truncated_files_are_named(tmp_path):
    make_dataset(config(num_samples=3)).save(tmp_path)
    for name, step in (("config.json", 7), ("data.npz", 13)):
        whole = (tmp_path / name).read_bytes()
        for length in range(0, len(whole) - 1, step):
            (tmp_path / name).write_bytes(whole[:length])
            load_is_refused(tmp_path, name)
        (tmp_path / name).write_bytes(whole)
    IKDataset.load(tmp_path)


def test_edited_arrays_are_found_by_the_hash(tmp_path):
    dataset = make_dataset(config())
    dataset.save(tmp_path)
    arrays = {name: getattr(dataset, name).numpy() for name in ("targets", "theta", "removed")}
    for edit in (
        {"targets": np.nextafter(arrays["targets"], 9)},
        {"theta": np.nextafter(arrays["theta"], 9)},
        {"removed": np.zeros((1, 2))},
        {"targets": arrays["targets"].reshape(2, 200)},  # the same bytes
    ):
        np.savez(tmp_path / "data.npz", **(arrays | edit))
        assert "hash" in load_is_refused(tmp_path, "data.npz")
    np.savez(tmp_path / "data.npz", **(arrays | {"theta": arrays["theta"].astype(np.float32)}))
    assert "float64" in load_is_refused(tmp_path, "data.npz")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"seed": 0', '"seed": 1'),
        ('"removal": "none"', '"removal": "tip"'),
        ('"seed": 0', '"seed": -1'),
        ('"seed": 0', '"seed": true'),
        ('"inputs": "xy"', '"inputs": "yx"'),
        ('"seed": 0', '"seeds": 0'),
        ('"hash": "', '"hash": "0'),
        ('"data_hash": "', '"data_hash": "0'),
        ('"data_hash"', '"datahash"'),
        ('"lengths"', '"length"'),
        ('"num_samples": 200', '"num_samples": 100'),
    ],
)
def test_an_edited_configuration_is_named(tmp_path, old, new):
    make_dataset(config()).save(tmp_path)
    path = tmp_path / "config.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    load_is_refused(tmp_path, "config.json")


def test_a_save_cut_short_between_the_files_does_not_load(tmp_path, monkeypatch):
    make_dataset(config(seed=1)).save(tmp_path)

    def cut(path, data):
        raise KeyboardInterrupt

    monkeypatch.setattr("robotics.dataset.write_json", cut)
    with pytest.raises(KeyboardInterrupt):
        make_dataset(config(seed=2)).save(tmp_path)
    load_is_refused(tmp_path, "data.npz")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("arm", None),
        ("num_samples", 0),
        ("num_samples", 10.0),
        ("num_samples", True),
        ("seed", -1),
        ("seed", 2**63),
        ("seed", None),
        ("sampling", "angles"),
        ("sampling", ["joints"]),
        ("removal", None),
        ("inputs", "xyz"),
        ("fractions", (0.5, 0.5)),
        ("fractions", (0.5, 0.6, -0.1)),
        ("fractions", (0.5, 0.5, 0.5)),
        ("fractions", (math.nan, 0.5, 0.5)),
        ("circles", None),
        ("labels", 1),
        ("circles[0]", [[0, 0, -1]]),
    ],
)
def test_a_malformed_configuration_is_refused_in_one_line_that_names_the_option(name, value):
    with pytest.raises(ValueError, match=r"expected .* found") as raised:
        config(**{name.removesuffix("[0]"): value})
    assert str(raised.value).startswith(f"{name}: ")
    assert "\n" not in str(raised.value)


def test_a_configuration_survives_json_and_may_leave_out_the_defaults():
    full = config(circles=[[1, 2, 0.5]], fractions=[0.5, 0.25, 0.25], seed=7, removal="tip")
    assert DatasetConfig.from_json(json.loads(json.dumps(full.to_json()))) == full
    assert hash(full) == hash(DatasetConfig.from_json(full.to_json()))
    short = DatasetConfig.from_json({"arm": DUKA.to_json(), "num_samples": 5})
    assert short == DatasetConfig(arm=DUKA, num_samples=5)
