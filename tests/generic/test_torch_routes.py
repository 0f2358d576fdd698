"""Every twin by every way a call can go (kernel, operator, torch's operations under create_graph,
torch.func's transforms, batches of gradients, no gradients, in place) on tensors of drawn strides:
the values are those of row-major tensors by a kernel.
"""

import inspect
import zlib

import numpy as np
import pytest
import torch

from twins import CHANNELS, SAMPLED_CALLS, TWIN_CALLS

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch"),
    pytest.mark.filterwarnings("ignore:There is a performance drop"),
]

#: Those that torch cannot batch: it looks at their values.
_UNBATCHED = ("gaussian_nll_loss",)
#: Not differentiated.
_CONSTANT = ("running_mean", "running_var")


# --- drawn tensors


def laid_out(x, rng, *, may_repeat=True):
    """The values of `x` (but where a dimension repeats its first) in another order of dimensions,
    with gaps, from an offset on, and where the size is 1 with a stride that means nothing.
    """
    if x.dim() == 0:
        return x
    if may_repeat and rng.random() < 0.2:
        dim = int(rng.integers(x.dim()))
        return laid_out(x.narrow(dim, 0, 1), rng, may_repeat=False).expand(x.shape)
    order = rng.permutation(x.dim()).tolist()
    gaps = rng.integers(0, 3, x.dim()).tolist() if rng.random() < 0.5 else [0] * x.dim()
    room = x.new_zeros([x.shape[d] + gap for d, gap in zip(order, gaps, strict=True)])
    room = room.permute([order.index(d) for d in range(x.dim())])
    offset = int(rng.integers(0, 4))
    room = torch.cat([x.new_zeros(offset), room.as_strided((room.numel(),), (1,))]).as_strided(
        x.shape, room.stride(), offset
    )
    room.copy_(x)
    strides = [
        int(rng.choice([0, 1, 2, 7, 1000])) if size == 1 else stride
        for size, stride in zip(x.shape, room.stride(), strict=True)
    ]
    view = room.as_strided(x.shape, strides, offset)
    assert torch.equal(view, x)
    return view


def drawn_arguments(call, rng):
    """The call's tensors in float64, with drawn sizes of 1 and drawn strides."""
    tensors = call.arguments(torch.float64)
    main = next(iter(tensors.values())).shape
    changes = ["none", "one row", "one position", "one more"]
    change = rng.choice(changes[: 3 if call.name.startswith("dropout") else 4])
    if change == "one row":
        tensors = {n: t[:1] if t.shape[:1] == main[:1] else t for n, t in tensors.items()}
    elif len(main) > 2 and change != "none":
        tensors = {
            n: t if t.shape != main else t[..., :1] if change == "one position" else t[..., None]
            for n, t in tensors.items()
        }
    return {
        n: laid_out(t, rng, may_repeat=n not in call.written) if t.is_floating_point() else t
        for n, t in tensors.items()
    }


def plain(x):
    """A row-major copy."""
    return x.detach().contiguous().clone(memory_format=torch.contiguous_format)


def with_strides_of(x):
    """A copy that lies like `x`, unless that overlaps itself."""
    if any(size > 1 and stride == 0 for size, stride in zip(x.shape, x.stride(), strict=True)):
        return plain(x)
    copy = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype)
    return copy.copy_(x)


# --- ways


class Case:
    """A call on drawn tensors, and the gradient of its result."""

    def __init__(self, call, key, tensors=None):
        self.call = call
        self.rng = np.random.default_rng(zlib.crc32(f"{call.name} {key}".encode()))
        self.tensors = tensors or drawn_arguments(call, self.rng)
        self.names = _differentiable(call)
        result = self.run({n: plain(t) for n, t in self.tensors.items()})
        self.grad = laid_out(self._normal(result), self.rng)
        self.what = f"{call.name} of " + ", ".join(
            f"{n} {tuple(t.shape)} by {t.stride()}"
            for n, t in (*self.tensors.items(), ("grad", self.grad))
        )

    def _normal(self, like):
        return torch.from_numpy(self.rng.standard_normal(tuple(like.shape)))

    def run(self, tensors, **options):
        """The call; it writes to copies."""
        tensors = {
            n: with_strides_of(t.detach()) if n in self.call.written else t
            for n, t in tensors.items()
        }
        return self.call.function(**tensors, **self.call.options, **options)

    def leaves(self, tensors):
        made = {n: t.detach().requires_grad_(n in self.names) for n, t in tensors.items()}
        return made, [made[n] for n in self.names]

    def function(self, tensors):
        """Of the differentiable tensors alone."""
        return lambda *at: self.run({**tensors, **dict(zip(self.names, at, strict=True))})

    def derivatives(self, tensors, grad, order):
        """The result, its gradients, and those of a combination of them."""
        made, leaves = self.leaves(tensors)
        result = self.run(made)
        if not leaves:
            return [result]
        grad = grad.detach().requires_grad_(order == 2)
        grads = torch.autograd.grad(
            result, leaves, grad, create_graph=order == 2, materialize_grads=True
        )
        found = [result.detach(), *(g.detach() for g in grads)]
        recorded = [g for g in grads if g.requires_grad]
        if order == 2 and recorded:
            weights = [torch.linspace(-1, 2, g.numel()).double().view(g.shape) for g in recorded]
            found += torch.autograd.grad(
                recorded, [*leaves, grad], weights, allow_unused=True, materialize_grads=True
            )
        return found

    def compare(self, found, expected, way):
        assert len(found) == len(expected)
        for i, (a, b) in enumerate(zip(found, expected, strict=True)):
            torch.testing.assert_close(
                a,
                b,
                rtol=1e-9,
                atol=1e-10,
                msg=lambda text, i=i: f"{way}, result {i}, {self.what}: {text}",
            )


_NAMES = {}


def _differentiable(call):
    """The tensors that the call has a gradient for."""
    if call.name not in _NAMES:
        names = []
        if not call.function.__name__.endswith("_"):
            for name, value in call.arguments(torch.float64).items():
                if not value.is_floating_point() or name in _CONSTANT:
                    continue
                tensors = call.arguments(torch.float64)
                tensors[name].requires_grad_()
                try:
                    call.function(**tensors, **call.options).sum().backward()
                except (RuntimeError, NotImplementedError):
                    continue
                names.append(name)
        _NAMES[call.name] = names
    return _NAMES[call.name]


def check_ways(case):
    call = case.call
    straight = {n: plain(t) for n, t in case.tensors.items()}
    first = case.derivatives(straight, plain(case.grad), 1)
    second = case.derivatives(straight, plain(case.grad), 2)
    case.compare(second[: len(first)], first, "create_graph, row-major")

    case.compare(case.derivatives(case.tensors, case.grad, 1), first, "kernel")
    case.compare(case.derivatives(case.tensors, case.grad, 2), second, "create_graph")
    with torch.device("cpu"):  # a mode: operators
        case.compare(case.derivatives(case.tensors, case.grad, 1), first, "operator")
        case.compare(case.derivatives(case.tensors, case.grad, 2), second, "operator's second")
    with torch.no_grad():
        case.compare([case.run(case.tensors)], first[:1], "no_grad")
    if "inplace" in inspect.signature(call.function).parameters and "cross" not in call.name:
        copies = {n: with_strides_of(t) for n, t in case.tensors.items()}
        case.compare([case.run(copies, inplace=True)], first[:1], "in place")
        written = next(iter(copies.values()))
        case.compare([written], first[:1], "what in place wrote")
    if not case.names:
        return
    made, leaves = case.leaves(case.tensors)
    batch = torch.stack([case.grad, 2 * case.grad])
    found = torch.autograd.grad(
        case.run(made), leaves, batch, is_grads_batched=True, materialize_grads=True
    )
    case.compare([g[1] / 2 for g in found], first[1:], "a batch of gradients")

    result = case.run(made)
    found = torch.func.vmap(
        lambda grad: torch.autograd.grad(result, leaves, grad, materialize_grads=True)
    )(batch)
    case.compare([g[1] / 2 for g in found], first[1:], "torch.func.vmap of gradients")

    function, at = case.function(case.tensors), [case.tensors[n].detach() for n in case.names]
    result, pull = torch.func.vjp(function, *at)
    case.compare([result, *pull(case.grad)], first, "torch.func.vjp")
    at = [with_strides_of(t) for t in at]  # torch's jvp takes none that overlap themselves
    tangents = [case._normal(t) for t in at]
    result, pushed = torch.func.jvp(function, tuple(at), tuple(tangents))
    expected = sum((g * t).sum() for g, t in zip(first[1:], tangents, strict=True))
    case.compare([result, (pushed * case.grad).sum()], [first[0], expected], "torch.func.jvp")
    if not call.written and call.name not in _UNBATCHED:
        stacks = [torch.stack([t, t + 0.01]) for t in at]
        both = torch.func.vmap(function)(*stacks)
        case.compare([both[0]], first[:1], "torch.func.vmap")


def test_of_every_dimension_is_drawn():
    """The strides that are meant are there."""
    rng = np.random.default_rng(0)
    seen = [laid_out(torch.randn(3, CHANNELS, 1), rng) for _ in range(100)]
    assert any(x.stride(2) == 1000 for x in seen)
    assert any(x.stride(0) == 0 for x in seen)
    assert any(x.stride(0) < x.stride(1) for x in seen)
    assert any(x.storage_offset() for x in seen)
    assert any(x.stride(0) > 3 * CHANNELS for x in seen)


@pytest.mark.parametrize("call", SAMPLED_CALLS)
def test_every_way_gives_the_same(call):
    for key in range(2):
        check_ways(Case(call, key))


@pytest.mark.parametrize("name", ["batch_norm train", "batch_norm eval"])
def test_a_dimension_of_size_1_is_no_other_memory_format(name):
    """torch's own batch norm takes it for one, and has a wrong gradient then."""
    call = next(call for call in TWIN_CALLS if call.name == name)
    tensors = call.arguments(torch.float64)
    one, other = torch.randn(2, 4, 5, CHANNELS, dtype=torch.float64).transpose(2, 3).unsqueeze(-1)
    for input, grad in ((one, plain(other)), (plain(one), other)):
        case = Case(call, 0, {**tensors, "input": input})
        case.grad = grad
        check_ways(case)


@pytest.mark.slow
@pytest.mark.parametrize("call", TWIN_CALLS, ids=lambda call: call.name)
def test_every_way_gives_the_same_of_many(call):
    for key in range(2, 40):
        check_ways(Case(call, key))


@pytest.mark.slow
@pytest.mark.parametrize("call", TWIN_CALLS, ids=lambda call: call.name)
def test_compiled_graphs_give_the_same(call):
    for key in range(3):
        case = Case(call, f"compiled {key}")
        first = case.derivatives(
            {n: plain(t) for n, t in case.tensors.items()}, plain(case.grad), 1
        )
        torch._dynamo.reset()
        compiled = torch.compile(call.function, backend="aot_eager", fullgraph=True)
        case.run = lambda tensors, compiled=compiled, call=call: compiled(
            **{
                n: with_strides_of(t.detach()) if n in call.written else t
                for n, t in tensors.items()
            },
            **call.options,
        )
        case.compare(case.derivatives(case.tensors, case.grad, 1), first, "aot_eager")
