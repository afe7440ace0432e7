"""The audit accepts layers that are right and catches every fake that is wrong, in the family made for it."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import oracles
import pytest
import tolerances as tol
import torch
from fake_layers import CAUGHT, garbage, inaccurate, needs_G, textbook
from problems import Problem

from implicit_layers import ProblemError, QPLayer, SolverWarning, solve_qp
from implicit_layers.__main__ import main
from implicit_layers.audit import FAMILIES, AuditRow, Tolerances, audit
from implicit_layers.audit_witnesses import kkt_gradients

NAMES = ("P", "q", "G", "h", "A", "b", "lb", "ub")


def row_of(layer, family: str, **options) -> AuditRow:
    return audit(layer, families=[family], **options).rows[0]


def case_of(family: str):
    return FAMILIES[family](torch.Generator().manual_seed(0))


# --- layers that are right ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", FAMILIES)
def test_ours_is_right_in_every_family(family, seed):
    row = row_of(solve_qp, family, seed=seed)
    assert row.ok, row.verdict


def test_a_layer_that_returns_x_alone_is_audited_without_duals():
    row = row_of(QPLayer(), "bounds")
    assert row.ok
    assert row.dual_error is None
    assert set(row.gradient_errors) == {f"dx/d{name}" for name in NAMES} == set(row.difference_errors)


@pytest.mark.parametrize("family", ["strictly-convex", "singular-P", "linear-program", "scaled-rows"])
def test_another_right_layer_is_accepted(family):
    assert row_of(textbook, family).ok


# --- layers that are wrong ------------------------------------------------------------------------


@pytest.mark.parametrize("layer", CAUGHT, ids=lambda layer: getattr(layer, "__name__", str(layer).split()[1]))
def test_a_wrong_layer_is_caught_where_it_is_wrong_and_passes_where_it_is_right(layer):
    family, said, right = CAUGHT[layer]
    row = row_of(layer, family)
    assert not row.ok
    assert said in row.verdict
    assert "\n" not in row.verdict
    if right:
        assert row_of(layer, right).ok


@pytest.mark.parametrize("name", NAMES)
def test_the_input_with_the_wrong_gradient_is_named(name):
    row = row_of(partial(garbage, name), "bounds")
    assert row.worst_input.endswith(f"/d{name}")
    right = [error for key, error in row.gradient_errors.items() if not key.endswith(f"/d{name}")]
    assert max(right) <= tol.DENSE
    differing = {key.partition("/d")[2] for key, error in row.difference_errors.items() if error > 1e-4}
    assert differing == {name}


def test_an_exception_in_one_family_leaves_the_others_alone():
    report = audit(needs_G, families=["equality-only", "strictly-convex"])
    assert [row.ok for row in report.rows] == [False, True]
    assert not report.ok


def test_an_exception_in_the_backward_pass_leaves_what_was_measured_before_it():
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, _):
            raise RuntimeError("no backward")

    row = row_of(lambda *arguments: Breaks.apply(solve_qp(*arguments).x), "strictly-convex")
    assert row.verdict == "gradient raises RuntimeError: no backward"
    assert row.x_error <= tol.X_REGULAR


def test_a_layer_without_any_gradient_is_wrong():
    def detached(*arguments):
        solution = solve_qp(*arguments)
        return SimpleNamespace(x=solution.x.detach(), z=solution.z.detach(), y=None)

    row = row_of(detached, "strictly-convex")
    assert row.dual_error <= tol.X_REGULAR
    assert "wrong d" in row.verdict


def test_tolerances_decide_what_is_wrong():
    assert row_of(inaccurate, "strictly-convex", tolerances=Tolerances(x=1e-3)).ok


# --- the problems and the witness -----------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_built_around_an_optimum(family):
    case = case_of(family)
    n = case.known["x"].shape[-1]
    absent = {"z": 0, "y": 0, "z_box": n}
    known = {k: torch.zeros(4, size, dtype=torch.float64) for k, size in absent.items()} | case.known
    problem = Problem(**case.params)
    assert oracles.kkt(problem, SimpleNamespace(**known)).worst <= tol.CLOSED_FORM


@pytest.mark.parametrize("family", [name for name in FAMILIES if case_of(name).has_gradient and name != "shared"])
def test_the_dense_witness_agrees_with_an_independent_one(family, generator):
    case = case_of(family)
    n = case.known["x"].shape[-1]
    absent = {"z": 0, "y": 0, "z_box": n}
    zeros = {k: torch.zeros(4, size, dtype=torch.float64) for k, size in absent.items()}
    weights = {k: torch.randn(v.shape, generator=generator, dtype=torch.float64) for k, v in case.known.items()}
    expected = oracles.active_set_gradient(
        Problem(**case.params), SimpleNamespace(**zeros | case.known), zeros | weights
    )
    for name, gradient in kkt_gradients(case, weights).items():
        assert oracles.relative_error(gradient, expected[name]) <= tol.DENSE, name


def test_the_spoiled_element_has_no_solution_and_the_others_have_theirs():
    for family, status in (("one-infeasible", 2), ("one-unbounded", 3), ("one-nan", 5)):
        case = case_of(family)
        with pytest.warns(SolverWarning):
            solution = solve_qp(**case.write(case.params))
        assert solution.status.tolist() == [0, status, 0, 0]


def test_the_same_seed_gives_the_same_numbers_whatever_else_runs():
    alone = row_of(inaccurate, "singular-P", seed=5)
    among = audit(inaccurate, families=["one-variable", "singular-P"], seed=5).rows[1]
    assert alone == among
    assert alone.x_error != row_of(inaccurate, "singular-P", seed=6).x_error


@pytest.mark.parametrize(("families", "said"), [(["no-such"], "got 'no-such'"), ([], "at least one")])
def test_unknown_families_are_named(families, said):
    with pytest.raises(ProblemError, match=rf"^families: expected .*{said}"):
        audit(solve_qp, families=families)


# --- the table and the command line ---------------------------------------------------------------


def test_the_table_is_aligned_text_with_one_line_for_each_family():
    table = audit(inaccurate, families=["strictly-convex", "one-variable"]).table().splitlines()
    header, *rows, last = table
    assert [row.split()[0] for row in rows] == ["strictly-convex", "one-variable"]
    assert last == "0 of 2 families right"
    for column in ("x error", "vs KKT", "vs differences", "worst input", "duals", "verdict"):
        start = header.index(column)
        assert all(row[start - 1] == " " and row[start] != " " for row in rows)
    assert all("wrong x" in row for row in rows)


@pytest.mark.parametrize("arguments", [[], ["--seed", "3"], ["--layer", "implicit_layers:QPLayer"]])
def test_the_command_leaves_with_0_if_all_is_right(arguments, capsys):
    assert main(["audit", "--families", "one-variable,bounds", *arguments]) == 0
    assert capsys.readouterr().out.endswith("2 of 2 families right\n")


def test_the_command_audits_a_layer_of_the_users_and_leaves_with_1_if_it_is_wrong(tmp_path, monkeypatch, capsys):
    (tmp_path / "users_layers.py").write_text(
        "from implicit_layers import solve_qp\ndef doubled(*arguments):\n    return 2 * solve_qp(*arguments).x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["audit", "--layer", "users_layers:doubled", "--families", "one-variable"]) == 1
    assert "wrong x" in capsys.readouterr().out


def test_the_command_lists_the_families(capsys):
    assert main(["audit", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(FAMILIES)


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["no-such-command"],
        ["audit", "--no-such-option"],
        ["audit", "--seed", "one"],
        ["audit", "--families", "no-such"],
        ["audit", "--families", ""],
        ["audit", "--layer", "theirs"],
        ["audit", "--layer", "no_such_module:layer"],
        ["audit", "--layer", "implicit_layers:no_such_name"],
        ["audit", "--layer", "implicit_layers:__all__"],
        ["audit", "--layer", "implicit_layers:OptNetLayer"],
    ],
)
def test_wrong_arguments_leave_with_2_and_one_line(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_the_command_runs_as_a_module():
    command = [sys.executable, "-m", "implicit_layers", "audit", "--families", "one-variable"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 of 1 families right\n")
