"""Figures worked out by hand, from a text that teaches these operations."""

from __future__ import annotations

import numpy as np
import pytest

import dlkernels
from activations.specs import ACTIVATIONS

DTYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@DTYPES
def test_softmax(dtype: type, isa: str) -> None:
    x = np.array([[3, 7, 4], [3, 5, 8]], dtype)
    expected = [[0.0171, 0.9362, 0.0466], [0.0064, 0.0471, 0.9465]]
    np.testing.assert_allclose(dlkernels.softmax(x), expected, atol=5e-5)
    np.testing.assert_allclose(dlkernels.softmax(x.T.copy(), axis=0).T, expected, atol=5e-5)
    np.testing.assert_allclose(np.exp(dlkernels.log_softmax(x)), expected, atol=5e-5)


LOG_PROBABILITIES = [
    [-3.1498, -1.7311, -0.9935, -2.9399, -1.0303],
    [-2.4030, -1.2345, -1.9903, -1.0578, -2.0046],
    [-0.6991, -1.8396, -2.3656, -2.2445, -1.9366],
]


@DTYPES
def test_cross_entropy(dtype: type, isa: str) -> None:
    """(1.7311 + 2.4030 + 1.9366) / 3; log-probabilities are logits as well."""
    logp, target = np.array(LOG_PROBABILITIES, dtype), np.array([1, 0, 4])
    np.testing.assert_allclose(dlkernels.nll_loss(logp, target), 2.0236, atol=5e-5)
    np.testing.assert_allclose(dlkernels.cross_entropy(logp, target), 2.0236, atol=1e-4)
    np.testing.assert_allclose(
        dlkernels.nll_loss(logp, target, reduction="none"), [1.7311, 2.4030, 1.9366], atol=5e-5
    )


@DTYPES
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradient_of_nll_loss(reduction: str, dtype: type, isa: str) -> None:
    """Minus the weight at each target, as a part of all weights under "mean"; elsewhere 0."""
    logp, target = np.array(LOG_PROBABILITIES, dtype), np.array([1, 0, -100])
    weight = np.array([0.5, 1.5, 1, 1, 1], dtype)
    loss, grad = dlkernels.nll_loss_with_grad(logp, target, weight=weight, reduction=reduction)
    expected = np.zeros((3, 5))
    expected[0, 1], expected[1, 0] = -1.5, -0.5
    np.testing.assert_allclose(grad, expected / (2 if reduction == "mean" else 1), rtol=1e-6)
    alone = dlkernels.nll_loss(logp, target, weight=weight, reduction=reduction)
    np.testing.assert_array_equal(loss, alone)


@DTYPES
def test_cross_entropy_is_log_softmax_then_nll_loss(dtype: type, isa: str) -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.standard_normal((8, 20)).astype(dtype), rng.integers(0, 20, 8)
    for reduction in ("mean", "sum", "none"):
        np.testing.assert_allclose(
            dlkernels.cross_entropy(logits, target, reduction=reduction),
            dlkernels.nll_loss(dlkernels.log_softmax(logits), target, reduction=reduction),
            rtol=1e-6,
        )


@DTYPES
@pytest.mark.parametrize(
    ("q", "expected"), [([0.4, 0.3, 0.05, 0.05, 0.2], 0.916), ([0.98, 0.01, 0, 0, 0.01], 0.02)]
)
def test_cross_entropy_of_distributions(
    q: list[float], expected: float, dtype: type, isa: str
) -> None:
    """Against the certain first class; a class that is impossible in both adds nothing."""
    with np.errstate(divide="ignore"):
        logits = np.log(np.array([q], dtype))
    np.testing.assert_allclose(dlkernels.cross_entropy(logits, [0]), expected, atol=5e-4)
    p = np.array([1, 0, 0, 0, 0], dtype)
    found = dlkernels.cross_entropy_of_distributions(p, np.array(q, dtype))
    np.testing.assert_allclose(found, expected, atol=5e-4)
    np.testing.assert_allclose(dlkernels.kl_divergence(p, np.array(q, dtype)), found, rtol=1e-6)
    assert dlkernels.entropy(p) == 0


@DTYPES
def test_cross_entropy_is_entropy_and_divergence(dtype: type, isa: str) -> None:
    """H(p, q) = H(p) + KL(p || q), in bits too; a fair coin has one."""
    rng = np.random.default_rng(0)
    p, q = (x / x.sum(axis=1, keepdims=True) for x in rng.random((2, 6, 9)).astype(dtype))
    for base in (None, 2, 10):
        cross = dlkernels.cross_entropy_of_distributions(p, q, base=base)
        parts = dlkernels.entropy(p, base=base) + dlkernels.kl_divergence(p, q, base=base)
        np.testing.assert_allclose(cross, parts, rtol=2e-6)
        for_columns = dlkernels.entropy(p.T.copy(), axis=0, base=base)
        np.testing.assert_allclose(for_columns, dlkernels.entropy(p, base=base), rtol=1e-6)
    assert dlkernels.entropy(np.array([0.5, 0.5], dtype), base=2) == 1
    assert dlkernels.entropy(np.array([0.25] * 4, dtype), base=2) == 2


@DTYPES
def test_binary_cross_entropy(dtype: type, isa: str) -> None:
    """-(y log p + (1 - y) log(1 - p)), which is the cross-entropy of (1 - y, y) and (1 - p, p)."""
    y, p = np.array([1, 0, 0.25], dtype), np.array([0.9, 0.2, 0.5], dtype)
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    found = dlkernels.binary_cross_entropy(p, y, reduction="none")
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    pair = dlkernels.cross_entropy_of_distributions(np.stack([1 - y, y]), np.stack([1 - p, p]), 0)
    np.testing.assert_allclose(found, pair, rtol=1e-6)
    logits = np.log(p / (1 - p))
    with_logits = dlkernels.binary_cross_entropy_with_logits(logits, y, reduction="none")
    np.testing.assert_allclose(found, with_logits, rtol=2e-6)


@DTYPES
def test_mean_squared_error(dtype: type, isa: str) -> None:
    x, y = np.array([1, 2, 4], dtype), np.array([1, 4, 1], dtype)
    loss, grad = dlkernels.mse_loss_with_grad(x, y)
    assert float(loss) == pytest.approx((0 + 4 + 9) / 3)
    np.testing.assert_allclose(grad, [0, -4 / 3, 2], rtol=1e-6)


@DTYPES
def test_gradient_of_cross_entropy_is_softmax_minus_one_hot(dtype: type, isa: str) -> None:
    logits = np.array([[3, 7, 4]], dtype)
    _, grad = dlkernels.cross_entropy_with_grad(logits, np.array([1]))
    np.testing.assert_allclose(grad, [[0.0171, 0.9362 - 1, 0.0466]], atol=5e-5)


@DTYPES
def test_sgd(dtype: type, isa: str) -> None:
    """w <- w - eta * gradient."""
    w = np.array([1.0, -2.0, 0.5], dtype)
    dlkernels.optim.SGD([w], lr=0.1).step([np.array([0.5, -1.0, 2.0], dtype)])
    np.testing.assert_allclose(w, [0.95, -1.9, 0.3], rtol=1e-6)


@DTYPES
def test_momentum(dtype: type, isa: str) -> None:
    """v <- gamma * v + gradient, w <- w - eta * v with gamma = 0.9: while eta does not change, the
    same as with eta inside v."""
    eta, gamma = 0.1, 0.9
    w = np.array([1.0], dtype)
    optimizer = dlkernels.optim.SGD([w], lr=eta, momentum=gamma)
    v, expected = 0.0, 1.0
    for gradient in (2.0, 1.0, -1.0, 0.5):
        optimizer.step([np.array([gradient], dtype)])
        v = gamma * v + eta * gradient
        expected -= v
        np.testing.assert_allclose(w, [expected], rtol=1e-6)


@DTYPES
def test_relu(dtype: type, isa: str) -> None:
    x = np.array([-3.0, -0.5, 0.0, 0.5, 3.0], dtype)
    assert dlkernels.relu(x).tolist() == [0, 0, 0, 0.5, 3]
    assert dlkernels.relu_backward(np.ones(5, dtype), x).tolist() == [0, 0, 0, 1, 1]


@DTYPES
def test_curves_and_their_derivatives(dtype: type, isa: str) -> None:
    """sigma (1 - sigma); 1 - tanh^2 = 4 / (e^x + e^-x)^2; 0.01 or 1; alpha (e^x - 1) below 0."""
    x = np.array([-3.0, -0.5, 0.0, 0.5, 3.0], dtype)
    one, exp = np.ones(5, dtype), np.exp(x.astype(np.float64))
    close = {"rtol": 1e-6, "atol": 3e-7}
    sigma = 1 / (1 + 1 / exp)
    y = dlkernels.sigmoid(x)
    np.testing.assert_allclose(y, sigma, **close)
    np.testing.assert_allclose(dlkernels.sigmoid_backward(one, y), sigma * (1 - sigma), **close)
    y = dlkernels.tanh(x)
    np.testing.assert_allclose(y, (exp - 1 / exp) / (exp + 1 / exp), **close)
    slope = 4 / (exp + 1 / exp) ** 2
    np.testing.assert_allclose(dlkernels.tanh_backward(one, y), slope, **close)
    np.testing.assert_allclose(dlkernels.leaky_relu(x), [-0.03, -0.005, 0, 0.5, 3], **close)
    slope = [0.01, 0.01, 0.01, 1, 1]
    np.testing.assert_allclose(dlkernels.leaky_relu_backward(one, x), slope, **close)
    np.testing.assert_allclose(dlkernels.elu(x, 1.5), np.where(x > 0, x, 1.5 * (exp - 1)), **close)


@DTYPES
def test_a_leaky_slope_is_learned(dtype: type, isa: str) -> None:
    """PReLU by backpropagation: the slope that made the data is found again."""
    x = np.linspace(-2, 2, 41).astype(dtype)
    wanted, slope = dlkernels.leaky_relu(x, 0.3), np.array([0.01], dtype)
    for _ in range(200):
        error = dlkernels.prelu(x, slope) - wanted
        _, grad = dlkernels.prelu_backward(2 * error / x.size, x, slope)
        slope = slope - dtype(0.2) * grad
    np.testing.assert_allclose(slope, [0.3], rtol=1e-4)


@DTYPES
def test_maxout(dtype: type, isa: str) -> None:
    """The largest of two lines: |x| out of x and -x, and the gradient goes to the one on top."""
    x = np.array([[-2.0], [0.5]], dtype)
    lines = x @ np.array([[1.0, -1.0]], dtype)
    y, index = dlkernels.maxout(lines, 2, return_index=True)
    assert y.tolist() == [[2.0], [0.5]]
    grad = dlkernels.maxout_backward(np.array([[3.0], [5.0]], dtype), index, 2)
    assert grad.tolist() == [[0.0, 3.0], [5.0, 0.0]]


def test_gradients_are_differences(isa: str) -> None:
    """Every backward against central differences of its forward."""
    rng = np.random.default_rng(1)
    step = 1e-6
    logits, target = rng.standard_normal((3, 5)), np.array([4, 0, 2])
    weight = rng.uniform(0.5, 1.5, 5)
    settings = {"weight": weight, "label_smoothing": 0.1, "z_loss": 0.01, "softcap": 3.0}

    def differences(function: object) -> np.ndarray:
        grad = np.empty_like(logits)
        for at in np.ndindex(*logits.shape):
            moved = [logits.copy() for _ in range(2)]
            moved[0][at] += step
            moved[1][at] -= step
            grad[at] = (function(moved[0]) - function(moved[1])) / (2 * step)  # type: ignore[operator]
        return grad

    g = rng.standard_normal((3, 5))
    pairs = [
        (
            lambda x: dlkernels.cross_entropy(x, target, **settings),
            dlkernels.cross_entropy_with_grad(logits, target, **settings)[1],
        ),
        (
            lambda x: (g * dlkernels.softmax(x)).sum(),
            dlkernels.softmax_backward(g, dlkernels.softmax(logits)),
        ),
        (
            lambda x: (g * dlkernels.log_softmax(x, 0)).sum(),
            dlkernels.log_softmax_backward(g, dlkernels.log_softmax(logits, 0), 0),
        ),
        (
            lambda x: dlkernels.nll_loss(x, target, weight=weight),
            dlkernels.nll_loss_backward(1.0, logits, target, weight=weight),
        ),
    ]
    for activation in ACTIVATIONS:
        function, backward = (
            getattr(dlkernels, activation.name + suffix) for suffix in ("", "_backward")
        )
        for options in activation.options:
            saves_output = activation.row.saves == "output"
            saved = function(logits, **options) if saves_output else logits
            pairs.append(
                (
                    lambda x, function=function, options=options: (
                        g * function(x, **options)
                    ).sum(),
                    backward(g, saved, **options),
                )
            )
    slopes = np.array([0.25, -0.5, 1.5, 0.1, 0.7])
    g_half, g_fifth = rng.standard_normal((3, 5)), rng.standard_normal((3, 1))
    wide = rng.standard_normal((3, 5))
    _, winners = dlkernels.maxout(logits, 5, return_index=True)
    pairs += [
        (
            lambda x: (g * dlkernels.prelu(x, slopes)).sum(),
            dlkernels.prelu_backward(g, logits, slopes)[0],
        ),
        (
            lambda x: (g_half * dlkernels.glu(np.concatenate([x, wide], axis=1))).sum(),
            dlkernels.glu_backward(g_half, np.concatenate([logits, wide], axis=1))[:, :5],
        ),
        (
            lambda x: (g * dlkernels.swiglu(x, wide)).sum(),
            dlkernels.swiglu_backward(g, logits, wide)[0],
        ),
        (
            lambda x: (g_fifth * dlkernels.maxout(x, 5)).sum(),
            dlkernels.maxout_backward(g_fifth, winners, 5),
        ),
    ]
    for forward, grad in pairs:
        np.testing.assert_allclose(grad, differences(forward), atol=1e-8)
