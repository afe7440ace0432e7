"""The benchmarks of differentiation rules and of modes: their references are right, their files are written."""

from __future__ import annotations

import csv

import pytest
import torch
from click.testing import CliRunner

from benchmarks.__main__ import cli
from benchmarks.differentiation import differentiate, measure, rules
from benchmarks.differentiation_problems import make
from benchmarks.modes import MODES, layer, peak_mib

PROBLEMS = ["linear", "cell", "ridge", "logistic"]
EXACT = 1e-6  # loose stopping rules of unrolled iterations included


def invoke(*arguments):
    # click's runner sees the group's own exit
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.mark.parametrize("name", PROBLEMS)
def test_the_reference_is_the_slope_of_the_solution(name):
    problem = make(name, 3, 2)
    leaves = [v.clone().requires_grad_() for v in problem.leaves]
    assert torch.autograd.gradcheck(lambda *v: problem.reference(v), leaves, fast_mode=True)


@pytest.mark.parametrize("name", PROBLEMS)
def test_exact_rules_have_small_errors_and_approximate_ones_do_not(name):
    errors = {row.rule: row.gradient_error for row in measure(name, 6, 3, 1, memory=False)}
    approximate = {rule for rule in errors if "Neumann" in rule or rule == "OneStep"}
    assert all(errors[rule] <= EXACT for rule in set(errors) - approximate)
    assert all(errors[rule] > 10 * EXACT for rule in approximate)
    assert errors["Implicit, Neumann, 20 terms"] < errors["Implicit, Neumann, 5 terms"]


def test_unrolling_keeps_a_graph_and_the_implicit_rule_one_node():
    problem = make("cell", 6, 3)

    def nodes(rule):
        solver, how = rules(False)[rule]
        w = problem.solve([v.clone().requires_grad_() for v in problem.leaves], solver, how)
        seen, stack = set(), [w.grad_fn]
        while stack:
            node = stack.pop()
            if node is not None and node not in seen:
                seen.add(node)
                stack += [parent for parent, _ in node.next_functions]
        return len(seen)

    assert nodes("Implicit, DenseLU") <= 10
    assert nodes("Unrolled, Anderson") > 100
    gradients, forward, backward = differentiate(problem, problem.reference)
    assert len(gradients) == 2
    assert min(forward, backward) >= 0


def test_differentiation_writes_table_figure_and_csv(tmp_path):
    result = invoke("differentiation", "--quick", "--out", tmp_path / "result")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "result.csv").read_text().splitlines()))
    assert {row["problem"] for row in rows} == set(PROBLEMS)
    assert len(rows) == 28
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "result.md").read_text() in result.output


def test_modes_writes_table_figure_and_csv(tmp_path):
    result = invoke("modes", "--quick", "--out", tmp_path / "result")
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((tmp_path / "result.csv").read_text().splitlines()))
    assert {(row["mode"], row["inputs"], row["outputs"]) for row in rows} == {
        (mode, *width) for mode in MODES for width in (("1", "4"), ("4", "4"), ("4", "1"))
    }
    assert all(float(row["peak_mib"]) > 0 for row in rows)
    assert (tmp_path / "result.png").read_bytes().startswith(b"\x89PNG")


def test_both_modes_give_the_same_jacobian_and_memory_is_counted():
    function, x = layer(3, 2, 4)
    forward, reverse = (transform(function)(x) for transform in MODES.values())
    assert (forward - reverse).abs().max() <= 1e-12
    held = torch.ones(4)

    def allocate():
        return held.new_zeros(2**18), held.new_zeros(2**17)

    assert abs(peak_mib(allocate) - 1.5) < 0.01
