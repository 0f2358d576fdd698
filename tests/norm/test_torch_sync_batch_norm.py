"""SyncBatchNorm over real processes: three, and two of them, with unequal batches."""

import pytest
import torch
import torch.distributed as dist

import dlkernels.torch.nn as dnn
from dlkernels.torch.nn import SyncBatchNorm
from torch_support import run_processes

CHANNELS = 5
#: Images per process; the joined batch is all of them.
COUNTS = {"three": (3, 1, 4), "two": (2, 5), "one empty": (4, 0, 2)}
DTYPES = [torch.float32, torch.float64, torch.bfloat16]
BOUND = {torch.float32: 3e-6, torch.float64: 1e-13, torch.bfloat16: 2e-2}


def pieces(counts, dtype, shape=(4, 3)):
    """The same (input, residual, gradient) for everyone, cut into each process's part."""
    generator = torch.Generator().manual_seed(7)
    whole = [
        torch.randn(sum(counts), CHANNELS, *shape, generator=generator, dtype=torch.float64)
        for _ in range(3)
    ]
    whole[0] = whole[0] * 3 + 10  # the processes' means differ from zero and each other
    whole[0][: counts[0]] += 5
    return list(zip(*(t.to(dtype).split(list(counts)) for t in whole), strict=True))


def fresh(kind, dtype, **settings):
    parameters = torch.float64 if dtype == torch.float64 else torch.float32
    module = kind(CHANNELS, dtype=parameters, **settings)
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            parameter.copy_(torch.linspace(0.5, 2, CHANNELS) - index)
    return module


def step(module, x, grad, residual=None):
    """(output, gradients of x and residual, gradients of the parameters)."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, residual) if t is not None]
    module.zero_grad()
    y = module(*leaves)
    y.backward(grad)
    return y.detach(), [leaf.grad for leaf in leaves], [p.grad for p in module.parameters()]


def assert_close(a, b, dtype, what):
    scale = max(1.0, float(b.double().abs().max())) if b.numel() else 1.0
    torch.testing.assert_close(
        a.double(),
        b.double(),
        rtol=0,
        atol=BOUND[dtype] * scale,
        msg=lambda text: f"{what}: {text}",
    )


# --- what every process does; all of them call all of it in the same order


def like_one_process(group, counts, dtype, layout, activation, with_residual):
    """Two steps of training and one of evaluation against one process with everything."""
    what = f"{counts} {dtype} {layout} {activation} residual {with_residual}"
    rank = dist.get_rank(group)
    own = pieces(counts, dtype)
    module = fresh(
        SyncBatchNorm, dtype, process_group=group, activation=activation, negative_slope=0.2
    )
    joined = fresh(dnn.BatchNormAct2d, dtype, activation=activation, negative_slope=0.2)
    ends = torch.tensor(counts).cumsum(0).tolist()
    mine = slice(ends[rank] - counts[rank], ends[rank])
    for training in (True, True, False):
        module.train(training)
        joined.train(training)
        x, residual, grad = (t.contiguous(memory_format=layout) for t in own[rank])
        added = residual if with_residual else None
        y, grads, parameters = step(module, x, grad, added)
        whole_x, whole_residual, whole_grad = (torch.cat(t) for t in zip(*own, strict=True))
        whole_y, whole_grads, whole_parameters = step(
            joined, whole_x, whole_grad, whole_residual if with_residual else None
        )
        assert_close(y, whole_y[mine], dtype, f"{what} output")
        assert y.dtype == x.dtype
        assert y.numel() == 0 or y.is_contiguous(memory_format=layout)
        for a, b in zip(grads, whole_grads, strict=True):
            assert_close(a, b[mine], dtype, f"{what} gradient")
        for a, b in zip(parameters, whole_parameters, strict=True):
            total = a.double()
            dist.all_reduce(total, group=group)
            # Summed in float64 by one process, rounded by each of several.
            assert_close(total, b, torch.float32 if dtype == torch.bfloat16 else dtype, what)
        for (name, a), b in zip(
            module.state_dict().items(), joined.state_dict().values(), strict=True
        ):
            assert_close(a, b, torch.float32 if dtype == torch.bfloat16 else dtype, name)


def same_bits_everywhere(group):
    """Every process comes to the same running statistics."""
    rank = dist.get_rank(group)
    module = fresh(SyncBatchNorm, torch.float32, process_group=group)
    x, _, grad = pieces(COUNTS["three"], torch.float32)[rank]
    step(module, x, grad)
    for statistic in (module.running_mean, module.running_var):
        gathered = [torch.empty_like(statistic) for _ in range(dist.get_world_size(group))]
        dist.all_gather(gathered, statistic, group=group)
        assert all(torch.equal(statistic, other) for other in gathered)


def settings(group):
    """momentum None, no tracking, no parameters, no gradient of the input, no gradients."""
    rank = dist.get_rank(group)
    own = pieces(COUNTS["three"], torch.float32)
    x, _, grad = own[rank]
    whole_x, _, whole_grad = (torch.cat(t) for t in zip(*own, strict=True))
    for options in (
        {"momentum": None},
        {"track_running_stats": False},
        {"affine": False},
        {"bias": False},
    ):
        module, joined = (
            fresh(k, torch.float32, **options) for k in (SyncBatchNorm, dnn.BatchNorm2d)
        )
        for _ in range(3):
            step(module, x, grad)
            step(joined, whole_x, whole_grad)
            x, whole_x = x * 1.5, whole_x * 1.5
        for (name, a), b in zip(
            module.state_dict().items(), joined.state_dict().values(), strict=True
        ):
            assert_close(a, b, torch.float32, f"{options} {name}")
    module = fresh(SyncBatchNorm, torch.float32)
    y = module(x)
    y.backward(grad)
    assert module.weight.grad is not None
    with torch.no_grad():
        assert torch.equal(fresh(SyncBatchNorm, torch.float32)(x), y)


def second_derivatives(group):
    """A penalty on the gradient, which every process's input has a part in."""
    rank = dist.get_rank(group)
    own = pieces(COUNTS["three"], torch.float64)
    ends = torch.tensor(COUNTS["three"]).cumsum(0).tolist()
    mine = slice(ends[rank] - COUNTS["three"][rank], ends[rank])

    def penalty(module, x, residual, grad, leaves):
        y = module(x, residual)
        (dx,) = torch.autograd.grad(y, x, grad, create_graph=True)
        return torch.autograd.grad(dx.pow(3).sum(), leaves)

    for activation, added in ((None, False), ("relu", True), ("silu", True)):
        module, joined = (
            fresh(kind, torch.float64, activation=activation)
            for kind in (SyncBatchNorm, dnn.BatchNormAct2d)
        )
        x, residual, grad = (t.requires_grad_() for t in own[rank])
        whole = [torch.cat(t).detach().requires_grad_() for t in zip(*own, strict=True)]
        results = [
            penalty(m, inputs[0], inputs[1] if added else None, inputs[2],
                    (inputs[0], m.weight, inputs[2]))
            for m, inputs in ((module, (x, residual, grad)), (joined, whole))
        ]  # fmt: skip
        dist.all_reduce(results[0][1], group=group)
        results[1] = (results[1][0][mine], results[1][1], results[1][2][mine])
        for a, b in zip(*results, strict=True):
            assert_close(a, b, torch.float64, f"second derivative, {activation}")


def distributed_data_parallel(group):
    """torch's own wrapper, which refuses torch's own SyncBatchNorm on the CPU."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    own = pieces((4, 4, 4), torch.float32)
    torch.manual_seed(0)
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(CHANNELS, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1)
    )
    model = SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(*plain.children()))
    assert type(model[1]) is SyncBatchNorm
    reference = torch.nn.Sequential(
        torch.nn.Conv2d(CHANNELS, 4, 1), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1)
    )
    reference.load_state_dict(model.state_dict())
    wrapped = torch.nn.parallel.DistributedDataParallel(model, process_group=group)
    wrapped(own[rank][0]).square().mean().backward()
    reference(torch.cat([piece[0] for piece in own])).square().mean().backward()
    for (name, a), b in zip(model.named_parameters(), reference.parameters(), strict=True):
        assert_close(a.grad, b.grad, torch.float32, f"{name} of {size}")
    assert_close(model[1].running_var, reference[1].running_var, torch.float32, "running_var")


def one_value_in_all(group):
    rank = dist.get_rank(group)
    module = fresh(SyncBatchNorm, torch.float32, process_group=group)
    x = torch.ones(1 if rank == 0 else 0, CHANNELS, 1, 1)
    try:
        module(x)
    except ValueError as error:
        assert "Expected more than 1 value per channel when training" in str(error)  # noqa: PT017
    else:
        raise AssertionError("one value was normalized")


def nothing_in_any(group):
    """Every process is without images: gradients are 0, and statistics stay."""
    module = fresh(SyncBatchNorm, torch.float32, process_group=group)
    x = torch.zeros(0, CHANNELS, 4, 3)
    y, grads, parameters = step(module, x, x)
    assert y.shape == grads[0].shape == x.shape
    for grad in parameters:
        assert torch.equal(grad, torch.zeros(CHANNELS))
    assert torch.equal(module.running_mean, torch.zeros(CHANNELS))
    assert torch.equal(module.running_var, torch.ones(CHANNELS))


def every_check(rank, store):
    """The whole program of a process of three."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=3)
    world, pair = dist.group.WORLD, dist.new_group([0, 1])
    layouts = (torch.contiguous_format, torch.channels_last)
    for dtype in DTYPES:
        for layout in layouts:
            for counts in COUNTS.values():
                group = pair if len(counts) == 2 else world
                if group is world or rank < 2:
                    like_one_process(group, counts, dtype, layout, None, False)
    for activation in ("relu", "leaky_relu", "silu", None):
        for with_residual in (False, True):
            like_one_process(
                world, COUNTS["one empty"], torch.float32, layouts[with_residual], activation,
                with_residual,
            )  # fmt: skip
    for check in (
        same_bits_everywhere,
        settings,
        second_derivatives,
        distributed_data_parallel,
        one_value_in_all,
        nothing_in_any,
    ):
        check(world)
    dist.barrier()
    dist.destroy_process_group()


def test_several_processes_are_one(tmp_path):
    run_processes(every_check, 3, str(tmp_path / "store"))


# --- one process


def test_alone_it_is_batch_norm():
    """Not distributed, in a group of one, and in evaluation: torch's module does the same."""
    x, grad = torch.randn(2, 4, CHANNELS, 3, 3)
    results = []
    for kind in (SyncBatchNorm, torch.nn.SyncBatchNorm):
        module = fresh(kind, torch.float32)
        leaf = x.clone().requires_grad_()
        y = module(leaf)
        y.backward(grad)
        results.append((y.detach(), leaf.grad, module.eval()(x).detach(), module.running_var))
    for a, b in zip(*results, strict=True):
        assert_close(a, b, torch.float32, "alone")


def test_a_group_of_one(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        x = torch.randn(4, CHANNELS, 3, 3)
        y = fresh(SyncBatchNorm, torch.float32)(x)
        assert torch.equal(y, fresh(dnn.BatchNorm2d, torch.float32)(x))
    finally:
        dist.destroy_process_group()


def test_constructor_repr_and_errors_are_torchs():
    assert repr(SyncBatchNorm(3)) == repr(torch.nn.SyncBatchNorm(3))
    assert "activation='relu'" in repr(SyncBatchNorm(3, activation="relu"))
    group = object()
    assert SyncBatchNorm(3, 1e-3, None, False, False, group).process_group is group
    state = torch.nn.SyncBatchNorm(3).state_dict()
    assert list(SyncBatchNorm(3).state_dict()) == list(state)
    for wrong in (torch.ones(3), torch.ones(2, 0)):
        texts = []
        for kind in (SyncBatchNorm, torch.nn.SyncBatchNorm):
            with pytest.raises(
                ValueError, match=r"expected at least 2D|should be non-zero"
            ) as error:
                kind(3)(wrong)
            texts.append(str(error.value))
        assert texts[0] == texts[1]


def test_conversion_keeps_everything():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 1),
        torch.nn.BatchNorm2d(4, eps=1e-3, momentum=None, bias=False),
        torch.nn.Sequential(dnn.BatchNormAct2d(4, activation="leaky_relu", negative_slope=0.3)),
        dnn.BatchNorm2d(4, affine=False, track_running_stats=False).eval(),
        torch.nn.SyncBatchNorm(4),
    )
    before = {name: value.data_ptr() for name, value in model.state_dict().items()}
    group = object()
    converted = SyncBatchNorm.convert_sync_batchnorm(model, group)
    assert converted is model
    first, second, third, fourth = model[1], model[2][0], model[3], model[4]
    for module in (first, second, third, fourth):
        assert type(module) is SyncBatchNorm
        assert module.process_group is group
    assert (first.eps, first.momentum, first.bias) == (1e-3, None, None)
    assert (second.activation, second.negative_slope) == ("leaky_relu", 0.3)
    assert (third.affine, third.training, third.running_mean) == (False, False, None)
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == before
    x = torch.randn(2, 4, 3, 3)
    alone = SyncBatchNorm.convert_sync_batchnorm(dnn.BatchNormAct2d(4))
    assert type(alone) is SyncBatchNorm
    assert torch.equal(alone(x, x), dnn.BatchNormAct2d(4)(x, x))


def test_functions_of_torch_that_would_drop_an_activation_are_refused():
    """They make another module from a batch norm's numbers alone."""
    convolution = torch.nn.Conv2d(3, 4, 1).eval()
    for kind in (dnn.BatchNormAct2d, SyncBatchNorm):
        norm = kind(4, activation="silu").eval()
        with pytest.raises(TypeError, match=r"convert_sync_batchnorm: would drop .*'silu'.*keeps"):
            torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(norm))
        with pytest.raises(TypeError, match=r"fuse_conv_bn_eval: would drop the activation 'silu'"):
            torch.nn.utils.fuse_conv_bn_eval(convolution, norm)
        norm = kind(4, activation=None).eval()
        x = torch.randn(2, 3, 5, 5)
        fused = torch.nn.utils.fuse_conv_bn_eval(convolution, norm)
        torch.testing.assert_close(fused(x), norm(convolution(x)))
        torch.nn.SyncBatchNorm.convert_sync_batchnorm(torch.nn.Sequential(norm))


class Doubled(dnn.BatchNorm2d):
    def forward(self, input):
        return 2 * super().forward(input)


def test_a_subclass_with_its_own_forward_is_left_alone():
    model = torch.nn.Sequential(Doubled(4), dnn.BatchNorm2d(4))
    with pytest.warns(UserWarning, match="Doubled has a forward of its own and stays as it is"):
        SyncBatchNorm.convert_sync_batchnorm(model)
    assert [type(module) for module in model] == [Doubled, SyncBatchNorm]
