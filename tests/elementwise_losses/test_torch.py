"""The elementwise losses' twins against torch."""

import inspect
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as TF

import dlkernels.torch.nn as dnn
from dlkernels.elementwise_losses import LOSSES
from dlkernels.torch import explain, functional
from dlkernels.torch.elementwise_losses import _OWN as IN_TORCH
from dlkernels.torch.elementwise_losses import TWINS
from elementwise_losses.specs import ELEMENTWISE_LOSSES
from support import (
    DTYPES as NUMPY_DTYPES,
)
from support import (
    SOME_OR_ALL,
)
from torch_support import DTYPES, HALF

FUNCTIONS = {twin.function.__name__: twin.function for twin in TWINS}
MODULES = [module.__name__ for twin in TWINS for module in twin.modules]

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a target size"),
    pytest.mark.filterwarnings("ignore:reduction. 'mean' divides"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SPECS = {spec.name: spec for spec in ELEMENTWISE_LOSSES}
EVERY = pytest.mark.parametrize("name", SPECS)
#: Those that are torch's.
SHARED = [name for name in SPECS if hasattr(TF, name)]


def theirs_of(name):
    return getattr(TF, name) if name in SHARED else IN_TORCH[name]


def call(name, function, tensors, options):
    """`function`, a twin or torch's, at the operands of a spec."""
    options = {k: v for k, v in options.items() if k not in ("weight", "pos_weight")}
    if name == "sigmoid_focal_loss":
        tensors = {"inputs" if k == "input" else "targets": v for k, v in tensors.items()}
    if "axis" in options:
        options["dim"] = options.pop("axis")
    return function(**tensors, **options)


def problem(name, options, dtype=torch.float32, shape=(5, 7)):
    """The spec's operands, of which those requires grad that can."""
    spec = SPECS[name]
    arrays = spec.arrays(np.random.default_rng(3), shape, NUMPY_DTYPES["float64"], options)
    if name == "binary_cross_entropy":  # float16 has no numbers near 1
        arrays["input"] = 0.05 + 0.9 * arrays["input"]
    return {
        key: torch.from_numpy(arrays[key])
        .to(dtype)
        .requires_grad_(key in LOSSES[name].differentiable)
        for key in spec.names(options)
    }


def gradients(name, function, tensors, options, seed=1):
    """(loss, gradient of every operand that has one) for a random gradient of the loss."""
    tensors = {k: v.detach().clone().requires_grad_(v.requires_grad) for k, v in tensors.items()}
    loss = call(name, function, tensors, options)
    generator = torch.Generator().manual_seed(seed)
    grad_output = torch.randn(loss.shape, generator=generator, dtype=torch.float64)
    leaves = [v for v in tensors.values() if v.requires_grad]
    return loss.detach(), *torch.autograd.grad(loss, leaves, grad_output.to(loss.dtype))


CASES = [
    pytest.param(name, options, id=f"{name} {options}")
    for name, spec in SPECS.items()
    for options in spec.options
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "options"), CASES)
def test_losses_and_every_gradient_agree_with_torch(name, options, dtype):
    """With torch's in float64, better than torch's of the same dtype where that rounds."""
    tensors = problem(name, options, dtype)
    exact = {k: v.detach().double().requires_grad_(v.requires_grad) for k, v in tensors.items()}
    # 0 log 0 has a gradient of NaN in torch; zeros are tested elsewhere.
    if name in ("kl_div", "poisson_nll_loss", *IN_TORCH) and name != "sigmoid_focal_loss":
        for values in (tensors, exact):
            for key in {"target", "p"} & values.keys():
                values[key] = (values[key].detach() + 0.125).requires_grad_()
    ours = gradients(name, FUNCTIONS[name], tensors, options)
    expected = gradients(name, theirs_of(name), exact, options)
    slack = {torch.float32: 2e-6, torch.float64: 1e-13}.get(dtype, torch.finfo(dtype).eps * 0.6)
    for index, (a, b) in enumerate(zip(ours, expected, strict=True)):
        assert a.dtype == dtype
        assert a.shape == b.shape
        error = (a.double() - b).abs()
        # One gradient of the loss in a half type is rounded before it comes to us.
        scale = b.abs().max() if dtype in HALF or index else b.abs()
        assert (error <= slack * (scale + b.abs().max() * 0.5) + 1e-300).all(), index


def layouts(x):
    yield x
    yield x.mT.contiguous().mT
    yield torch.full((*x.shape, 2), torch.nan, dtype=x.dtype)[..., 0].copy_(x)
    yield torch.full([s + 3 for s in x.shape], torch.nan, dtype=x.dtype)[1:-2, 1:-2].copy_(x)


@EVERY
def test_layouts(name):
    """Whatever the operands' strides: the same losses and gradients, and laid out as torch's."""
    for reduction in ("mean", "none"):
        options = {} if "axis" in SPECS[name].options[0] else {"reduction": reduction}
        tensors = problem(name, options)
        expected = gradients(name, FUNCTIONS[name], tensors, options)
        for key, value in tensors.items():
            for other in layouts(value.detach()):
                moved = {**tensors, key: other.requires_grad_(value.requires_grad)}
                results = gradients(name, FUNCTIONS[name], moved, options)
                torch.testing.assert_close(results, expected, rtol=2e-6, atol=1e-6)
    dense = problem("mse_loss", {}, shape=(2, 3, 4, 5))
    last = {
        k: v.detach().to(memory_format=torch.channels_last).requires_grad_()
        for k, v in dense.items()
    }
    loss, grad, _ = gradients("mse_loss", functional.mse_loss, last, {"reduction": "none"})
    assert loss.is_contiguous(memory_format=torch.channels_last)
    assert grad.is_contiguous(memory_format=torch.channels_last)


BROADCAST = [((1, 7), (5, 7)), ((5, 1), (5, 7)), ((5, 7), (7,)), ((5, 1), (1, 7)), ((), (5, 7)),
             ((2, 1, 7), (5, 1)), ((0, 7), (1, 7))]  # fmt: skip


@pytest.mark.parametrize(("first", "second"), BROADCAST)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize(
    "name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "kl_div", "poisson_nll_loss"]
)
def test_broadcasting(name, reduction, first, second):
    """Gradients are summed along what was broadcast."""
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "input": torch.rand(first, generator=generator).requires_grad_(),
        "target": (torch.rand(second, generator=generator) + 0.1).requires_grad_(),
    }
    results = [
        gradients(name, f, tensors, {"reduction": reduction})
        for f in (FUNCTIONS[name], theirs_of(name))
    ]
    torch.testing.assert_close(*results, rtol=3e-6, atol=1e-6, equal_nan=True)
    assert explain(FUNCTIONS[name], *tensors.values()).startswith("kernel")


@pytest.mark.parametrize("shape", [(4, 5), (5,), (1,), (4, 1), (1, 5), (2, 4, 5), (3, 5)])
@pytest.mark.parametrize("name", ["binary_cross_entropy", "binary_cross_entropy_with_logits"])
def test_weights_are_broadcast_to_the_input(name, shape):
    """And to nothing larger: (2, 4, 5) and (3, 5) are torch's error."""
    generator = torch.Generator().manual_seed(0)
    x, t = torch.rand(4, 5, generator=generator).requires_grad_(), torch.rand(4, 5)
    weight = torch.rand(shape, generator=generator) + 0.5
    extra = {"weight": weight}
    if name.endswith("logits"):
        extra["pos_weight"] = weight * 2
    outcomes = []
    for function in (FUNCTIONS[name], theirs_of(name)):
        try:
            loss = function(x, t, **extra)
            outcomes.append((loss, torch.autograd.grad(loss, x)[0]))
        except RuntimeError as error:
            outcomes.append(str(error))
    if isinstance(outcomes[1], str):
        assert outcomes[0] == outcomes[1]
    else:
        torch.testing.assert_close(*outcomes, rtol=2e-6, atol=1e-7)


@pytest.mark.parametrize(
    "shape", [(4, 3, 5), (4, 3), (4, 3, 1), (4, 1, 5), (1, 3, 5), None, (3, 5), (4, 1, 1)]
)
def test_variances(shape):
    """The shapes a variance may have, with its gradient; others are torch's error."""
    x, t = torch.randn(4, 3, 5, requires_grad=True), torch.randn(4, 3, 5)
    outcomes = []
    for function in (functional.gaussian_nll_loss, TF.gaussian_nll_loss):
        var = 0.5 if shape is None else torch.linspace(0, 2, int(np.prod(shape))).reshape(shape)
        leaves = [x] if shape is None else [x, var.requires_grad_()]
        try:
            loss = function(x, t, var, eps=0.2)
            outcomes.append((loss, *torch.autograd.grad(loss, leaves)))
        except ValueError as error:
            outcomes.append(str(error))
    if isinstance(outcomes[1], str):
        assert outcomes[0] == outcomes[1]
    else:
        torch.testing.assert_close(*outcomes, rtol=3e-6, atol=1e-6)


@EVERY
def test_gradcheck(name):
    """First and second derivatives, the second through torch."""
    for options in SPECS[name].options:
        tensors = problem(name, options, torch.float64, (3, 4))
        for key in ("target", "p", "q", "var"):  # away from 0 and from kinks
            if key in tensors:
                tensors[key] = (tensors[key].detach() * 0.8 + 0.12).requires_grad_()
        if name in ("l1_loss", "smooth_l1_loss", "huber_loss"):
            x, t = tensors["input"].detach(), tensors["target"].detach()
            for kink in (0, 0.5, 1, 2):
                x = torch.where(((x - t).abs() - kink).abs() < 0.02, x + 0.05, x)
            tensors["input"] = x.requires_grad_()
        names = list(tensors)

        def function(*values, names=names, options=options):
            return call(name, FUNCTIONS[name], dict(zip(names, values, strict=True)), options)

        values = tuple(tensors.values())
        assert torch.autograd.gradcheck(function, values, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, values, fast_mode=True)


# --- the gradient that is made in forward


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_gradient_of_the_loss_other_than_one(dtype):
    """The loss scaled, used twice, and differentiated twice over: as torch in float64, and for
    float16 a loss scale keeps small gradients."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 50, generator=generator).to(dtype).requires_grad_()
    t = torch.rand(40, 50, generator=generator).to(dtype)
    wide = x.detach().double().requires_grad_()
    loss = functional.binary_cross_entropy_with_logits(x, t)
    exact = TF.binary_cross_entropy_with_logits(wide, t.double())
    (expected,) = torch.autograd.grad(exact, wide)
    bound = torch.finfo(dtype).eps * 2 if dtype is not torch.float32 else 1e-6
    for scale in (1.0, 1024.0, -0.5, 1.0):
        (grad,) = torch.autograd.grad(loss * scale, x, retain_graph=True)
        error = (grad.double() - scale * expected).abs().max() / (scale * expected).abs().max()
        assert error <= bound
    if dtype is torch.float16:  # 1 / 2000 of a gradient below 1e-4 is no normal number
        small = expected.abs() < 2e-6
        (grad,) = torch.autograd.grad(loss * 65536.0 / 4, x)
        relative = (grad.double() / (65536 / 4 * expected) - 1).abs()
        assert small.any()
        assert relative[small & (expected != 0)].max() < 1e-2


def test_the_gradient_belongs_to_whoever_receives_it():
    """A second backward makes it again; writing to the first leaves it alone."""
    x, t = torch.randn(30, requires_grad=True), torch.randn(30)
    loss = functional.mse_loss(x, t)
    (first,) = torch.autograd.grad(loss, x, retain_graph=True)
    kept = first.clone()
    first.zero_()
    (second,) = torch.autograd.grad(loss, x)
    assert torch.equal(second, kept)


def test_an_operand_written_to_after_forward():
    """Scaling what forward made is right where the operands are gone; without it, torch's error."""
    x, t = torch.randn(30, requires_grad=True), torch.randn(30)
    expected = 3 * 2 / 30 * (x.detach() - t)
    loss = functional.mse_loss(x, t) * 3
    t.zero_()
    torch.testing.assert_close(torch.autograd.grad(loss, x)[0], expected)
    each = functional.mse_loss(x, t, reduction="none")
    t.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        each.sum().backward()


def test_an_expanded_gradient_of_each_loss():
    x, t = torch.randn(4, 6, requires_grad=True), torch.randn(4, 6)
    functional.mse_loss(x, t, reduction="none").sum().backward()
    torch.testing.assert_close(x.grad, 2 * (x.detach() - t))


# --- half types


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", ["mse_loss", "binary_cross_entropy_with_logits", "kl_div"])
def test_means_of_half_types_are_rounded_once(name, dtype):
    """torch rounds every loss, and for some the sum of them: 70000 float16 ones are infinite."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(70_000, generator=generator).to(dtype)
    t = torch.rand(70_000, generator=generator).to(dtype)
    exact = getattr(TF, name)(x.double(), t.double())
    ours, theirs = getattr(functional, name)(x, t), getattr(TF, name)(x, t)
    spacing = torch.finfo(dtype).eps * 2.0 ** torch.floor(torch.log2(exact.abs()))
    assert (ours.double() - exact).abs() <= spacing * 0.51
    their_error = (theirs.double() - exact).abs()
    assert not (their_error < (ours.double() - exact).abs() * 0.999)
    constant = torch.full((70_000,), 2.0, dtype=dtype)
    assert functional.mse_loss(constant, constant - 1) == 1


# --- what torch says


def outcome(function, *args, **kwargs):
    """(exception type and text, or value), and what it warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = function(*args, **kwargs)
        except Exception as error:
            result = (type(error), str(error))
    return result, [(w.category, str(w.message), w.filename) for w in caught]


X, T = torch.rand(3, 4), torch.rand(3, 4)
WRONG = [
    ("mse_loss", (X, torch.rand(3, 5)), {}),
    ("mse_loss", (X, T), {"reduction": "batchmean"}),
    ("mse_loss", (X, T), {"reduction": "batchmean", "weight": T}),
    ("mse_loss", (X, T), {"weight": T[:1]}),
    ("mse_loss", (X.long(), T.long()), {}),
    ("mse_loss", (X, T[:, :1]), {}),
    ("mse_loss", (X, T), {"size_average": False}),
    ("l1_loss", (X, T), {"reduce": False}),
    ("l1_loss", (X, T), {"weight": T[0]}),
    ("l1_loss", (X, 1.0), {}),
    ("smooth_l1_loss", (X, T), {"beta": -1.0}),
    ("smooth_l1_loss", (X, T[:1]), {"beta": 0.0}),
    ("huber_loss", (X, T), {"delta": 0.0}),
    ("huber_loss", (X, T), {"delta": -1.0}),
    ("huber_loss", (X, T.double()), {}),
    ("kl_div", (X, T), {}),
    ("kl_div", (X, T), {"reduction": "batchmean"}),
    ("kl_div", (X, T), {"reduction": "nothing"}),
    ("kl_div", (X[0, 0], T[0, 0]), {"reduction": "batchmean"}),
    ("kl_div", (X, T), {"size_average": True}),
    ("kl_div", (X, T), {"size_average": False, "reduction": "batchmean"}),
    ("binary_cross_entropy", (X + 1, T), {}),
    ("binary_cross_entropy", (X, T - 1), {}),
    ("binary_cross_entropy", (X * torch.nan, T), {}),
    ("binary_cross_entropy", (X, T[:1]), {}),
    ("binary_cross_entropy", (X, T.double()), {}),
    ("binary_cross_entropy", (X, T), {"weight": torch.ones(4).requires_grad_()}),
    ("binary_cross_entropy_with_logits", (X, T[0]), {}),
    ("binary_cross_entropy_with_logits", (X, T.long()), {}),
    ("binary_cross_entropy_with_logits", (X, T), {"pos_weight": torch.ones(4).requires_grad_()}),
    ("gaussian_nll_loss", (X, T, -1.0), {}),
    ("gaussian_nll_loss", (X, T, T - 1), {}),
    ("gaussian_nll_loss", (X, T, T[:2]), {}),
    ("gaussian_nll_loss", (X, T, 1), {}),
    ("gaussian_nll_loss", (X, T, None), {}),
    ("gaussian_nll_loss", (X, T, T), {"reduction": "average"}),
    ("poisson_nll_loss", (X, T), {"reduction": "average"}),
    ("poisson_nll_loss", (X, torch.rand(7)), {}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "args", "kwargs"), WRONG, ids=[f"{i} {case[0]}" for i, case in enumerate(WRONG)]
)
def test_errors_and_warnings_are_those_of_torch(name, args, kwargs):
    (ours, our_warnings), (theirs, their_warnings) = (
        outcome(function, *args, **kwargs) for function in (FUNCTIONS[name], getattr(TF, name))
    )
    # Where the line is ours to name, it is the caller's.
    assert [w[:2] for w in our_warnings] == [w[:2] for w in their_warnings]
    if not isinstance(theirs, torch.Tensor):
        assert ours == theirs
        return
    assert ours.dtype == theirs.dtype
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-6)


def test_warnings_name_the_line_of_the_caller():
    for name in ("mse_loss", "kl_div"):
        _, ((_, _, filename),) = outcome(FUNCTIONS[name], X, T[:1] if name == "mse_loss" else T)
        assert filename == __file__


@pytest.mark.parametrize("name", SHARED)
def test_signatures_are_those_of_torch(name):
    assert inspect.signature(FUNCTIONS[name]) == inspect.signature(getattr(TF, name), eval_str=True)


def test_focal_loss_refuses_what_torchvision_refuses():
    for kwargs, message in [
        ({"alpha": 1.5}, r"Invalid alpha value: 1.5. alpha must be in the range \[0,1\]"),
        ({"reduction": "average"}, "Invalid Value for arg 'reduction': 'average"),
    ]:
        with pytest.raises(ValueError, match=message):
            functional.sigmoid_focal_loss(X, T, **kwargs)
    with pytest.raises(ValueError, match="must be the same as input size"):
        functional.sigmoid_focal_loss(X, T[:1])
    for function in (functional.entropy, IN_TORCH["entropy"]):
        with pytest.raises(ValueError, match="base: expected above 0 and not 1"):
            function(X, base=1)
        with pytest.raises(IndexError, match="Dimension out of range"):
            function(X, 2)


def test_infinite_logits_give_the_limit():
    """Where torch gives NaN: the loss, its gradient (the sigmoid less the target), compiled too."""
    x = torch.tensor([torch.inf, torch.inf, -torch.inf, -torch.inf], requires_grad=True)
    t = torch.tensor([1.0, 0.0, 0.0, 1.0])
    for function in (
        functional.binary_cross_entropy_with_logits,
        torch.compile(functional.binary_cross_entropy_with_logits, fullgraph=True),
    ):
        for reduction in ("none", "sum"):
            loss = function(x, t, reduction=reduction)
            (grad,) = torch.autograd.grad(loss.sum(), x)
            assert grad.tolist() == [0, 1, 0, -1]
        assert function(x, t, reduction="none").tolist() == [0, torch.inf, 0, torch.inf]
    theirs = TF.binary_cross_entropy_with_logits(x, t, reduction="none")
    assert theirs.isnan().tolist() == [True, False, True, True]
    torch._dynamo.reset()


def test_zero_targets():
    """0 log 0 is 0; its derivative is the limit, where torch has NaN (kl_div) or makes one
    (Stirling's term)."""
    t = torch.tensor([0.0, 0.5], requires_grad=True)
    loss = functional.kl_div(torch.tensor([-1.0, -1.0]), t, reduction="sum")
    (grad,) = torch.autograd.grad(loss, t)
    assert grad[0] == -torch.inf
    assert TF.kl_div(torch.zeros(2), t, reduction="none")[0] == 0
    loss = functional.poisson_nll_loss(torch.ones(2), t, full=True, reduction="sum")
    assert torch.autograd.grad(loss, t)[0].tolist() == [-1, -1]


@pytest.mark.parametrize("name", [n for n in SHARED if n != "gaussian_nll_loss"])
def test_autocast(name):
    """float32 losses of half operands, as torch's."""
    tensors = {k: v.detach().bfloat16() for k, v in problem(name, {}).items()}
    with torch.autocast("cpu", torch.bfloat16):
        ours, theirs = (call(name, f, tensors, {}) for f in (FUNCTIONS[name], theirs_of(name)))
        mixed = {**tensors, "input": tensors["input"].float()}
        assert call(name, FUNCTIONS[name], mixed, {}).dtype == torch.float32
        if name in ("mse_loss", "huber_loss"):
            weighted = {**tensors, "weight": tensors["target"]}
            results = [call(name, f, weighted, {}) for f in (FUNCTIONS[name], theirs_of(name))]
            assert results[0].dtype == results[1].dtype
    assert ours.dtype == theirs.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-6)


def test_explain():
    assert explain(functional.mse_loss, X, T) == "kernel: called directly"
    assert explain(functional.gaussian_nll_loss, X, T, 1.0).startswith("kernel")
    assert explain(functional.sigmoid_focal_loss, X, T).startswith("kernel")
    assert explain(functional.entropy, X).startswith("kernel")
    for arguments in [(X, T.double()), (X.long(), T), (X.to("meta"), T.to("meta"))]:
        assert explain(functional.mse_loss, *arguments).startswith("torch")
    assert explain(functional.huber_loss, X, T, delta=-1.0).startswith("torch")
    weight = torch.ones(4, requires_grad=True)
    assert explain(functional.binary_cross_entropy, X, T, weight).startswith("torch")


# --- modules, operators, torch.compile, transforms


@pytest.mark.parametrize("kind", MODULES)
def test_modules_are_torchs(kind):
    ours, theirs = getattr(dnn, kind)(), getattr(torch.nn, kind)()
    assert isinstance(ours, type(theirs))
    assert repr(ours) == repr(theirs)
    extra = (T + 1,) if kind == "GaussianNLLLoss" else ()
    torch.testing.assert_close(ours(X, T, *extra), theirs(X, T, *extra))


def test_modules_hand_their_settings_on():
    weight = torch.rand(4) + 0.5
    for kind, settings in [
        ("SmoothL1Loss", {"beta": 0.1, "reduction": "sum"}),
        ("HuberLoss", {"delta": 0.1}),
        ("KLDivLoss", {"log_target": True, "reduction": "batchmean"}),
        ("BCELoss", {"weight": weight}),
        ("BCEWithLogitsLoss", {"weight": weight, "pos_weight": weight * 2, "reduction": "none"}),
        ("PoissonNLLLoss", {"log_input": False, "full": True, "eps": 0.5}),
        ("GaussianNLLLoss", {"full": True, "eps": 0.7, "reduction": "none"}),
    ]:
        extra = (T,) if kind == "GaussianNLLLoss" else ()
        ours, theirs = (getattr(n, kind)(**settings) for n in (dnn, torch.nn))
        torch.testing.assert_close(ours(X, T, *extra), theirs(X, T, *extra), msg=kind)
        assert ours.state_dict().keys() == theirs.state_dict().keys()


@pytest.mark.sampled(3)
@SOME_OR_ALL
@EVERY
def test_operators(name, some):
    for options in some(SPECS[name].options[-2:], 2):
        tensors = problem(name, options)
        row = LOSSES[name]
        named = ("reduction", "weight", "pos_weight", "axis")
        given = {k: v for k, v in options.items() if k not in named}
        defaults = {p.name: eval(p.default) for p in row.parameters}
        numbers = row.numbers(**{**defaults, **given})
        reduction = options.get("reduction", row.reduction or "none")
        operands = [tensors.get(n) for n in (*row.inputs, *(o.name for o in row.operands))]
        operands += [None] * (4 - len(operands))
        arguments = (*operands, *numbers, reduction, options.get("axis"))
        torch.library.opcheck(torch.ops.dlkernels.elementwise_loss, arguments)
        loss = torch.ops.dlkernels.elementwise_loss(*arguments)
        backward = (torch.randn_like(loss), *arguments, 0)
        torch.library.opcheck(torch.ops.dlkernels.elementwise_loss_backward, backward)


def test_every_twin_compiles_in_one_graph():
    def every(x, t, var):
        total = functional.gaussian_nll_loss(x, t, var) + functional.gaussian_nll_loss(x, t, 2.0)
        for name in SHARED:
            if name != "gaussian_nll_loss":
                total = total + getattr(functional, name)(x, t)
                total = total + getattr(functional, name)(x, t, reduction="none").square().mean()
        total = total + functional.mse_loss(x, t[:1]) + functional.huber_loss(x, t, weight=var)
        total = total + functional.sigmoid_focal_loss(x, t).sum() + functional.entropy(x, 0).sum()
        return total + functional.kl_divergence(x, t, base=2).sum()

    compiled = torch.compile(every, fullgraph=True, dynamic=True)
    for rows in (3, 5):
        leaves = [(torch.rand(rows, 4) * 0.9 + 0.05).requires_grad_() for _ in range(3)]
        results = []
        for function in (every, compiled):
            loss = function(*leaves)
            results.append((loss.detach(), *torch.autograd.grad(loss, leaves)))
        torch.testing.assert_close(*results, rtol=3e-6, atol=3e-6)
    torch._dynamo.reset()


@EVERY
def test_transforms_and_batches_of_gradients_take_torchs_way(name):
    tensors = problem(name, {})
    first = next(iter(tensors))

    def function(x):
        return call(name, FUNCTIONS[name], {**tensors, first: x}, {}).sum()

    x = tensors[first]
    (expected,) = torch.autograd.grad(function(x), x)
    torch.testing.assert_close(torch.func.grad(function)(x.detach()), expected)
    loss = call(name, FUNCTIONS[name], tensors, {}).sum()
    batch = torch.autograd.grad(loss, x, torch.tensor([1.0, 2.0]), is_grads_batched=True)[0]
    torch.testing.assert_close(batch, torch.stack([expected, 2 * expected]))


def test_no_grad_and_inference_mode():
    x = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        assert not functional.mse_loss(x, T[0, :3]).requires_grad
    with torch.inference_mode():
        assert functional.mse_loss(x, T[0, :3]).is_inference()
