"""The twins under torch.compile, export, modes, subclasses and transforms."""

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as TF
from torch.overrides import TorchFunctionMode

import dlkernels
import dlkernels.torch.nn as dnn
from activations.specs import ACTIVATIONS as SPECS
from dlkernels.activations import ACTIVATIONS
from dlkernels.torch import explain, functional
from dlkernels.torch.functional import cross_entropy, log_softmax, nll_loss, relu, relu_, softmax
from dlkernels.torch.optim import SGD
from support import SOME_OR_ALL
from torch_support import DispatchLog

pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    # torch's own, from inside its compiler
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

OPS = torch.ops.dlkernels


def every_twin(x, target, weight):
    """A scalar out of every twin there is, relu in place among them."""
    hidden = relu_(relu(x * 2) - 0.5)
    hidden = relu(hidden + x, inplace=True)
    return (
        cross_entropy(hidden, target, weight, label_smoothing=0.1, z_loss=0.01, softcap=20.0)
        + cross_entropy(hidden, target, reduction="none").square().sum()
        + cross_entropy(hidden, softmax(x, 1).detach())
        + nll_loss(log_softmax(hidden, 1), target, weight, reduction="sum")
        + (softmax(hidden, 0) * x).sum()
        + relu(x.detach()).sum()
    )


def arguments(rows=6, classes=5):
    generator = torch.Generator().manual_seed(rows)
    return (
        torch.randn(rows, classes, generator=generator),
        torch.randint(0, classes, (rows,), generator=generator),
        torch.rand(classes, generator=generator) + 0.5,
    )


def loss_and_grad(function, x, *others):
    leaf = x.clone().requires_grad_()
    loss = function(leaf, *others)
    return loss.detach(), torch.autograd.grad(loss, leaf)[0]


def test_every_twin_compiles_in_one_graph():
    compiled = torch.compile(every_twin, fullgraph=True, dynamic=True)
    for rows in (6, 9, 17):
        x, target, weight = arguments(rows)
        expected = loss_and_grad(every_twin, x, target, weight)
        result = loss_and_grad(compiled, x, target, weight)
        torch.testing.assert_close(result, expected, rtol=2e-6, atol=2e-6)
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, target, weight), every_twin(x, target, weight))


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Conv2d(1, 4, 3)
        self.second = torch.nn.Linear(4, 3)
        self.relu = dnn.ReLU(inplace=True)
        self.loss = dnn.CrossEntropyLoss(label_smoothing=0.1)

    def forward(self, x, target):
        hidden = self.relu(self.first(x))
        return self.loss(self.second(hidden.mean((2, 3))), target)


def test_a_compiled_training_loop_follows_the_eager_one():
    x = torch.randn(8, 1, 6, 6).contiguous(memory_format=torch.channels_last)
    target = torch.arange(8) % 3
    curves = []
    for compiles in (False, True):
        torch.manual_seed(0)
        model = Network().to(memory_format=torch.channels_last)
        optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9)

        run = torch.compile(model, fullgraph=True) if compiles else model
        curve = []
        for _ in range(4):
            optimizer.zero_grad()
            loss = run(x, target)
            loss.backward()
            optimizer.step()
            curve.append(loss.item())
        curves.append(curve)
    torch.testing.assert_close(curves[0], curves[1], rtol=1e-5, atol=1e-6)
    assert curves[0][-1] < curves[0][0]


def test_an_optimizer_step_inside_a_compiled_function_breaks_the_graph_only():
    results = []
    for compiles in (False, True):
        param = torch.nn.Parameter(torch.linspace(-1, 1, 40))
        optimizer = SGD([param], lr=0.1, momentum=0.9)

        def step(param=param, optimizer=optimizer):
            optimizer.zero_grad()
            relu(param).square().sum().backward()
            optimizer.step()

        run = torch.compile(step, backend="aot_eager") if compiles else step
        for _ in range(3):
            run()
        results.append(param.detach())
    torch.testing.assert_close(*results)


# --- the registered operators


def spread(x):
    return torch.stack((x, x), -1)[..., 0]


def class_samples(shape):
    """Inputs of a shape with classes in dimension 1, in several layouts, with and without grad."""
    x = torch.randn(shape)
    layouts = [x, spread(x), x.transpose(0, 1).contiguous().transpose(0, 1)]
    if x.dim() == 4:
        layouts.append(x.contiguous(memory_format=torch.channels_last))
    for layout in layouts:
        for requires_grad in (False, True):
            yield layout.detach().requires_grad_(requires_grad)


LOSS_TAIL = (-100, 0.1, 0.01, 3.0)


def loss_samples(reductions):
    for shape in ((6, 5), (0, 5), (2, 5, 3, 4)):
        rows = (shape[0], *shape[2:])
        target = torch.arange(torch.Size(rows).numel()).reshape(rows) % 5
        for x in class_samples(shape):
            for reduction in reductions:
                if reduction == "mean" and not x.numel():  # NaN, which opcheck takes for unequal
                    reduction = "sum"
                yield x, target, None if reduction == "sum" else torch.rand(5) + 0.5, reduction


def op_samples(name):
    if name == "cross_entropy":
        for x, target, weight, reduction in loss_samples(["mean", "none"]):
            yield x, target, weight, reduction, *LOSS_TAIL
        yield torch.randn(5, requires_grad=True), torch.tensor(1), None, "sum", *LOSS_TAIL
        probabilities = torch.rand(4, 5)
        yield torch.randn(4, 5, requires_grad=True), probabilities, None, "mean", *LOSS_TAIL
    elif name == "cross_entropy_backward":
        for x, target, weight, reduction in list(loss_samples(["sum", "none"]))[::3]:
            grad = torch.randn(target.shape) if reduction == "none" else torch.tensor(2.0)
            grad.requires_grad_(x.requires_grad)
            yield grad, x, target, weight, reduction, *LOSS_TAIL
    elif name == "nll_loss":
        for x, target, weight, reduction in loss_samples(["mean", "none"]):
            yield x, target, weight, reduction, -100
    elif name == "nll_loss_backward":
        for x, target, weight, reduction in loss_samples(["sum", "none"]):
            grad = torch.randn(target.shape) if reduction == "none" else torch.tensor(2.0)
            yield grad.requires_grad_(x.requires_grad), x, target, weight, reduction, -100
    elif name == "softmax":
        for x in class_samples((2, 5, 3, 4)):
            for dim, logarithm in ((1, False), (-1, True), (0, True)):
                yield x, dim, logarithm
        yield torch.randn(0, 3), 1, True
        yield torch.tensor(2.0, requires_grad=True), 0, False
    elif name == "softmax_backward":
        for x in class_samples((2, 5, 3, 4)):
            for logarithm in (False, True):
                y = torch.log_softmax(x, 1) if logarithm else torch.softmax(x, 1)
                output = y.detach().requires_grad_(x.requires_grad)
                yield torch.randn(x.shape), output, 1, logarithm
                yield spread(torch.randn(x.shape)), output, 1, logarithm
    elif name.startswith("batch_norm"):
        yield from batch_norm_samples(name)
    else:  # an activation's
        # One of each kind: what differs within one is a number that goes to the kernel.
        kinds = {activation.row.saves: activation for activation in SPECS[::-1]}
        for activation in kinds.values():
            yield from activation_samples(name, activation, activation.options[-1])


def batch_norm_samples(name):
    """Every combination of what an operator's code looks at, dealt out over different layouts."""
    choices = [(None, "relu", "leaky_relu", "silu"), *([(True, False)] * 3)]
    every = list(itertools.product(*choices))
    deal = (every[5 * i % len(every)] for i in itertools.count())
    for index, x in enumerate([*class_samples((3, 5, 2, 4)), *class_samples((6, 5))]):
        for activation, training, added, affine in itertools.islice(deal, 2):
            weight, bias = (torch.rand(5).requires_grad_(x.requires_grad) for _ in "wb")
            if not affine:
                weight = bias = None
            residual = torch.randn(x.shape).requires_grad_(x.requires_grad) if added else None
            running = [torch.rand(5) + 0.5 for _ in "mv"]
            if training and index % 3 == 0:
                running = [None, None]
            tensors = x, weight, bias, residual
            numbers = 1e-5, activation, 0.1
            if name == "batch_norm":
                yield *tensors, *running, training, 0.1, *numbers, x.requires_grad or index % 2 == 0
                continue
            with torch.no_grad():
                results = OPS.batch_norm(*tensors, *running, training, 0.1, *numbers, True)
            mean, spread = results[1:3] if training else running
            mask = results[3] if added and activation in ("relu", "leaky_relu") else None
            if activation != "silu":
                residual = None
            want = [True, affine, affine, added and activation is not None]
            if index % 4 == 2:
                want[0] = False
            grad = torch.randn(x.shape).requires_grad_(x.requires_grad)
            yield grad, x, weight, bias, residual, mean, spread, mask, training, *numbers, want


def activation_samples(name, activation, options):
    row = ACTIVATIONS[activation.name]
    tail = (row.index, *activation.numbers(options))
    if name == "activation":
        for shape in ((2, 5, 3, 4), (0,), (), (33,)):
            for x in class_samples(shape) if len(shape) == 4 else [torch.randn(shape)]:
                yield x, *tail
                yield x.detach().requires_grad_(), *tail
    elif name == "activation_":
        for x in class_samples((2, 5, 3, 4)):
            yield x.detach(), *tail
    elif name == "activation_backward":
        for x in class_samples((2, 5, 3, 4)):
            saved = OPS.activation(x, *tail) if row.saves == "output" else x
            saved = saved.detach().requires_grad_(x.requires_grad and row.saves != "mask")
            for grad in (torch.randn(x.shape), spread(torch.randn(x.shape))):
                yield grad.requires_grad_(x.requires_grad), saved, *tail
    elif row.saves == "mask":
        for x in (torch.randn(33), torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)):
            y, mask = OPS.activation_masked(x, *tail)
            for requires_grad in (False, True):
                grad = torch.randn_like(y).requires_grad_(requires_grad)
                if name == "activation_masked":
                    yield x.detach().requires_grad_(requires_grad), *tail
                else:
                    yield grad, mask, *tail


#: Those of the other families are checked in tests of their own.
OWN_TESTS = (
    "bias_act_dropout",
    "dropout",
    "elementwise_loss",
    "gated",
    "image",
    "maxout",
    "prelu",
    "swiglu",
)
OP_NAMES = sorted(
    name
    for namespace, name in (s.name.split("::") for s in torch._C._jit_get_all_schemas())
    if namespace == "dlkernels" and not name.startswith(OWN_TESTS)
)


def test_the_list_of_operators_is_complete():
    assert OP_NAMES == [
        "activation",
        "activation_",
        "activation_backward",
        "activation_masked",
        "activation_masked_backward",
        "batch_norm",
        "batch_norm_backward",
        "cross_entropy",
        "cross_entropy_backward",
        "nll_loss",
        "nll_loss_backward",
        "softmax",
        "softmax_backward",
    ]


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # by the check itself
@SOME_OR_ALL
@pytest.mark.parametrize("name", OP_NAMES)
def test_opcheck(name, some):
    """Schema, autograd, fake and tracing, in full."""
    operator = getattr(OPS, name).default
    for sample in some(op_samples(name), 20):
        assert set(torch.library.opcheck(operator, sample).values()) == {"SUCCESS"}


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_operators_can_be_differentiated_twice(reduction):
    x = torch.randn(3, 4, dtype=torch.float64)
    x = torch.where(x.abs() < 0.1, 0.5, x).requires_grad_()
    target = torch.tensor([1, 3, 0])
    for function in (
        lambda x: OPS.cross_entropy(x, target, None, reduction, *LOSS_TAIL),
        lambda x: OPS.nll_loss(x, target, None, reduction, -100),
        lambda x: OPS.softmax(x, 1, False),
        lambda x: OPS.softmax(x, 0, True),
    ):
        assert torch.autograd.gradcheck(function, x, fast_mode=True)
        assert torch.autograd.gradgradcheck(function, x, fast_mode=True)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("activation", SPECS, ids=lambda a: a.name)
def test_operators_of_activations_can_be_differentiated_twice(activation):
    row = ACTIVATIONS[activation.name]
    x = torch.from_numpy(activation.smooth_points()).requires_grad_()
    for options in activation.options:
        tail = (row.index, *activation.numbers(options))
        assert torch.autograd.gradcheck(
            lambda x, tail=tail: OPS.activation(x, *tail), x, fast_mode=True
        )
        assert torch.autograd.gradgradcheck(
            lambda x, tail=tail: OPS.activation(x, *tail), x, fast_mode=True
        )
        if row.saves == "mask":
            masked = lambda x, tail=tail: OPS.activation_masked(x, *tail)[0]  # noqa: E731
            assert torch.autograd.gradcheck(masked, x, fast_mode=True)
            assert torch.autograd.gradgradcheck(masked, x, fast_mode=True)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("activation", SPECS, ids=lambda a: a.name)
def test_activations_compile_in_one_graph(activation):
    twin = getattr(functional, activation.name)
    in_place = getattr(functional, f"{activation.name}_", None)

    def function(x, options):
        y = twin(x * 2, **options)
        return (y if in_place is None else y + in_place(x * 3, **options)).square().sum()

    compiled = torch.compile(function, fullgraph=True, dynamic=True, backend="aot_eager")
    for options in activation.options[-1:]:
        for rows in (6, 9):
            x = arguments(rows)[0]
            expected, result = (loss_and_grad(f, x, options) for f in (function, compiled))
            torch.testing.assert_close(result, expected)
            with torch.no_grad():
                torch.testing.assert_close(compiled(x, options), function(x, options))


# --- modes, subclasses, transforms


def test_a_dispatch_mode_sees_our_operators():
    x, target, weight = arguments()
    expected = loss_and_grad(every_twin, x, target, weight)
    with DispatchLog() as log:
        assert explain(relu, x).startswith("operator: torch.ops.dlkernels")
        result = loss_and_grad(every_twin, x, target, weight)
    torch.testing.assert_close(result, expected, rtol=2e-6, atol=2e-6)
    seen = {name.split(".")[1] for name in log.names if name.startswith("dlkernels.")}
    assert seen == {
        "activation",
        "activation_masked",
        "activation_masked_backward",
        "cross_entropy",
        "cross_entropy_backward",
        "nll_loss",
        "nll_loss_backward",
        "softmax",
        "softmax_backward",
    }
    with DispatchLog() as log:
        x = torch.randn(5)
        version = x._version
        assert relu_(x) is x
        assert x._version == version + 1
    assert "dlkernels.activation_.default" in log.names


def test_a_function_mode_sees_our_operators():
    seen = []

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(str(function))
            return function(*args, **(kwargs or {}))

    x = torch.randn(5, requires_grad=True)
    with Watch():
        output = relu(x)
    assert "dlkernels.activation_masked.default" in seen
    assert torch.equal(output, torch.relu(x))
    assert torch.autograd.grad(output.sum(), x)[0].equal((x > 0).float())


def test_fake_tensors():
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    with FakeTensorMode() as mode:
        x = torch.randn(4, 5, requires_grad=True)
        loss = every_twin(x, torch.zeros(4, dtype=torch.long), torch.ones(5))
        loss.backward()
        images = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
        output = relu(images)
    assert isinstance(loss, FakeTensor)
    assert x.grad.shape == x.shape
    assert output.stride() == images.stride()
    # and one that has left its mode
    outside = mode.from_tensor(torch.randn(4, 5))
    assert explain(softmax, outside, 1).startswith("operator")
    assert softmax(outside, 1).shape == (4, 5)


class Meters(torch.Tensor):
    """A subclass that asks for nothing: results keep its type."""


class Wrapped(torch.Tensor):
    """A subclass with its own dispatch, which unwraps, calls and wraps again."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype
        )

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        calls.append(str(function))
        unwrap = [a.inner if isinstance(a, cls) else a for a in args]
        result = function(*unwrap, **(kwargs or {}))
        return torch.utils._pytree.tree_map_only(torch.Tensor, cls, result)


calls = []


def test_tensor_subclasses():
    x, target, _ = arguments()
    plain = x.as_subclass(Meters)
    assert explain(relu, plain).startswith("operator")
    result = relu(plain)
    assert isinstance(result, Meters)
    assert torch.equal(result.as_subclass(torch.Tensor), torch.relu(x))
    wrapped = Wrapped(x)
    calls.clear()
    loss = cross_entropy(wrapped, target)
    assert calls == ["dlkernels.cross_entropy.default"]
    torch.testing.assert_close(loss.inner, cross_entropy(x, target))


@pytest.fixture
def mesh():
    """One process that is the whole world."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    torch.distributed.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


def test_dtensors_go_to_torch(mesh):
    from torch.distributed.tensor import DTensor, Shard, distribute_tensor

    x, target, _ = arguments()
    shared = distribute_tensor(x, mesh, [Shard(0)]).requires_grad_()
    labels = distribute_tensor(target, mesh, [Shard(0)])
    for function, *others in ((relu,), (softmax, 1), (cross_entropy, labels)):
        assert explain(function, shared, *others) == "torch: a tensor is a DTensor"
    loss = cross_entropy(relu(shared), labels) + softmax(shared, 1).square().sum()
    loss.backward()
    leaf = x.clone().requires_grad_()
    expected = TF.cross_entropy(torch.relu(leaf), target) + torch.softmax(leaf, 1).square().sum()
    expected.backward()
    torch.testing.assert_close(loss.full_tensor(), expected)
    assert isinstance(shared.grad, DTensor)
    torch.testing.assert_close(shared.grad.full_tensor(), leaf.grad)

    with torch.no_grad():
        SGD([shared], lr=0.5, momentum=0.9).step()
        torch.optim.SGD([leaf], lr=0.5, momentum=0.9).step()
    torch.testing.assert_close(shared.full_tensor(), leaf)


def test_sgd_over_tensors_without_memory_of_their_own():
    """The quick look at an optimizer's list must not take a null pointer for a row of numbers."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.randn(40).requires_grad_()
        fake.grad = torch.randn(40)
    calls.clear()
    wrapped = Wrapped(torch.ones(40)).requires_grad_()
    wrapped.grad = Wrapped(torch.full((40,), 2.0))
    plain = torch.ones(40)
    for param in (fake, wrapped):
        pairs = (
            (param.detach(), plain),
            (torch.ones(40), param.grad),
            (param.detach(), param.grad),
        )
        for at, grad in pairs:
            with pytest.raises(TypeError, match=r"SGD: .*(memory of its own|cannot be read)"):
                dlkernels.optim.SGD([plain, at], lr=0.5).step([plain, grad])
            assert (plain == 1).all()
    optimizer = SGD([wrapped], lr=0.5)
    optimizer.step()
    assert (wrapped.inner == 0).all()
    optimizer = SGD([fake], lr=0.5, momentum=0.9)
    optimizer.step()
    assert optimizer.state[fake]["momentum_buffer"].shape == (40,)


def test_make_fx_and_export():
    from torch.fx.experimental.proxy_tensor import make_fx

    x, target, _ = arguments()
    graph = make_fx(lambda x, target: cross_entropy(relu(x), target))(x, target)
    called = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert {"dlkernels.activation.default", "dlkernels.cross_entropy.default"} <= called
    assert torch.equal(graph(x, target), cross_entropy(relu(x), target))

    class Model(torch.nn.Module):
        def forward(self, x, target):
            return cross_entropy(relu(x), target), softmax(x, 1)

    for strict in (False, True):
        program = torch.export.export(Model(), (x, target), strict=strict)
        called = {str(node.target) for node in program.graph.nodes}
        assert "dlkernels.cross_entropy.default" in called
        torch.testing.assert_close(program.module()(x, target), Model()(x, target))


def test_torch_func_transforms_go_to_torch():
    x, target, _ = arguments()
    routes = []

    def per_sample(row, label):
        routes.append(explain(cross_entropy, row, label))
        return cross_entropy(row, label) + relu(row).sum() + softmax(row, 0)[0]

    def in_torch(row, label):
        return TF.cross_entropy(row, label) + torch.relu(row).sum() + torch.softmax(row, 0)[0]

    def both(transform):
        return transform(per_sample), transform(in_torch)

    vmapped = both(torch.func.vmap)
    torch.testing.assert_close(*(f(x, target) for f in vmapped))
    assert routes[-1] == "torch: inside a torch.func transform"
    gradients = both(lambda f: torch.func.vmap(torch.func.grad(f)))
    torch.testing.assert_close(*(f(x, target) for f in gradients))
    hessians = both(lambda f: torch.func.hessian(lambda row: f(row, target[0])))
    torch.testing.assert_close(*(f(x[0]) for f in hessians))
    jvps = both(lambda f: torch.func.jvp(lambda row: f(row, target[0]), (x[0],), (x[1],)))
    torch.testing.assert_close(*jvps)


def test_explain_names_every_route():
    x, target, weight = arguments()
    assert explain(cross_entropy, x, target, weight) == "kernel: called directly"
    assert explain(relu, x.to("meta")) == ("torch: a tensor is on meta, the kernels run on the CPU")
    assert explain(relu, x.to_sparse()) == "torch: a tensor has layout torch.sparse_coo"
    assert explain(softmax, x.cfloat(), 1) == "torch: no kernel for torch.complex64"
    assert explain(relu, x.numpy()) == "torch: ndarray is not a tensor"
    assert explain(relu, None) == "torch: NoneType is not a tensor"
    negated = torch.complex(x, x).conj().imag
    assert explain(relu, negated) == "torch: a tensor is a negated view"
    with torch.device("cpu"):  # a mode, to torch
        assert explain(relu, x) == (
            "operator: torch.ops.dlkernels, for a compiled graph, a mode or a tensor subclass"
        )
    with torch.autograd.forward_ad.dual_level():
        assert explain(relu, x) == "torch: inside forward-mode differentiation"


def test_jit_trace_records_torchs_operators():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(relu, torch.ones(3))
    assert traced(torch.tensor([-1.0, 2.0])).tolist() == [0.0, 2.0]


def test_other_devices_and_layouts_go_to_torch():
    x, target, _ = arguments()
    assert relu(x.to("meta")).is_meta
    assert cross_entropy(x.to("meta"), target.to("meta"), z_loss=0.1, softcap=2.0).is_meta
    sparse = torch.eye(3).to_sparse()
    assert torch.equal(relu(sparse).to_dense(), torch.eye(3))
    nested = torch.nested.nested_tensor([x[:2], x[2:]], layout=torch.jagged)
    assert torch.equal(relu(nested).values(), torch.relu(x))
