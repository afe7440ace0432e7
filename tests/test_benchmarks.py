"""The benchmarks: their arithmetic judged on cases with a known answer, and each command run once, small."""

from __future__ import annotations

import csv
import os
import time

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from click.testing import CliRunner

from benchmarks import fuzz, fuzz_checks, fuzz_problems
from benchmarks.__main__ import cli
from benchmarks.implicit_vs_unrolled import differentiate, gradients, relative_error
from benchmarks.isolation import CallFailedError, IsolatedFunction
from benchmarks.problem_sets import active_set_solution, known_optimum
from benchmarks.range_qp import Answer, RangeQP, floor, judge, load
from benchmarks.report import markdown_table, write_bytes, write_csv
from implicit_layers import InteriorPoint, SolveStatus

INF = float("inf")


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


# --- the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["", "qp", "peers", "implicit-vs-unrolled", "maros-meszaros", "fuzz"])
def test_help_shows_examples(command):
    result = invoke(*([command] if command else []), "--help")
    assert result.exit_code == 0
    assert f"python -m benchmarks {command}".strip() in result.output


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("no-such",), "no-such"),
        (("fuzz", "--count", "0"), "--count"),
        (("fuzz", "--classes", "no such"), "--classes"),
        (("fuzz", "--replay", "no-such.pt"), "no-such.pt"),
        (("maros-meszaros",), "--data"),
        (("maros-meszaros", "--data", "no-such"), "no-such"),
        (("implicit-vs-unrolled", "--quick", "--out", "/no/such/folder/x"), "/no/such/folder"),
        (("implicit-vs-unrolled", "--n", "5", "--p", "5"), "--p"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, names):
    result = invoke(*arguments)
    assert result.exit_code == 2
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert names in lines[0]


def test_files_that_are_no_problems_are_named(tmp_path):
    (tmp_path / "junk.mat").write_text("not a MATLAB file")
    (tmp_path / "junk.pt").write_text("not a saved problem")
    for arguments in (("maros-meszaros", "--data", tmp_path), ("fuzz", "--replay", tmp_path / "junk.pt")):
        result = invoke(*arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert "junk" in result.stderr


# --- implicit against unrolled --------------------------------------------------------------------


def test_implicit_vs_unrolled_writes_table_figure_and_csv(tmp_path):
    result = invoke("implicit-vs-unrolled", "--quick", "--out", tmp_path / "result")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["result.csv", "result.md", "result.png"]
    rows = table(tmp_path / "result.csv")
    assert {(row["method"], row["iterations"]) for row in rows} == {
        (method, k) for method in ("implicit", "unrolled") for k in ("2", "8")
    }
    assert all(float(row["milliseconds"]) > 0 for row in rows)


def test_both_gradients_converge_to_that_of_the_active_set():
    known = known_optimum(n=8, m=8, p=2, batch=3, seed=0)
    reference = gradients(active_set_solution, known)
    implicit, solved = differentiate("implicit", 30, known)
    assert solved == 1
    assert relative_error(implicit, reference) <= 1e-10
    assert relative_error(differentiate("unrolled", 15, known)[0], reference) <= 1e-5


def test_the_drawn_optimum_is_the_optimum_of_its_active_set():
    known = known_optimum(n=8, m=8, p=2, batch=3, seed=1)
    assert torch.allclose(active_set_solution(known.problem, known.active), known.x, atol=1e-10)


# --- Maros-Meszaros -------------------------------------------------------------------------------


def small_problem() -> RangeQP:
    """Min 1/2|x|² - 3 x1 s.t. x1 + x2 = 2 and x1 <= 1: x = (1, 1), y = -1, y_box = (3, 0)."""
    return RangeQP(
        "small",
        sp.identity(2, format="csc"),
        np.array([-3.0, 0.0]),
        sp.csc_matrix([[1.0, 1.0]]),
        np.array([2.0]),
        np.array([2.0]),
        np.array([-INF, -INF]),
        np.array([1.0, INF]),
    )


def answer(x, y, y_box) -> Answer:
    return Answer(np.array(x), np.array(y), np.array(y_box), "SOLVED", 1, 0.0)


def test_the_judge_passes_the_optimum_and_measures_each_error():
    problem = small_problem()
    assert judge(problem, answer([1.0, 1.0], [-1.0], [3.0, 0.0])).error == 0
    assert judge(problem, answer([1.5, 1.0], [-1.0], [3.0, 0.0])).primal == pytest.approx(0.5)
    assert judge(problem, answer([1.0, 1.0], [-1.0], [2.0, 0.0])).dual == pytest.approx(1.0)
    assert judge(problem, answer([1.0, 1.0], [-1.0], [2.0, 0.0])).gap == pytest.approx(1.0)


def test_a_multiplier_at_an_infinite_side_counts_as_a_dual_residual():
    found = judge(small_problem(), answer([1.0, 1.0], [-1.0], [3.0, 0.5]))
    assert found.dual == pytest.approx(0.0)  # dropped: what is left is the optimum
    found = judge(small_problem(), answer([1.0, 1.0], [-0.5], [2.5, -0.5]))
    assert found.dual == pytest.approx(0.5)
    assert np.isfinite(found.gap)


def test_extended_precision_sees_through_the_round_off_of_float64():
    big = 1e8 + 1 / 3
    problem = RangeQP(
        "big", sp.csc_matrix([[1.0]]), np.array([0.0]), sp.csc_matrix((0, 1)), np.zeros(0), np.zeros(0),
        np.array([big]), np.array([INF]),
    )  # fmt: skip
    exact = answer([big], [], [-big])
    assert judge(problem, exact, np.longdouble).error == 0
    assert floor(problem, exact).gap >= np.finfo(np.float64).eps * big * big


def test_bounds_and_infinities_are_read_from_the_file(tmp_path):
    from scipy.io import savemat

    path = tmp_path / "two.mat"
    A = sp.vstack([sp.csc_matrix([[1.0, 2.0]]), sp.identity(2)]).tocsc()
    lower, upper = np.array([-1e20, 0.0, -1e20]), np.array([4.0, 9.999999999999998e19, 7.0])
    savemat(path, {"P": sp.identity(2).tocsc(), "q": np.ones(2), "A": A, "l": lower, "u": upper, "r": 0.0})
    problem = load(path)
    assert problem.A.shape == (1, 2)
    assert problem.l.tolist() == [-INF]
    assert problem.lb.tolist() == [0.0, -INF]
    assert problem.ub.tolist() == [INF, 7.0]


def test_rows_that_are_no_identity_stay_rows(tmp_path):
    from scipy.io import savemat

    path = tmp_path / "one.mat"
    A = sp.csc_matrix([[1.0, 2.0], [0.0, 1.0]])
    savemat(path, {"P": sp.identity(2).tocsc(), "q": np.ones(2), "A": A, "l": np.zeros(2), "u": np.ones(2)})
    assert load(path).A.shape == (2, 2)
    assert np.isinf(load(path).ub).all()


def test_our_solver_takes_equal_one_sided_and_two_sided_rows():
    from benchmarks.peers.solvers.ours import solve

    problem = small_problem()._replace(
        A=sp.csc_matrix([[1.0, 1.0], [1.0, -1.0], [0.0, 1.0]]),
        l=np.array([2.0, -1.0, -INF]),
        u=np.array([2.0, 0.5, 9.0]),
    )
    assert judge(problem, solve(problem, 1e-9)).error <= 1e-9


@pytest.mark.parametrize("solver", ["ours", "ours_sparse", "piqp_sparse"])
def test_maros_meszaros_of_the_smallest_problems(shared_data, tmp_path, solver):
    data = shared_data("maros_meszaros")
    out = tmp_path / "small.csv"
    result = invoke("maros-meszaros", "--data", data, "--solvers", solver, "--limit-n", 5, "--out", out)
    assert result.exit_code == 0, result.output
    rows = table(out)
    assert {"HS76", "HS52", "TAME"} <= {row["problem"] for row in rows}
    assert all(float(row["error"]) <= 1e-9 for row in rows)
    assert "100.0%" in result.output


# --- isolation ------------------------------------------------------------------------------------


def test_a_call_that_raises_or_hangs_is_a_failure_and_the_next_one_runs():
    with IsolatedFunction(time.sleep, timeout=1.0) as call:
        with pytest.raises(CallFailedError, match="TypeError"):
            call("a while")
        with pytest.raises(CallFailedError, match="within 1 s"):
            call(60)
        assert call(0) is None


def test_a_call_that_kills_its_process_is_a_failure():
    with IsolatedFunction(os._exit, timeout=10.0) as call, pytest.raises(CallFailedError, match="exit code 3"):
        call(3)


# --- fuzz -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("solver", "count", "batch"), [("auto", 4000, 4096), ("sparse", 420, 20)])
def test_fuzz_finds_nothing_wrong(tmp_path, solver, count, batch):
    result = invoke("fuzz", "--core", solver, "--count", count, "--batch", batch, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert not list(tmp_path.iterdir())
    assert all(kind in result.output for kind in fuzz_problems.CLASSES)


def examined(kind: str):
    case = fuzz_problems.CLASSES[kind](fuzz_problems.Draw(3, 20))
    solution, found = fuzz.examine(case, InteriorPoint())
    assert not any(mask.any() for mask in found.values())
    return case, solution


def broken(case, solution, **changes) -> dict[str, int]:
    found = fuzz_checks.violations(case, solution._replace(**changes))
    return {promise: int(mask.sum()) for promise, mask in found.items() if mask.any()}


def test_the_judge_notices_a_wrong_solution():
    case, solution = examined("strictly convex")
    assert broken(case, solution, x=solution.x + 1e-5) == {"wrong SOLVED": 20}
    assert broken(case, solution, z=solution.z + 1e-5) == {"wrong SOLVED": 20}
    assert broken(case, solution, z=-solution.z - 1e-30) == {"wrong SOLVED": 20}
    assert broken(case, solution, x=solution.x * torch.nan) == {"wrong SOLVED": 20, "NaN": 20}


def test_the_judge_notices_a_wrong_status():
    case, solution = examined("strictly convex")
    for status, promise in (
        (SolveStatus.PRIMAL_INFEASIBLE, "wrong PRIMAL_INFEASIBLE"),
        (SolveStatus.DUAL_INFEASIBLE, "wrong DUAL_INFEASIBLE"),
        (SolveStatus.INVALID_INPUT, "wrong INVALID_INPUT"),
    ):
        assert broken(case, solution, status=torch.full_like(solution.status, status)) == {promise: 20}
    case, solution = examined("not a number")
    wrong = broken(case, solution, status=torch.zeros_like(solution.status))
    assert wrong["invalid input not noticed"] == wrong["wrong SOLVED"] == int(case.invalid.sum()) > 0


def test_the_judge_notices_a_wrong_certificate():
    case, solution = examined("unbounded")
    assert broken(case, solution, x=-solution.x) == {"wrong DUAL_INFEASIBLE": 20}
    for seed in range(10):
        case = fuzz_problems.CLASSES["infeasible"](fuzz_problems.Draw(seed, 20))
        solution, _ = fuzz.examine(case, InteriorPoint())
        crossing = case.problem.lb > case.problem.ub
        claims = (solution.status == SolveStatus.PRIMAL_INFEASIBLE) & ~crossing.any(-1)
        expected = {"wrong PRIMAL_INFEASIBLE": int(claims.sum())} if claims.any() else {}
        assert broken(case, solution, y=solution.y + 1) == expected


@pytest.mark.parametrize("kind", ["rows scaled", "columns scaled", "cost scaled", "all scaled"])
def test_scaled_problems_are_judged_as_the_base_problem_is(kind):
    case = fuzz_problems.CLASSES[kind](fuzz_problems.Draw(5, 20))
    base = fuzz_checks.base_problem(case)
    for v in (base.P, base.q, base.G, base.A):
        assert 1e-3 < float(v.abs().amax()) < 1e3
    assert not any(mask.any() for mask in fuzz.examine(case, InteriorPoint())[1].values())


def test_a_violation_is_saved_and_can_be_replayed(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_checks, "KKT", 0.0)  # nothing is that good
    result = invoke("fuzz", "--count", 10, "--classes", "strictly convex", "--out", tmp_path)
    assert result.exit_code == 1
    [path] = tmp_path.glob("*.pt")
    assert f"fuzz --core auto --replay {path}" in result.stderr
    assert invoke("fuzz", "--replay", path).exit_code == 1
    monkeypatch.undo()
    again = invoke("fuzz", "--replay", path)
    assert again.exit_code == 0
    assert "every promise holds" in again.output


def test_sparse_programs_are_measured_beside_piqp(tmp_path):
    result = invoke("sparse", "--quick", "--out", tmp_path / "sparse")
    assert result.exit_code == 0, result.output
    with (tmp_path / "sparse.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["family"] for row in rows] == ["bands", "signal"]
    for row in rows:
        assert float(row["kkt"]) <= 1e-8
        assert float(row["gradient_error"]) <= 1e-5
    assert "forward + backward" in (tmp_path / "sparse.md").read_text()


def test_problems_written_in_cvxpy_are_measured_beside_cvxpylayers(tmp_path):
    pytest.importorskip("cvxpylayers.torch")
    result = invoke("cvxpy", "--quick", "--out", tmp_path / "cvxpy")
    assert result.exit_code == 0, result.output
    with (tmp_path / "cvxpy.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {"least squares", "portfolio", "control", "smoothing"}
    for row in rows:
        assert float(row["error"]) <= 1e-8
        assert float(row["gradient_error"]) <= 1e-6
    assert "cvxpylayers" in (tmp_path / "cvxpy.md").read_text()


# --- reports --------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "table.csv"
    write_csv(path, ["a", "b"], [[1, 0.1]])
    assert path.read_text() == "a,b\n1,0.1\n"

    def refuse(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(Exception, match=r"table\.csv.*No space left"):
        write_bytes(path, b"other")
    assert path.read_text() == "a,b\n1,0.1\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["table.csv"]


def test_no_file_takes_the_place_of_a_pipe(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(Exception, match="expected a place to write to, found what is no file"):
        write_bytes(pipe, b"")
    assert pipe.is_fifo()


def test_a_markdown_table_is_aligned():
    assert markdown_table(["name", "n"], [["a", 10]]).splitlines() == [
        "| name |  n |",
        "| ---- | -: |",
        "| a    | 10 |",
    ]
