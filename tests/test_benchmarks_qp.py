"""The benchmark of differentiable QPs: its judge, its reference and its statistics; peers that crash or hang."""

from __future__ import annotations

import csv
import dataclasses
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from tolerances import FD, FD_STEP, X_REGULAR

from benchmarks.__main__ import cli
from benchmarks.peers.layers import Task, boxes_as_rows, rows_as_boxes, rows_for_boxes
from benchmarks.problem_sets import known_optimum
from benchmarks.qp import comparison, environments, judge, peak, plots, reference, report, run, shares
from benchmarks.qp.cases import EXPERIMENTS, QUICK, SHARED, SWEEP, TABLE, Case
from benchmarks.qp.environments import PEERS
from benchmarks.qp.judge import Accuracy, accuracy
from benchmarks.qp.processes import PeerError, PeerProcess, environment
from benchmarks.qp.rounds import Budget, Contender, Row, contenders_for, mark_wrong_rules, plan, run_case
from benchmarks.qp.summary import ratio, spread, takes_part

SMALL = {
    "rows": Case(name="rows", n=4, m=6, p=2, batch=3),
    "box": Case(name="box", n=4, m=0, batch=3, kind="box"),
    "tight_box": Case(name="tight_box", n=4, m=0, batch=3, kind="tight_box"),
    "shared": Case(name="shared", n=4, m=6, batch=3, kind="shared"),
    "bpqp": Case(name="bpqp", n=6, m=3, p=2, batch=3, kind="bpqp"),
    "two_sided": Case(name="two_sided", n=4, m=8, batch=3, kind="two_sided"),
    "simplex": Case(name="simplex", n=5, m=5, p=1, batch=3, kind="simplex"),
    "projection": Case(name="projection", n=5, m=5, p=1, batch=3, kind="projection"),
}


def exact_results(data):
    exact = reference.solve(data)
    return exact, {**exact.solution, **{f"d{name}": value.copy() for name, value in exact.gradients.items()}}


# --- the reference --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SMALL)
def test_reference_gradients_are_finite_differences(kind):
    data = SMALL[kind].draw()
    exact = reference.solve(data)
    assert exact.certified.all()
    rng = np.random.default_rng(0)
    for name, gradient in exact.gradients.items():
        direction = rng.standard_normal(data[name].shape)
        if name == "P":
            direction = direction + direction.swapaxes(-1, -2)
        ahead, behind = (
            (reference.solve(data | {name: data[name] + step * direction}).solution["x"] * data["v"]).sum()
            for step in (FD_STEP, -FD_STEP)
        )
        slope = (gradient * direction).sum()
        scale = np.abs(gradient).max() * np.abs(direction).max()
        assert abs((ahead - behind) / (2 * FD_STEP) - slope) <= FD * max(scale, 1.0) * 10, name


def test_reference_finds_the_optimum_from_which_a_problem_was_built():
    known = known_optimum(n=8, m=10, p=2, batch=5, seed=0)
    P, q, G, h, A, b, *_ = (None if v is None else v.numpy() for v in known.problem)
    exact = reference.solve({"P": P, "q": q, "G": G, "h": h, "A": A, "b": b, "v": np.ones_like(q)})
    assert np.abs(exact.solution["x"] - known.x.numpy()).max() <= X_REGULAR
    assert ((exact.solution["z"] > 0) == known.active.numpy()).all()


def test_two_references_agree_on_the_simplex():
    data = SMALL["simplex"].draw()
    by_system, by_sorting = reference.solve(data), reference.solve({"q": data["q"], "v": data["v"]})
    assert np.abs(by_system.solution["x"] - by_sorting.solution["x"]).max() <= X_REGULAR
    assert np.abs(by_system.gradients["q"] - by_sorting.gradients["q"]).max() <= X_REGULAR


def test_a_degenerate_element_is_not_certified():
    data = SMALL["rows"].draw()
    data = {name: value.copy() for name, value in data.items()}
    data["G"][1, 1] = data["G"][1, 0]
    data["h"][1, 1] = data["h"][1, 0] = -10 - np.abs(data["h"][1, 0])  # active twice: multipliers are not unique
    certified = reference.solve(data).certified
    assert certified.tolist() == [True, False, True]


def test_a_wrong_guess_of_the_active_set_is_mended(monkeypatch):
    data = SMALL["rows"].draw()
    right = reference.solve(data)
    monkeypatch.setattr(reference, "guess_active", lambda rows: np.zeros(rows.r.shape, dtype=bool))
    mended = reference.solve(data)
    assert mended.certified.all()
    assert np.abs(mended.solution["x"] - right.solution["x"]).max() <= X_REGULAR


def test_a_batch_of_one_has_active_rows():
    for case in TABLE:
        if case.batch == 1:
            data = reference.draw(case)
            assert len(data["q"]) == 1
            assert (reference.solve(data).solution["z"] > 0).any()


# --- the judge ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", SMALL)
def test_the_judge_passes_the_exact_answer(kind):
    data = SMALL[kind].draw()
    exact, results = exact_results(data)
    for name, value in data.items():  # a peer sums the gradient of shared data
        if name != "v" and results[f"d{name}"].ndim > value.ndim:
            results[f"d{name}"] = results[f"d{name}"].sum(0)
    found = accuracy(data, results, exact)
    assert found.correct
    assert found.kkt <= X_REGULAR
    assert found.gradient <= X_REGULAR
    assert found.judged == 3


def test_the_judge_measures_each_error():
    data = SMALL["rows"].draw()
    exact, results = exact_results(data)
    assert accuracy(data, results | {"x": results["x"] + 0.5}, exact).kkt >= 0.5
    assert accuracy(data, results | {"z": results["z"] + 0.1}, exact).kkt >= 0.05
    assert accuracy(data, results | {"z": -results["z"]}, exact).kkt >= results["z"].max()
    assert accuracy(data, results | {"y": results["y"] + 0.1}, exact).kkt >= 0.05
    one = results["x"].copy()
    one[2, 0] = np.nan
    found = accuracy(data, results | {"x": one}, exact)
    assert found.kkt == np.inf
    assert not found.correct


@pytest.mark.parametrize("name", ["P", "q", "G", "h", "A", "b"])
def test_the_judge_measures_an_error_in_one_gradient_of_one_element(name):
    data = SMALL["rows"].draw()
    exact, results = exact_results(data)
    largest = max(np.abs(value[1]).max() for value in exact.gradients.values())
    spoilt = results[f"d{name}"].copy()
    spoilt[1, ..., 0] += 0.1 * largest
    if name == "P":
        spoilt[1, ..., 0, :] += 0.1 * largest
    found = accuracy(data, results | {f"d{name}": spoilt}, exact)
    assert 0.1 <= found.gradient <= 0.21
    assert not found.correct


def test_only_the_symmetric_part_of_the_gradient_in_p_counts():
    data = SMALL["rows"].draw()
    exact, results = exact_results(data)
    skew = np.triu(np.ones((4, 4)), 1)
    assert accuracy(data, results | {"dP": results["dP"] + skew - skew.T}, exact).gradient <= X_REGULAR


def test_a_gradient_averaged_over_the_batch_is_wrong_for_shared_data():
    data = SMALL["shared"].draw()
    exact, results = exact_results(data)
    totals = {"dP": results["dP"].sum(0), "dG": results["dG"].sum(0)}
    assert accuracy(data, results | totals, exact).correct
    means = {name: value / 3 for name, value in totals.items()}
    assert not accuracy(data, results | means, exact).correct


def test_a_peer_that_tells_no_multipliers_is_judged_by_its_x():
    data = SMALL["rows"].draw()
    exact, results = exact_results(data)
    right = accuracy(data, {"x": results["x"]}, exact)
    assert right.correct
    assert not right.multipliers
    assert accuracy(data, {"x": results["x"] + 1e-3}, exact).kkt >= 1e-4


def test_bounds_written_as_rows_come_back_as_bounds():
    data = SMALL["box"].draw()
    exact, results = exact_results(data)
    rows = boxes_as_rows(data)
    assert rows_for_boxes(("P", "q", "lb", "ub")) == ("P", "q", "h")
    as_rows, found = exact_results(rows)
    assert as_rows.certified.all()
    back = rows_as_boxes({name: found[name] for name in ("x", "z", "y", "dP", "dq", "dh")}, data)
    assert set(back) == {"x", "y", "z_box", "dP", "dq", "dlb", "dub"}
    assert accuracy(data, back, exact).correct
    assert np.abs(back["dlb"] - results["dlb"]).max() <= X_REGULAR


# --- our adapter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [kind for kind in SMALL if kind != "projection"])
@pytest.mark.parametrize("expand", [False, True])
def test_our_adapter_is_right(kind, expand):
    from benchmarks.peers.layers.ours import prepare

    case = SMALL[kind]
    data = case.draw()
    inputs = {name: value for name, value in data.items() if name != "v"}
    layer = prepare(Task(data=inputs, v=data["v"], wanted=case.wanted, options={"expand": expand}))
    layer.forward()
    assert len(layer.forward_backward()) == len(case.wanted)
    judged_data = data
    if expand:
        judged_data = {k: np.tile(v, (3,) + (1,) * v.ndim) if len(v) != 3 else v for k, v in data.items()}
    found = accuracy(judged_data, layer.results(), reference.solve(judged_data))
    assert found.correct
    assert found.gradient <= 1e-8


# --- statistics -----------------------------------------------------------------------------------


def test_a_slow_spell_of_the_machine_does_not_move_the_ratio():
    calm = {i: 1.0 for i in range(9)}
    spell = {i: 1.0 if i < 4 else 3.0 for i in range(9)}
    ours = {i: 0.1 * value for i, value in spell.items()}
    assert ratio(spell, ours).median == pytest.approx(10)
    assert ratio(spell, ours).lower == pytest.approx(10)
    assert ratio(spell, ours).upper == pytest.approx(10)
    assert spread(calm).median == 1


def test_the_ratio_uses_common_rounds_only():
    assert ratio({0: 8.0, 3: 6.0}, {0: 2.0, 1: 1.0, 3: 3.0}).count == 2
    assert np.isnan(ratio({0: 1.0}, {1: 1.0}).median)
    assert spread({}).count == 0


@pytest.mark.parametrize("rounds", [1, 2, 7, 15])
def test_a_slow_peer_takes_part_in_evenly_spaced_rounds(rounds):
    for count in range(rounds + 3):
        chosen = [i for i in range(rounds) if takes_part(i, count, rounds)]
        assert len(chosen) == min(count, rounds)
        if count:
            assert chosen[0] == 0
            assert np.ptp(np.diff([*chosen, rounds])) <= 1


def test_samples_are_long_enough_and_slow_peers_run_less():
    budget = Budget(rounds=10, seconds=8.0, sample=0.02)
    assert plan(1e-4, 2, budget) == (200, 10)
    assert plan(1.0, 2, budget) == (1, 4)
    assert plan(1e3, 2, budget) == (1, 1)


# --- processes ------------------------------------------------------------------------------------


@pytest.fixture
def fake():
    with PeerProcess(sys.executable, "tests.fake_peer") as process:
        yield process


def run_fakes(process, *hows, **budget):
    case = Case(name="rows", n=3, m=4, batch=2)
    contenders = [Contender(how or "exact", how or "exact", process, {"how": how}) for how in hows]
    return {row.name: row for row in run_case(case, contenders, Budget(**{"rounds": 1} | budget), lambda line: None)}


def test_a_peer_is_judged_and_timed_through_the_pipe(fake):
    row = run_fakes(fake, "", rounds=3)["exact"]
    assert row.counts
    assert row.accuracy.kkt <= X_REGULAR
    assert sorted(row.forward) == sorted(row.forward_backward) == [0, 1, 2]
    assert all(seconds > 0 for seconds in row.forward.values())
    assert row.versions == {"numpy": np.__version__}
    assert row.note == ""


def test_a_wrong_peer_keeps_its_row_but_does_not_count(fake):
    row = run_fakes(fake, "wrong")["wrong"]
    assert row.forward
    assert not row.counts


def test_peers_that_die_hang_or_raise_leave_the_others_alone(fake):
    rows = run_fakes(fake, "dies", "hangs", "raises", "", timeout=3.0)
    assert "exit code 3" in rows["dies"].note
    assert "no answer within 3 s" in rows["hangs"].note
    assert "ArithmeticError: no pivot" in rows["raises"].note
    assert not any(rows[how].forward for how in ("dies", "hangs", "raises"))
    assert rows["exact"].counts
    assert rows["exact"].forward


def test_a_peer_that_cannot_be_imported_says_so():
    with PeerProcess(sys.executable, "tests.no_such_peer") as process, pytest.raises(PeerError, match="no_such_peer"):
        process.start()
    with PeerProcess("/no/such/python", "tests.fake_peer") as process, pytest.raises(PeerError, match="No such file"):
        process.start()


def test_peak_memory_of_a_call_is_measured(fake):
    case = Case(name="rows", n=3, m=4, batch=2)
    data = case.draw()
    assert PEERS["ours"].installed
    fake.start()
    with pytest.raises(PeerError, match="AssertionError"):  # nothing prepared yet
        fake.ask("peak", 10, what="forward_backward")
    assert len(data["v"]) == 2


def test_every_library_is_held_to_its_threads():
    one, two = environment(1), environment(2)
    assert one["OMP_NUM_THREADS"] == one["MKL_NUM_THREADS"] == one["OPENBLAS_NUM_THREADS"] == "1"
    assert two["OMP_NUM_THREADS"] == "2"
    assert "multi_thread_eigen=false" in one["XLA_FLAGS"]


# --- environments ---------------------------------------------------------------------------------


def test_every_environment_of_a_peer_has_requirements():
    files = {file.stem for file in environments.REQUIREMENTS.glob("*.txt")}
    assert {peer.environment for peer in PEERS.values()} == files | {""}
    for file in environments.REQUIREMENTS.glob("*.txt"):
        lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
        assert all("==" in line for line in lines), file


def test_an_environment_counts_only_when_it_is_complete(tmp_path, monkeypatch):
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    (requirements / "torch.txt").write_text("torch==2.13.0\n")
    monkeypatch.setattr(environments, "REQUIREMENTS", requirements)
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path / "envs")
    codes, asked = [0, 1], []

    def fake_run(command, env, check):
        asked.append((command, env["PIP_CONSTRAINT"]))
        (tmp_path / "envs" / "torch").mkdir(parents=True, exist_ok=True)
        return type("Done", (), {"returncode": codes.pop(0)})

    monkeypatch.setattr(environments.subprocess, "run", fake_run)
    with pytest.raises(Exception, match=r"torch: expected to install"):
        environments.build(None, lambda line: None)
    assert not PEERS["moreau"].installed
    codes += [0, 0]
    environments.build(None, lambda line: None)
    assert PEERS["moreau"].installed
    before = len(asked)
    environments.build(["torch"], lambda line: None)
    assert len(asked) == before
    assert asked[0][1].endswith("torch.txt")


# --- cases, peers, command line -------------------------------------------------------------------


def test_every_case_has_a_key_of_its_own_and_data_of_its_size():
    everything = [*TABLE, SHARED, *SWEEP, *EXPERIMENTS]
    assert len({case.key for case in everything}) == len(everything)
    for case in QUICK:
        data = case.draw()
        assert data["P"].shape == (case.batch, case.n, case.n)
        assert set(case.wanted) <= set(data)
        again = case.draw()
        assert all((data[name] == again[name]).all() for name in data)


def test_variants_of_ours_run_where_they_belong():
    processes = dict.fromkeys([*PEERS, "ours-expanded", "ours-2-threads", "ours-projection"])
    names = {case.key: [c.name for c in contenders_for(case, processes)] for case in [*TABLE, SHARED, *EXPERIMENTS]}
    assert names["tiny;1"] == list(PEERS)
    assert names["tiny;128"] == [*PEERS, "ours-2-threads"]
    assert names["shared;128"] == ["ours", "ours-expanded"]
    assert names["simplex n=100;1"] == [*PEERS, "ours-projection"]
    assert sorted(names["simplex n=100000;1"]) == ["dqp", "ours-projection"]


def test_a_name_that_is_not_known_is_an_error_of_one_line():
    for arguments, words in ((["--cases", "huge"], "'huge'"), (["--peers", "gurobi"], "'gurobi'")):
        result = CliRunner().invoke(cli, ["qp", *arguments])
        assert result.exit_code == 2
        assert len(result.stderr.strip().splitlines()) == 1
        assert words in result.stderr
    assert CliRunner().invoke(cli, ["peers", "fortran"]).exit_code == 2


def test_a_peer_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(environments, "ENVIRONMENTS", tmp_path)
    peers, missing = run.select_peers([], quick=False)
    assert [peer.name for peer in peers] == ["ours"]
    assert len(missing) == len(PEERS) - 1
    assert all("make bench-peers" in line for line in missing)


def test_the_command_writes_a_report(tmp_path):
    out = tmp_path / "small"
    result = CliRunner().invoke(cli, ["qp", "--quick", "--cases", "tiny;1", "--peers", "ours", "--out", str(out)])
    assert result.exit_code == 0, result.output
    [line] = csv.DictReader((tmp_path / "small.csv").read_text().splitlines())
    assert line["implementation"] == "ours"
    assert line["counts"] == "True"
    assert float(line["kkt"]) <= 1e-8
    assert float(line["gradient_error"]) <= 1e-8
    text = (tmp_path / "small.md").read_text()
    for word in ("processor", "commit", "peak of one core", "tiny (3, 8, 0); 1", "no sparse solver"):
        assert word in text
    assert (tmp_path / "small_batch.png").exists()


# --- report ---------------------------------------------------------------------------------------

RIGHT, WRONG = Accuracy(1e-10, True, 1e-9, 8), Accuracy(1e-10, True, 0.4, 8)
FORWARD_ONLY = Accuracy(1e-10, True, float("nan"), 8)


def row(name, forward, total, accuracy=RIGHT, case=TABLE[1], **fields):
    rounds = range(3)
    title = PEERS[name].title if name in PEERS else name
    return Row(case, name, title, dict.fromkeys(rounds, forward) if forward else {},
               dict.fromkeys(rounds, total) if total else {}, [1.0], accuracy, **fields)  # fmt: skip


@pytest.fixture
def rows():
    return [
        row("ours", 0.001, 0.002, iterations=[8] * 128),
        row("ours-2-threads", 0.0005, 0.001),
        row("qpth", 0.004, 0.060),
        row("moreau", 0.020, 0.030),
        row("qpax", 0.001, 0.001, WRONG),
        row("piqp", 0.003, 0, FORWARD_ONLY),
        row("dqp", 0, 0, None, note="no answer within 45 s"),
    ]


def test_the_best_peer_is_the_fastest_right_one(rows):
    total, forward = comparison.compare(rows, "forward_backward"), comparison.compare(rows, "forward")
    assert total.best.name == "moreau"
    assert total.ratio.median == pytest.approx(15)
    assert forward.best.name == "qpth"
    assert comparison.compare(rows, "forward", layers=False).best.name == "piqp"


def test_a_wrong_derivative_counts_in_no_batch_of_that_size(rows):
    lucky = row("qpax", 0.001, 0.001, case=TABLE[0])
    unsolved = row("moreau", 0.001, 0.001, Accuracy(1.0, True, 1.0, 8), case=TABLE[0])  # says nothing about its rule
    elsewhere = row("qpax", 0.001, 0.001, case=TABLE[4])
    mark_wrong_rules([*rows, lucky, unsolved, elsewhere])
    assert not lucky.counts
    assert elsewhere.counts
    assert next(r for r in rows if r.name == "moreau").counts


def test_the_tables_say_what_was_reached_and_what_is_wrong(rows):
    table = report.main_table(rows)
    assert "moreau" in table
    assert "| 15 (15 .. 15) |" in table
    assert " yes |" in table
    slow = [dataclasses.replace(r, case=TABLE[1]) for r in rows]
    slow[0].forward_backward = dict.fromkeys(range(3), 0.01)
    assert "**no**" in report.main_table(slow)
    each = report.case_table(rows)
    assert "qpax (wrong: does not count)" in each
    assert "no answer within 45 s" in each


def test_a_wrong_answer_of_ours_is_marked_too(rows):
    rows[0].accuracy = WRONG
    assert "**wrong**" in report.main_table(rows)


def test_layers_faster_than_ours_are_listed_right_or_wrong(rows):
    assert [(r.name, what) for r, what, _ in comparison.faster_layers(rows)] == [("qpax", "forward_backward")]
    rows[0].forward = dict.fromkeys(range(3), 0.005)
    assert ("qpth", "forward") in [(r.name, what) for r, what, _ in comparison.faster_layers(rows)]
    line = next(line for line in report.faster_table(rows).splitlines() if "qpth" in line)
    assert [cell.strip() for cell in line.split("|")][1:-1] == [
        "tiny;128",
        "qpth",
        "forward",
        "0.8 (0.8 .. 0.8)",
        "yes",
    ]


def test_a_run_without_peers_has_times_but_no_ratio(rows):
    table = report.main_table(rows[:1])
    assert "nan" not in table
    assert table.splitlines()[-1].count(" - |") >= 4


def written(rows):
    return report.Report(rows, [("processor", "abacus")], ["moreau: not installed"], Budget(), peak.Peak(1e10, "beads"))


def test_the_document_has_every_section(rows):
    shared = [row("ours", 0.01, 0.02, case=SHARED, peak_mib=5.0),
              row("ours-expanded", 0.02, 0.05, case=SHARED, peak_mib=100.0)]  # fmt: skip
    share_of_peak = [row("ours", 0.01, 0.02, case=case, iterations=[8] * case.batch) for case in TABLE
              if case.key in shares.CASES]  # fmt: skip
    text = report.document(written([*rows, *shared, *share_of_peak]))
    for word in ("abacus", "beads", "2.5 (2.5 .. 2.5)", "5.0 / 100.0 MiB = 0.05", "## Two threads", "2 (2 .. 2) |",
                 "moreau: not installed", "dQP (DAQP) in tiny;128: no answer within 45 s", "large;8"):  # fmt: skip
        assert word in text


def test_the_csv_file_has_a_line_for_each_contender(rows, tmp_path):
    report.write(written(rows), tmp_path / "qp")
    lines = list(csv.DictReader((tmp_path / "qp.csv").read_text().splitlines()))
    assert [line["implementation"] for line in lines] == [r.name for r in rows]
    assert float(lines[0]["forward_backward_seconds"]) == 0.002
    assert lines[0]["forward_backward_rounds"] == "3"
    assert lines[-1]["note"] == "no answer within 45 s"
    assert lines[-1]["counts"] == ""


def test_figures_are_drawn_from_what_there_is(rows, tmp_path):
    sweep = [row(name, 0.01, 0.02 * case.n, case=case) for case in SWEEP for name in ("ours", "qpth")]
    plots.draw(written([*rows, *sweep, row("ours", 0.01, 0.02, case=TABLE[3], iterations=[8] * 8192)]), tmp_path / "qp")
    assert {path.name for path in tmp_path.iterdir()} == {"qp_batch.png", "qp_n.png", "qp_peak.png"}
    plots.draw(written([]), tmp_path / "none")
    assert not list(tmp_path.glob("none*"))


# --- the machine's peak ---------------------------------------------------------------------------


def test_the_peak_is_measured():
    found = peak.measure_peak()
    assert 1e8 < found.flops < 1e12
    assert found.method


def test_without_a_compiler_a_matrix_product_stands_in(monkeypatch):
    monkeypatch.setattr(peak.shutil, "which", lambda name: None)
    assert "numpy" in peak.measure_peak().method


def test_the_work_of_a_solve_is_counted_as_documented():
    n, rows = 3, 8
    each = rows * n * (n + 1) + rows * n + n**3 / 3 + n**2 / 2 + 4 * n**2 + 8 * rows * n + 2 * n**2
    assert peak.solve_flops(n, rows, False, [7, 9]) == pytest.approx(16 * each)
    assert judge.KKT_LIMIT < judge.GRADIENT_LIMIT
