"""Every operator is the same in torch's operations: values, dtypes and layouts, and no operator of
ours is left in a graph that was taken apart.
"""

import math

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import dlkernels.torch as dlt
from dlkernels.torch import _bits, _operator, decompositions
from operators import NAMES, OPS, SAMPLES, Draw

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def _tuple(results):
    return (results,) if isinstance(results, torch.Tensor) else results or ()


def _copies(arguments):
    """The same in memory of its own, for what is written to."""
    return [
        a.clone(memory_format=torch.preserve_format) if isinstance(a, torch.Tensor) else a
        for a in arguments
    ]


def _unpacked(name, arguments, results):
    """Results whose bits beyond the end do not count, as what they stand for."""
    output, *others = results
    if name == "maxout":
        others = [OPS.maxout_backward(torch.ones_like(output), *others, *arguments[1:])]
    return output, *(
        _bits.unpacked(r, output.shape, output.stride())
        if r.dtype is torch.uint8 and r.numel()
        else r
        for r in others
    )


def _assert_close(name, dtype, got, expected):
    assert (got.shape, got.dtype, got.stride()) == (
        expected.shape,
        expected.dtype,
        expected.stride(),
    )
    if not got.is_floating_point():
        assert torch.equal(got, expected)
        return
    largest = float(expected.nan_to_num().abs().max()) if got.numel() else 0.0
    bound = TOLERANCE[dtype] * max(1.0, largest)
    torch.testing.assert_close(got, expected, rtol=0, atol=bound, equal_nan=True)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_values_and_layouts(name):
    operator = getattr(OPS, name).default
    decomposition = decompositions()[operator]
    for seed in range(12):
        arguments = SAMPLES[name](Draw(f"{name} decomposed {seed}"))
        at = arguments[0]
        if name.startswith(("cross", "nll", "batch")) and not at.numel():
            continue  # torch has errors for them, or NaN
        if name == "activation_":
            ours, theirs = _copies(arguments), _copies(arguments)
            operator(*ours), decomposition(*theirs)
            _assert_close(name, at.dtype, theirs[0], ours[0])
            continue
        with torch.no_grad():
            expected = _tuple(operator(*arguments))
            got = _tuple(decomposition(*arguments))
        got, expected = (_unpacked(name, arguments, results) for results in (got, expected))
        assert len(got) == len(expected)
        for a, b in zip(got, expected, strict=True):
            _assert_close(name, at.dtype if at.is_floating_point() else a.dtype, a, b)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NAMES)
def test_nothing_of_ours_is_left(name):
    """In a graph made with the table; gradients are differentiated below autograd's level."""
    operator = getattr(OPS, name).default
    arguments = SAMPLES[name](Draw(f"{name} traced"))
    tensors = [a for a in arguments if isinstance(a, torch.Tensor)]

    def call(*at):
        at = iter(at)
        results = operator(*(next(at) if isinstance(a, torch.Tensor) else a for a in arguments))
        return _tuple(results)

    with torch.no_grad():
        graph = make_fx(call, decomposition_table=_operator._DECOMPOSITIONS, tracing_mode="fake")(
            *tensors
        )
        targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
        assert targets or not math.prod(tensors[0].shape)
        assert not [target for target in targets if "dlkernels" in target]


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        nn = dlt.nn
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True),
            torch.nn.Conv2d(8, 8, 3), nn.BatchNormAct2d(8), nn.GELU(), nn.Dropout(0.3),
            torch.nn.Flatten(), torch.nn.Linear(8 * 16, 12), nn.SiLU(), nn.GLU(), nn.PReLU(),
            nn.Maxout(2), nn.LogSoftmax(1),
        )  # fmt: skip

    def forward(self, x):
        return dlt.functional.softmax(self.layers(x), 1)


def _net():
    torch.manual_seed(0)
    net = Net().eval()
    return net, (torch.randn(2, 3, 8, 8),)


def _names(program):
    return [str(node.target) for node in program.graph.nodes if node.op == "call_function"]


@pytest.mark.filterwarnings("ignore")
def test_exported_programs_are_taken_apart():
    net, x = _net()
    program = torch.export.export(net, x)
    assert any("dlkernels" in name for name in _names(program))
    apart = program.run_decompositions(dlt.decompositions())
    assert not [name for name in _names(apart) if "dlkernels" in name]
    torch.testing.assert_close(apart.module()(*x), net(*x))


@pytest.mark.filterwarnings("ignore")
def test_training_is_taken_apart():
    """With the masks of dropout, drawn by the same generator in torch's operations."""
    net = torch.nn.Sequential(dlt.nn.BatchNorm1d(5), dlt.nn.Dropout(0.5), dlt.nn.ReLU())
    x = (torch.randn(64, 5),)
    program = torch.export.export(net, x).run_decompositions(dlt.decompositions())
    assert not [name for name in _names(program) if "dlkernels" in name]


@pytest.mark.filterwarnings("ignore")
def test_onnx():
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    net, x = _net()
    program = torch.onnx.export(net, x, dynamo=True, verbose=False)
    model = program.model_proto
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} <= {"", "pkg.onnxscript.torch_lib"}
    from onnx.reference import ReferenceEvaluator

    (got,) = ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x[0].numpy()})
    torch.testing.assert_close(torch.tensor(got), net(*x), rtol=1e-4, atol=1e-5)
