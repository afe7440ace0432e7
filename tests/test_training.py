"""Training and the run folders that it leaves."""

import dataclasses
import json
import math
import pickle

import pytest
import torch

from robotics import Circles, DatasetConfig, FileError, PlanarArm, make_dataset, runs
from robotics.models import MODELS, build_model
from robotics.runs import COLUMNS, load_run, read_metrics, save_run
from robotics.training import TrainingConfig, copy_network, fit

ARM = PlanarArm.duka()
SCENE = ((2.4, 2.6, 0.5), (-1.6, 3.2, 0.6))
CIRCLES = Circles.from_json({"circles": SCENE})
DATA = make_dataset(DatasetConfig(arm=ARM, circles=SCENE, num_samples=300, removal="whole-arm"))
FILES = ["checkpoint.pt", "config.json", "metrics.csv"]


def new_model(name="mlp", seed=0, **options):
    torch.manual_seed(seed)
    return build_model(ARM, {"model": name, "inputs": "xy", "hidden": 20} | options)


def config(**options):
    return TrainingConfig(**({"epochs": 4, "batch_size": 50, "learning_rate": 1e-2} | options))


def train(model, folder=None, **options):
    return fit(model, DATA, CIRCLES, config(**options), folder, progress=False)


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def validation_loss(model):
    with torch.no_grad():
        return model.loss(DATA.split("validation").targets, CIRCLES).item()


def without_time(rows):
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("name", MODELS)
def test_the_same_seeds_give_the_same_rows_and_weights(name):
    options = {"epochs": 2, "epoch_samples": 60, "validation_samples": 20}
    first, second = new_model(name), new_model(name)
    assert without_time(train(first, **options)) == without_time(train(second, **options))
    assert same(weights(first), weights(second))


@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_loss_of_every_model(name):
    model = new_model(name)
    before = validation_loss(model)
    rows = train(model, epochs=3)
    assert validation_loss(model) < 0.9 * before
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]


def test_a_network_learns_an_arm_with_one_answer_for_each_target():
    arm = PlanarArm(lengths=(1.0, 1.0), limits=((0.0, 1.5), (0.3, 2.0)))
    data = make_dataset(DatasetConfig(arm=arm, num_samples=600))
    torch.manual_seed(0)
    model = build_model(arm, {"model": "mlp", "inputs": "xy", "hidden": 50})
    rows = fit(model, data, Circles.from_json({"circles": []}), config(epochs=100, learning_rate=5e-2), progress=False)
    assert rows[-1]["val_loss"] < 0.25 * rows[0]["train_loss"]


def test_afterwards_the_model_holds_the_weights_of_the_least_validation_loss(tmp_path):
    model = new_model()
    loss, script, seen = model.loss, iter([9.0, 8.0, 3.0, 5.0, 4.0]), []

    def scripted(targets, circles):
        if torch.is_grad_enabled():
            return loss(targets, circles)
        seen.append(weights(model))
        return torch.tensor(next(script))

    model.loss = scripted
    rows = train(model, tmp_path, batch_size=300)  # one call for a validation
    assert [row["val_loss"] for row in rows] == [8.0, 3.0, 5.0, 4.0]
    assert same(weights(model), seen[2])
    assert same(weights(load_run(tmp_path)[0]), seen[2])


def test_training_never_makes_a_model_worse(tmp_path):
    model = new_model()
    train(model, epochs=30)
    good = weights(model)
    rows = train(model, tmp_path, epochs=30, learning_rate=10.0, patience=3)
    assert same(weights(model), good)
    assert same(weights(load_run(tmp_path)[0]), good)
    assert len(rows) == 3


def test_the_learning_rate_falls_as_a_half_cosine():
    rates = [row["learning_rate"] for row in train(new_model(), epochs=4, learning_rate=1e-2)]
    assert rates == pytest.approx([5e-3 * (1 + math.cos(math.pi * k / 4)) for k in range(4)])


def test_an_epoch_of_few_samples_draws_them_anew():
    seen = []
    model = new_model()
    loss = model.loss
    model.loss = lambda targets, circles: seen.append(targets) or loss(targets, circles)
    train(model, epochs=2, epoch_samples=30, validation_samples=7)
    assert [len(targets) for targets in seen] == [7, 30, 7, 30, 7]
    assert not torch.equal(seen[1], seen[3])
    kept = {tuple(row) for row in DATA.split("train").targets.tolist()}
    assert {tuple(row) for row in torch.cat((seen[1], seen[3])).tolist()} <= kept


def test_the_folder_holds_three_whole_files_and_the_rows(tmp_path):
    rows = train(new_model(), tmp_path / "deep" / "run")
    assert sorted(path.name for path in (tmp_path / "deep" / "run").iterdir()) == FILES
    assert read_metrics(tmp_path / "deep" / "run") == rows
    assert tuple(rows[0]) == COLUMNS
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


@pytest.mark.parametrize("call", [1, 2, 7, 11])
def test_ctrl_c_keeps_the_best_weights_and_whole_files(tmp_path, call):
    model = new_model()
    start, loss, calls = weights(model), model.loss, []

    def interrupted(targets, circles):
        calls.append(None)
        if len(calls) == call + 1:  # the first call is the validation before training
            raise KeyboardInterrupt
        return loss(targets, circles)

    model.loss = interrupted
    with pytest.raises(KeyboardInterrupt):
        train(model, tmp_path)
    model.loss = loss
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert same(weights(load_run(tmp_path)[0]), weights(model))
    rows = read_metrics(tmp_path)
    assert same(weights(model), start) == (not rows)
    if rows:
        assert validation_loss(model) == pytest.approx(min(row["val_loss"] for row in rows), rel=1e-12)


def test_a_loss_that_is_not_finite_ends_the_training_in_one_line(tmp_path):
    model = new_model()
    loss, calls = model.loss, []
    model.loss = lambda *args: loss(*args) * (math.nan if calls.append(None) or len(calls) == 9 else 1)
    with pytest.raises(ValueError, match=r"^learning_rate: expected a loss and a gradient .* found nan") as raised:
        train(model, tmp_path)
    assert "\n" not in str(raised.value)
    assert same(weights(load_run(tmp_path)[0]), weights(model))


def test_an_empty_split_is_an_error():
    data = make_dataset(dataclasses.replace(DATA.config, num_samples=10, fractions=(1.0, 0.0, 0.0)))
    with pytest.raises(ValueError, match="one or more targets in the split validation, found none"):
        fit(new_model(), data, CIRCLES, config(), progress=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("epochs", value) for value in (0, -1, 1.5, True, "3", None)),
        *(("batch_size", value) for value in (0, 2**63)),
        *(("patience", 0), ("seed", -1), ("epoch_samples", 0), ("validation_samples", 2.0)),
        *(("learning_rate", value) for value in (0, -1e-3, math.nan, math.inf, "1e-3", True)),
    ],
)
def test_a_bad_configuration_names_its_field(name, value):
    with pytest.raises(ValueError, match=f"^{name}: expected .*, found "):
        config(**{name: value})


# --- starting from another run ------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_network_starts_from_the_weights_of_another(name):
    source, model = new_model(seed=1), new_model(name, seed=2)
    copy_network(model, source)
    assert same(weights(getattr(model, "network", model)), weights(source))


@pytest.mark.parametrize(
    ("arm", "options"), [(ARM, {"hidden": 21}), (ARM, {"inputs": "xytheta"}), (PlanarArm.unit(), {})]
)
def test_a_network_of_another_kind_cannot_be_the_start(arm, options):
    source = build_model(arm, {"model": "mlp", "inputs": "xy", "hidden": 20} | options)
    with pytest.raises(ValueError, match=r"^start: expected a run with (hidden|inputs|arm) .*, found "):
        copy_network(new_model(), source)


# --- run folders --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_a_run_comes_back_as_it_was(tmp_path, name):
    model = new_model(name)
    save_run(tmp_path, model, DATA, CIRCLES, {"seed": 3})
    again, config = load_run(tmp_path)
    assert again.config() == model.config()
    assert again.arm == ARM
    assert same(weights(again), weights(model))
    assert config["circles"] == [list(circle) for circle in SCENE]
    assert config["dataset_hash"] == DATA.hash
    assert config["training"] == {"seed": 3}
    assert config == json.loads((tmp_path / "config.json").read_text())


def test_the_configuration_of_an_earlier_run_never_stands_beside_a_new_checkpoint(tmp_path, monkeypatch):
    save_run(tmp_path, new_model(), DATA, CIRCLES)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "write_json", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_run(tmp_path, new_model(seed=1), DATA, CIRCLES)
    with pytest.raises(FileError, match=r"config\.json: expected a file"):
        load_run(tmp_path)


class Evil:
    """Pickles to a call that would write a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def truncated(path):
    path.write_bytes(path.read_bytes()[:-200])


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(path):
    data = bytearray(path.read_bytes())
    data[:4] = b"\x80\x02}q"
    path.write_bytes(data)


def replaced(content):
    return lambda path: torch.save(content, path)


def changed(**values):
    def damage(path):
        torch.save(torch.load(path, weights_only=True) | values, path)

    return damage


OTHER = {
    "truncated": truncated,
    "half written": half,
    "flipped": flipped,
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"not a checkpoint\n" * 100),
    "zeros": lambda path: path.write_bytes(bytes(5000)),
    "missing": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "plain pickle": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "a list": replaced([1, 2]),
    "a tensor": replaced(torch.zeros(3)),
    "other keys": replaced({"weight": torch.zeros(3)}),
    "wrong shape": changed(**{"layers.0.bias": torch.zeros(3, dtype=torch.float64)}),
    "wrong type": changed(**{"layers.0.bias": torch.zeros(20)}),
    "sparse": changed(**{"layers.0.bias": torch.zeros(20, dtype=torch.float64).to_sparse()}),
    "not a tensor": changed(**{"layers.0.bias": 3}),
    "nan": changed(**{"layers.0.bias": torch.full((20,), math.nan, dtype=torch.float64)}),
}


@pytest.mark.parametrize("damage", OTHER.values(), ids=OTHER.keys())
def test_a_damaged_checkpoint_is_one_line_that_names_it(tmp_path, damage):
    save_run(tmp_path, new_model(), DATA, CIRCLES)
    path = tmp_path / "checkpoint.pt"
    damage(path)
    with pytest.raises(FileError) as raised:
        load_run(tmp_path)
    message = str(raised.value)
    assert message.startswith(f"{path}: expected ")
    assert "found" in message
    assert "\n" not in message


def test_a_checkpoint_runs_no_code(tmp_path):
    save_run(tmp_path, new_model(), DATA, CIRCLES)
    torch.save({"layers.0.weight": Evil(tmp_path / "evil")}, tmp_path / "checkpoint.pt")
    with pytest.raises(FileError, match="expected a whole checkpoint"):
        load_run(tmp_path)
    assert not (tmp_path / "evil").exists()


def edited(edit):
    def damage(path):
        data = json.loads(path.read_text())
        edit(data)
        path.write_text(json.dumps(data))

    return damage


CONFIGS = {
    "missing": lambda path: path.unlink(),
    "half written": half,
    "a list": lambda path: path.write_text("[]"),
    "no arm": edited(lambda data: data.pop("arm")),
    "other key": edited(lambda data: data.update(colour="blue")),
    "lower above upper": edited(lambda data: data["arm"]["limits"].__setitem__(0, [1.0, -1.0])),
    "negative radius": edited(lambda data: data["circles"][0].__setitem__(2, -1.0)),
    "unknown model": edited(lambda data: data["model"].update(model="transformer")),
    "no model": edited(lambda data: data.update(model=3)),
    "hidden": edited(lambda data: data["model"].update(hidden="many")),
}


@pytest.mark.parametrize("damage", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_damaged_configuration_is_one_line_that_names_it(tmp_path, damage):
    save_run(tmp_path, new_model(), DATA, CIRCLES)
    path = tmp_path / "config.json"
    damage(path)
    with pytest.raises(FileError) as raised:
        load_run(tmp_path)
    message = str(raised.value)
    assert message.startswith(str(path))
    assert "expected" in message
    assert "found" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ("", "line 1"),
        ("epoch,loss\n", "line 1"),
        (",".join(COLUMNS) + "\n1,2,3,4,5\n1,2,3,x,5\n", "line 3"),
        (",".join(COLUMNS) + "\n1,2,3\n", "line 2"),
        (",".join(COLUMNS) + "\n1,2,3,4,5,6\n", "line 2"),
    ],
)
def test_damaged_metrics_are_one_line_with_its_number(tmp_path, content, line):
    (tmp_path / "metrics.csv").write_text(content)
    with pytest.raises(FileError, match=rf"metrics\.csv, {line}: expected .*, found "):
        read_metrics(tmp_path)


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileError, match="file: expected a folder, found: "):
        save_run(tmp_path / "file", new_model(), DATA, CIRCLES)
