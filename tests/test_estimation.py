"""The smoother against the textbook recursion, written here in numpy and, to differentiate it, once more in torch."""

import itertools
import math

import numpy as np
import pytest
import tolerances
import torch

from implicit_layers import SolveStatus
from robotics import Circles
from robotics.estimation import LinearGaussianModel, fit_model, log_likelihood, smooth

START = torch.tensor([0.5, -0.2], dtype=torch.float64)


def tip_model(noise=0.1, acceleration=0.5):
    return LinearGaussianModel.constant_velocity(0.1, acceleration, noise, START)


def random_model(generator, d=3, m=2, c=3, learned=None):
    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def covariance(size):
        factor = draw(size, size)
        return factor @ factor.mT + 0.1 * torch.eye(size, dtype=torch.float64)

    F = draw(d, d)
    F = F / F.norm()
    return LinearGaussianModel(
        F, draw(m, d), covariance(c), covariance(m), draw(d), covariance(d), B=draw(d, c), learned=learned
    )


def matrices(model):
    """F, H, B Q B', R, mean, P0 as they enter the recursion."""
    B, L0 = model.noise_input, model.initial_factor
    return model.F, model.measured, B @ model.Q @ B.mT, model.R, model.mean, L0 @ L0.mT


def textbook(model, y):
    """Kalman filter, then the Rauch-Tung-Striebel smoother: states (T, d) and the log-likelihood of one run."""
    F, H, Q, R, mean, P = (v.detach().numpy() for v in matrices(model))
    filtered, predicted, log_p = [], [], 0.0
    for t, seen in enumerate(y.numpy()):
        if t:
            mean, P = F @ mean, F @ P @ F.T + Q
        predicted.append((mean, P))
        there = ~np.isnan(seen)
        h, r = H[there], R[np.ix_(there, there)]
        S = h @ P @ h.T + r
        gain = P @ h.T @ np.linalg.inv(S)
        gap = seen[there] - h @ mean
        log_p -= 0.5 * (gap @ np.linalg.inv(S) @ gap + np.linalg.slogdet(S)[1] + there.sum() * math.log(2 * math.pi))
        mean, P = mean + gain @ gap, P - gain @ S @ gain.T
        filtered.append((mean, P))
    states = [filtered[-1][0]]
    for (mean, P), (ahead, P_ahead) in zip(filtered[-2::-1], predicted[:0:-1], strict=True):
        states.insert(0, mean + P @ F.T @ np.linalg.inv(P_ahead) @ (states[0] - ahead))
    return np.array(states), log_p


def recursion(y, F, H, Q, R, mean, P):
    """The filter in torch for complete runs (N, T, m), and the smoother: the sum of log-likelihoods, and states."""
    mean = mean.expand(len(y), -1)
    filtered, predicted, log_p = [], [], 0.0
    for t in range(y.shape[1]):
        if t:
            mean, P = mean @ F.mT, F @ P @ F.mT + Q
        predicted.append((mean, P))
        S = H @ P @ H.mT + R
        gap = y[:, t] - mean @ H.mT
        log_p = log_p + torch.distributions.MultivariateNormal(torch.zeros_like(gap[0]), S).log_prob(gap).sum()
        mean, P = mean + gap @ torch.linalg.solve(S, H @ P), P - P @ H.mT @ torch.linalg.solve(S, H @ P)
        filtered.append((mean, P))
    states = [filtered[-1][0]]
    for (mean, P), (ahead, P_ahead) in zip(filtered[-2::-1], predicted[:0:-1], strict=True):
        states.insert(0, mean + (states[0] - ahead) @ torch.linalg.solve(P_ahead, F @ P))
    return log_p, torch.stack(states, 1)


def off(found, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    return float((found.detach() - expected).abs().max() / (1 + expected.abs().max()))


# --- the textbook -----------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("sizes", [(3, 2, 3), (2, 3, 1), (1, 1, 1)], ids=str)
def test_smoother_and_likelihood_are_those_of_the_textbook(generator, sizes, missing):
    model = random_model(generator, *sizes)
    _, y = model.sample(4, 12, generator)
    y = torch.where(torch.rand(y.shape, generator=generator) < missing, torch.nan, y)
    estimate, log_p = smooth(model, y), log_likelihood(model, y)
    assert (estimate.status == SolveStatus.SOLVED).all()
    for i in range(4):
        states, expected = textbook(model, y[i])
        assert off(estimate.states[i], states) < tolerances.TEXTBOOK
        assert off(log_p[i], expected) < tolerances.TEXTBOOK


def test_a_tip_of_constant_velocity_is_smoothed_as_in_the_textbook(generator):
    model = tip_model()
    truth, y = model.sample(3, 25, generator)
    states = smooth(model, y).states
    assert all(off(states[i], textbook(model, y[i])[0]) < tolerances.TEXTBOOK for i in range(3))
    error, raw = states - truth, y - truth[..., :2]
    assert error[..., :2].square().mean() < 0.5 * raw.square().mean()


def test_scales_of_noise_a_million_apart_do_no_harm(generator):
    model = tip_model(noise=1e-4, acceleration=100.0)
    _, y = model.sample(2, 10, generator)
    assert off(smooth(model, y).states[0], textbook(model, y[0])[0]) < tolerances.TEXTBOOK


def test_one_tick_alone_is_a_weighted_mean(generator):
    model = tip_model(noise=0.5)
    y = torch.randn(1, 2, generator=generator, dtype=torch.float64)
    expected = torch.cat(((START * 0.25 + y[0]) / 1.25, torch.zeros(2, dtype=torch.float64)))
    assert off(smooth(model, y).states[0], expected) < tolerances.TEXTBOOK


def test_without_any_measurement_the_model_is_followed():
    nothing = torch.full((5, 2), torch.nan, dtype=torch.float64)
    model = tip_model()
    still = torch.cat((START, torch.zeros(2, dtype=torch.float64))).expand(5, 4)
    assert off(smooth(model, nothing).states, still) < tolerances.TEXTBOOK
    assert log_likelihood(model, nothing).abs() < tolerances.TEXTBOOK


def test_no_run_harms_another(generator):
    model = tip_model()
    _, y = model.sample(3, 6, generator)
    broken = y.clone()
    broken[1, 2, 0] = torch.inf
    estimate = smooth(model, broken)
    assert estimate.status.tolist() == [SolveStatus.SOLVED, SolveStatus.INVALID_INPUT, SolveStatus.SOLVED]
    assert estimate.states[1].isnan().all()
    assert off(estimate.states[::2], smooth(model, y).states[::2].detach()) < tolerances.TEXTBOOK
    log_likelihood(model, broken)[::2].sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert smooth(model, y[:0]).states.shape == (0, 6, 4)


# --- gradients: of the layer, of the recursion, of differences, in closed form ------------------------


@pytest.fixture
def learned(generator):
    """A model with two learned entries of F, and runs of it."""
    mask = torch.tensor([[True, False, False], [False, False, True], [False, False, False]])
    model = random_model(generator, learned=mask)
    return model, model.sample(3, 8, generator)[1]


def gradients(value, model):
    return torch.autograd.grad(value, list(model.parameters()))


def test_gradient_of_the_likelihood_is_that_of_the_recursion(learned):
    model, y = learned
    ours = gradients(log_likelihood(model, y).sum(), model)
    theirs = gradients(recursion(y, *matrices(model))[0], model)
    assert all(off(a, b) < tolerances.DENSE for a, b in zip(ours, theirs, strict=True))


def test_gradient_of_the_states_is_that_of_the_recursion(learned, generator):
    model, y = learned
    y.requires_grad_()
    states = smooth(model, y).states
    cotangent = torch.randn(states.shape, generator=generator, dtype=torch.float64)
    expected = recursion(y, *matrices(model))[1]
    wanted = [*model.parameters(), y]
    ours, theirs = (torch.autograd.grad((cotangent * s).sum(), wanted) for s in (states, expected))
    assert all(off(a, b) < tolerances.DENSE for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("missing", [False, True])
def test_gradient_of_the_states_is_that_of_differences(learned, generator, missing):
    model, y = learned
    if missing:
        y[0, 2:4] = torch.nan
        y[1, 5, 0] = torch.nan
    cotangent = torch.randn(3, 8, 3, generator=generator, dtype=torch.float64)
    ours = gradients((cotangent * smooth(model, y).states).sum(), model)
    with torch.no_grad():
        for parameter, gradient in zip(model.parameters(), ours, strict=True):
            index = int(gradient.abs().argmax())
            values = []
            for step in (tolerances.FD_STEP, -2 * tolerances.FD_STEP, tolerances.FD_STEP):
                parameter.view(-1)[index] += step
                values.append((cotangent * smooth(model, y).states).sum())
            slope = (values[0] - values[1]) / (2 * tolerances.FD_STEP)
            assert abs(slope - gradient.view(-1)[index]) < tolerances.FD * (1 + abs(slope))


def test_gradient_of_one_measurement_of_one_number_has_its_closed_form():
    one = torch.ones(1, 1, dtype=torch.float64)
    model = LinearGaussianModel(one, one, one, 0.5 * one, 0 * one[0], 2 * one)
    # log p = -1/2 (y²/S + log S + log 2 pi), S = 2 + R, R = exp(2 a) for the parameter a.
    (slope,) = torch.autograd.grad(log_likelihood(model, 3 * one), [model.measurement])
    assert float(slope) == pytest.approx(-0.5 * (-9 / 2.5**2 + 1 / 2.5) * 2 * 0.5, rel=1e-9)


# --- learning -----------------------------------------------------------------------------------------


def test_covariances_and_dynamics_are_learned_within_the_sampling_error(generator):
    def build(damping, acceleration, noise):
        F = torch.tensor([[1.0, 0.2], [0.0, damping]], dtype=torch.float64)
        scale = torch.tensor([[1.0]], dtype=torch.float64)
        return LinearGaussianModel(
            F,
            torch.tensor([[1.0, 0.0]], dtype=torch.float64),
            acceleration**2 * scale,
            noise**2 * scale,
            torch.zeros(2, dtype=torch.float64),
            torch.eye(2, dtype=torch.float64),
            B=torch.tensor([[0.02], [0.2]], dtype=torch.float64),
            learned=torch.tensor([[False, False], [False, True]]),
        )

    truth, model = build(0.8, 2.0, 0.3), build(0.4, 0.5, 1.0)
    _, y = truth.sample(60, 20, generator)
    losses = fit_model(model, y, iterations=25)
    assert losses[-1] < losses[0]
    assert all(later <= earlier + 1e-9 for earlier, later in itertools.pairwise(losses))
    assert losses[-1] <= float(-log_likelihood(truth, y).mean().detach()) / 20  # at least as likely as the truth

    def likelihood(parameters):  # through the recursion, which shares no code with the layer
        damping, a, b = parameters
        F = torch.stack((truth.dynamics[0], torch.stack((0 * damping, damping))))
        Q = truth.noise_input @ truth.noise_input.mT * (2 * a).exp()
        return recursion(y, F, truth.measured, Q, (2 * b).exp() * torch.eye(1), truth.mean, torch.eye(2).double())[0]

    def parameters(of):
        return torch.cat([p.detach().flatten() for p in (of.entries, of.process, of.measurement)])

    information = -torch.autograd.functional.hessian(likelihood, parameters(model))
    error = torch.linalg.inv(information).diagonal().sqrt()
    assert ((parameters(model) - parameters(truth)).abs() < 3 * error).all()
    assert (error < 0.1).all()  # which says something


def test_learning_through_the_states_lowers_their_error(generator):
    truth, model = tip_model(noise=0.3, acceleration=2.0), tip_model(noise=0.03, acceleration=5.0)
    states, y = truth.sample(8, 12, generator)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.3)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = (smooth(model, y).states - states).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    best = float((smooth(truth, y).states - states).square().mean().detach())
    assert losses[0] > 1.5 * best
    assert losses[-1] < 1.1 * best


# --- what the recursion cannot know ---------------------------------------------------------------------

CIRCLE = Circles.from_json({"circles": [[0.5, 0.6, 0.6]]})


def runs_beside_the_circle(generator, num, model):
    """Runs of the model that never entered the circle and stayed near it, and their measurements."""
    states, y = model.sample(20000, 20, generator)
    gap = (states[..., :2] - CIRCLE.centers[0]).norm(dim=-1) - CIRCLE.radii[0]
    chosen = ((gap.amin(-1) > 0) & (gap.mean(-1) < 0.2)).nonzero()[:num, 0]
    assert len(chosen) == num
    return states[chosen], y[chosen]


def test_no_position_of_an_estimate_is_inside_a_circle_and_rounds_never_cost_more(generator):
    model = tip_model(noise=0.3)
    _, y = runs_beside_the_circle(generator, 10, model)
    costs = []
    for rounds in (1, 2, 4, 8):
        estimate = smooth(model, y, CIRCLE, rounds)
        assert (estimate.status == SolveStatus.SOLVED).all()
        distance = np.linalg.norm(estimate.states[..., :2].detach().numpy() - [0.5, 0.6], axis=-1)
        assert distance.min() > 0.6 - 1e-8
        costs.append(estimate.cost.detach())
    assert all((later <= earlier + 1e-7).all() for earlier, later in itertools.pairwise(costs))
    free = smooth(model, y)
    assert (free.states[..., :2] - CIRCLE.centers[0]).norm(dim=-1).min() < 0.55  # the knowledge mattered
    assert (free.cost <= costs[0] + 1e-7).all()


def test_knowing_of_the_circle_beats_the_textbook_near_it(generator):
    model = tip_model(noise=0.5)
    states, y = runs_beside_the_circle(generator, 60, model)
    with torch.no_grad():
        estimates = (smooth(model, y), smooth(model, y, CIRCLE))
    squared = [(estimate.states - states)[..., :2].square().sum(-1).mean(-1) for estimate in estimates]
    textbook_rmse, ours = (s.mean().sqrt() for s in squared)
    gain = squared[0] - squared[1]
    assert ours < 0.96 * textbook_rmse
    assert gain.mean() > 3 * gain.std() / math.sqrt(len(gain))


def test_a_circle_out_of_the_way_changes_nothing(generator):
    model = tip_model()
    _, y = model.sample(2, 6, generator)
    far = Circles.from_json({"circles": [[50.0, 0.0, 1.0]]})
    assert off(smooth(model, y, far).states, smooth(model, y).states.detach()) < tolerances.TEXTBOOK
    none = Circles.from_json({"circles": []})
    assert off(smooth(model, y, none).states, smooth(model, y).states.detach()) == 0


def test_an_estimate_at_the_centre_is_led_out(generator):
    model = tip_model()
    here = Circles(START[None], torch.tensor([0.3], dtype=torch.float64))
    states = smooth(model, torch.full((2, 2), torch.nan, dtype=torch.float64), here).states
    assert (states[..., :2] - START).norm(dim=-1).min() > 0.3 - 1e-8


def test_gradient_with_circles_is_finite_and_moves_the_states(generator):
    model = tip_model(noise=0.3)
    _, y = runs_beside_the_circle(generator, 2, model)
    y[0, 3] = torch.nan
    for gradient in gradients(smooth(model, y, CIRCLE, 2).states.square().sum(), model)[1:]:
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


# --- bad input ------------------------------------------------------------------------------------------

TWO, ONE = torch.eye(2, dtype=torch.float64), torch.eye(1, dtype=torch.float64)
GOOD = {"F": TWO, "H": TWO[:1], "Q": TWO, "R": ONE, "mean": TWO[0], "P0": TWO}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("F", torch.ones(2, 3, dtype=torch.float64)),
        ("F", TWO * torch.nan),
        ("H", torch.ones(1, 3, dtype=torch.float64)),
        ("H", TWO[:0]),
        ("Q", -TWO),
        ("Q", torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=torch.float64)),
        ("R", TWO),
        ("mean", TWO),
        ("P0", 0 * TWO),
        ("B", ONE),
        ("learned", TWO),
        ("position", ONE),
    ],
)
def test_a_wrong_argument_is_named(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: expected"):
        LinearGaussianModel(**{**GOOD, name: value})


@pytest.mark.parametrize("shape", [(2,), (5, 3), (0, 2)], ids=str)
def test_measurements_of_a_wrong_shape_are_named(shape):
    with pytest.raises(ValueError, match=r"^measurements: expected shape \(\*batch, T >= 1, 2\)"):
        smooth(tip_model(), torch.zeros(shape, dtype=torch.float64))


def test_other_mistakes_are_named():
    with pytest.raises(ValueError, match=r"^measurements: expected torch\.float64"):
        smooth(tip_model(), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"^circles: expected a model with `position`"):
        smooth(LinearGaussianModel(**GOOD), torch.zeros(3, 1, dtype=torch.float64), CIRCLE)
    with pytest.raises(ValueError, match=r"^rounds: expected a positive"):
        smooth(tip_model(), torch.zeros(3, 2, dtype=torch.float64), CIRCLE, rounds=0)
    with pytest.raises(ValueError, match=r"^noise: expected a finite number > 0"):
        tip_model(noise=math.nan)
    with pytest.raises(ValueError, match=r"^measurements: expected a run of finite numbers"):
        fit_model(tip_model(), torch.full((1, 3, 2), torch.inf, dtype=torch.float64))
