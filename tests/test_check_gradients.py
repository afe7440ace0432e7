"""check_gradients says yes to right derivatives, and no to wrong ones, naming the place."""

from __future__ import annotations

import pytest
import torch
from conditions import F64, Cell, randn
from torch import nn

from implicit_layers import (
    GMRES,
    ArgminLayer,
    FixedPointLayer,
    Implicit,
    Neumann,
    OneStep,
    OptNetLayer,
    ProblemError,
    RootLayer,
    Unrolled,
    check_gradients,
)

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
WITNESSES = {"forward mode", "finite differences"}


class WrongBackward(torch.autograd.Function):
    """x², with the derivative of entry 1 off by a factor."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    def backward(ctx, v):
        (x,) = ctx.saved_tensors
        return v * 2 * x * torch.tensor([1.0, 1.01, 1.0], dtype=x.dtype)


def layers():
    torch.manual_seed(0)
    yield FixedPointLayer(Cell(3)), 2
    yield FixedPointLayer(Cell(3), differentiate=Implicit(linear=GMRES())), 2
    yield RootLayer(lambda w, a: w**3 + w - a), 2
    yield ArgminLayer(lambda w, a: (w - a).square().sum(-1) + w.pow(4).sum(-1)), 2
    yield OptNetLayer(3, 2, dtype=F64), 1


@pytest.mark.parametrize("index", range(5))
def test_our_layers_pass_with_every_witness(index, generator):
    layer, arguments = list(layers())[index]
    inputs = (torch.zeros(2, 3, dtype=F64), randn(generator, 2, 3))[-arguments:]
    report = check_gradients(layer, inputs)
    assert report.ok, report
    assert not report.unavailable
    assert {row.witness for row in report.rows} >= WITNESSES
    if isinstance(layer, FixedPointLayer):
        assert {row.input for row in report.rows} == {"f.linear.weight", "f.linear.bias", "inputs[0]", "inputs[1]"}
        assert "unrolled" in {row.witness for row in report.rows}


def test_an_unrolled_layer_is_compared_with_the_implicit_rule(generator):
    layer = FixedPointLayer(Cell(3), differentiate=Unrolled())
    report = check_gradients(layer, (torch.zeros(2, 3, dtype=F64), randn(generator, 2, 3)))
    assert report.ok, report
    assert "implicit" in {row.witness for row in report.rows}
    assert layer.differentiate == Unrolled()  # the layer itself is left as it was


def test_approximate_rules_are_found_out(generator):
    for rule in (OneStep(), Implicit(linear=Neumann(terms=2))):
        layer = FixedPointLayer(Cell(3), differentiate=rule)
        report = check_gradients(layer, (torch.zeros(2, 3, dtype=F64), randn(generator, 2, 3)))
        assert not report.ok
        assert "DO NOT agree" in str(report)


def test_a_wrong_derivative_is_found_and_its_place_named():
    report = check_gradients(WrongBackward.apply, torch.tensor([1.0, 2.0, 0.5], dtype=F64))
    assert not report.ok
    (row,) = (row for row in report.rows if row.witness == "finite differences")
    assert row.where == "d output[1] / d [1]"
    assert abs(row.worst - 0.01) < 1e-4
    assert abs(row.mean - row.worst / 9) < 1e-5
    assert (row.reverse, round(row.other, 6)) == (4.04, 4.0)
    assert "forward mode: not available" in str(report)
    assert "<-- differs" in str(report)


def test_any_module_and_structured_values(generator):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 2, dtype=F64)

        def forward(self, x, count):
            return {"a": self.linear(x), "b": (x.sum() * count, x.detach(), x > 0)}

    report = check_gradients(Two(), (randn(generator, 4, 3), 2))
    assert report.ok, report
    assert {row.input for row in report.rows} == {"linear.weight", "linear.bias", "inputs[0]"}


def test_large_layers_are_sampled(generator):
    report = check_gradients(nn.Linear(300, 200, dtype=F64), randn(generator, 300))
    assert report.ok, report


def test_float32_has_its_own_tolerance(generator):
    report = check_gradients(nn.Linear(3, 2), randn(generator, 3).float())
    assert report.ok, report
    assert report.tol > 1e-3


def test_what_cannot_be_checked_is_named(generator):
    x = randn(generator, 3)
    with pytest.raises(ProblemError, match="same value every time"):
        check_gradients(nn.Dropout(), torch.ones(64, dtype=F64))
    with pytest.raises(ProblemError, match="depends on the inputs differentiably"):
        check_gradients(lambda x: x > 0, x)
    with pytest.raises(ProblemError, match="at least one floating-point tensor"):
        check_gradients(lambda x: x, torch.ones(3, dtype=torch.int64))
