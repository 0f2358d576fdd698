"""A drawn call of every operator of ``torch.ops.dlkernels``, its inputs anywhere in memory."""

import ast
import random

import torch

import dlkernels.torch  # noqa: F401
from activations.specs import ACTIVATIONS
from dlkernels.elementwise_losses import LOSSES

OPS = torch.ops.dlkernels
NAMES = sorted(
    name
    for namespace, name in (s.name.split("::") for s in torch._C._jit_get_all_schemas())
    if namespace == "dlkernels"
)


class Draw:
    """Random shapes, and tensors of a shape that lie in memory in some way."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def choice(self, *values):
        return self.random.choice(values)

    def shape(self, least=0, most=5):
        sizes = (1, 1, 2, 3, 4, 5) if self.random.random() < 0.93 else (0, 1, 2, 3)
        return [self.random.choice(sizes) for _ in range(self.random.randint(least, most))]

    def tensor(self, shape, dtype=None, positive=False, requires_dense=False):
        """Dimensions in some order, with gaps, broadcast, of size 1 with any stride, offset."""
        order = list(range(len(shape)))
        if self.random.random() < 0.7:
            self.random.shuffle(order)
        strides, stride = [0] * len(shape), 1
        kinds = [0] * len(shape)
        if not requires_dense:
            odd = self.random.random()
            kinds = [self.random.choice((0, 0, 0, 1, 2)) if odd < 0.6 else 0 for _ in shape]
        if self.random.random() < 0.15 and not requires_dense:
            stride = 2
        for dim in order:
            strides[dim] = 0 if kinds[dim] == 2 else stride
            if shape[dim] == 1 and self.random.random() < 0.3:
                strides[dim] = self.random.choice((0, 1, 7, 99))
                continue
            if kinds[dim] != 2:
                stride *= max(shape[dim], 1) + (kinds[dim] == 1)
        offset = self.choice(0, 0, 1, 16)
        size = sum((n - 1) * s for n, s in zip(shape, strides, strict=True) if n) + 1 + offset
        generator = torch.Generator().manual_seed(self.random.randrange(2**30))
        memory = torch.rand(size, generator=generator) * 0.8 + 0.1
        memory = memory if positive else memory * 4 - 2
        dtype = dtype or self.choice(torch.float32, torch.float32, torch.float64, torch.bfloat16)
        return memory.to(dtype).as_strided(shape, strides, offset)

    def like(self, x, **options):
        return self.tensor(list(x.shape), x.dtype, **options)


def _activation(draw, saves=None):
    kinds = [spec for spec in ACTIVATIONS if saves is None or spec.row.saves == saves]
    spec = draw.choice(*kinds)
    return spec.row.index, *spec.numbers(spec.options[-1])


def _rows(shape):
    return [shape[0], *shape[2:]] if len(shape) > 1 else []


def _class_loss(draw, is_backward, is_nll=False):
    shape = draw.shape(1)
    axis = min(1, len(shape) - 1)
    shape[axis] = max(shape[axis], 1)
    x = draw.tensor(shape)
    target = torch.randint(0, shape[axis], _rows(shape))
    weight = draw.tensor([shape[axis]], x.dtype, positive=True) if draw.choice(0, 1) else None
    reduction = draw.choice("none", "sum", "mean")
    if not is_nll and draw.choice(0, 0, 1) and x.numel():
        target = draw.like(x, positive=True)
    tail = (-100,) if is_nll else (-100, draw.choice(0.0, 0.1), draw.choice(0.0, 0.01), 0.0)
    arguments = (x, target, weight, reduction, *tail)
    if not is_backward:
        return arguments
    grad = draw.tensor(_rows(shape) if reduction == "none" else [], x.dtype)
    return grad, *arguments


def _batch_norm(draw):
    shape = draw.shape(2)
    x = draw.tensor(shape)
    parameters = draw.choice(x.dtype, torch.float32) if x.dtype.itemsize == 2 else x.dtype

    def vector(positive=False):
        return draw.tensor([shape[1]], parameters, positive=positive)

    has_affine, training = draw.choice(True, False), draw.choice(True, False)
    training = training and x.numel() != shape[1]
    weight, bias = (vector(), vector()) if has_affine else (None, None)
    residual = draw.like(x) if draw.choice(True, False) else None
    running = (vector(), vector(True)) if not training or draw.choice(0, 1) else (None, None)
    activation = draw.choice(None, "relu", "leaky_relu", "silu")
    save = draw.choice(True, False)
    return x, weight, bias, residual, *running, training, 0.1, 1e-5, activation, 0.1, save


def _batch_norm_backward(draw):
    x, weight, bias, residual, *running, training, _, eps, activation, slope, _ = _batch_norm(draw)
    results = OPS.batch_norm(
        x, weight, bias, residual, *running, training, 0.1, eps, activation, slope, True
    )
    mean, spread = results[1:3] if training else running
    masked = residual is not None and activation in ("relu", "leaky_relu")
    want = [draw.choice(True, False), weight is not None, bias is not None, residual is not None]
    kept = residual if activation == "silu" else None
    mask = results[3] if masked else None
    tail = (training, eps, activation, slope, want)
    return draw.like(x), x, weight, bias, kept, mean, spread, mask, *tail


def _elementwise(draw, is_backward):
    row = draw.choice(*[r for r in LOSSES.values() if r.same_shape or len(r.inputs) == 2])
    shape = draw.shape(1)
    x = draw.tensor(shape, positive=True)
    target = draw.like(x, positive=True)
    if not row.same_shape and draw.choice(0, 0, 1):
        broadcast = [1 if draw.choice(0, 1) else size for size in shape]
        target = draw.tensor(broadcast[draw.choice(0, 1) :], x.dtype, positive=True)
    third = draw.like(x, positive=True) if "var" in row.differentiable else None
    index, a, b = row.numbers(**{p.name: ast.literal_eval(p.default) for p in row.parameters})
    reduction = draw.choice("none", "sum", "mean")
    dim = None
    if row.reduction is None:
        reduction, dim = "none", draw.random.randrange(len(shape))
    arguments = (x, target, third, None, index, a, b, reduction, dim)
    if not is_backward:
        return arguments
    losses = OPS.elementwise_loss(*arguments)
    return draw.like(losses), *arguments, draw.choice(0, 1) if "target" in row.differentiable else 0


def _halves(draw):
    shape = draw.shape(1)
    dim = draw.random.randrange(len(shape))
    shape[dim] *= 2
    return draw.tensor(shape), draw.choice(dim, dim - len(shape)), draw.choice(True, False)


def _maxout(draw):
    shape = draw.shape(1)
    dim, pieces = draw.random.randrange(len(shape)), draw.choice(1, 2, 3)
    shape[dim] *= pieces
    return draw.tensor(shape), pieces, dim


def _bias_act(draw):
    x = draw.tensor(draw.shape(1))
    bias = draw.tensor([x.shape[-1]], x.dtype) if draw.choice(0, 1) else None
    return x, bias, torch.tensor(3), 0.5, *_activation(draw)


def _prelu(draw):
    x = draw.tensor(draw.shape(1))
    channels = x.shape[1] if x.dim() > 1 and draw.choice(0, 1) else 1
    return x, draw.tensor([channels], x.dtype)


def _dropout(draw):
    x = draw.tensor(draw.shape(2))
    return x, torch.tensor(5), 0.5, draw.choice(True, False), draw.choice(0, 0, 1, 2)


def _swiglu(draw):
    x = draw.tensor(draw.shape())
    return x, draw.like(x)


def _image(draw):
    x = draw.tensor(draw.shape(3, 4), draw.choice(torch.float32, torch.uint8))
    last, dtype = draw.choice(True, False), draw.choice(torch.float32, torch.bfloat16)
    inverse = x.is_floating_point() and draw.choice(True, False)
    return x, [0.5], [2.0], 1.0, inverse, last, draw.choice(True, False), dtype


def _with_grad(draw, arguments, forward, *picked):
    """A gradient of the forward's result before what backward reads."""
    result = forward(*arguments)
    result = result if isinstance(result, torch.Tensor) else result[0]
    return draw.like(result), *picked


def _softmax(draw):
    x = draw.tensor(draw.shape(1))
    return x, draw.random.randrange(-x.dim(), x.dim()), draw.choice(True, False)


def _masked_backward(draw):
    row = _activation(draw, "mask")
    output, mask = OPS.activation_masked(draw.tensor(draw.shape()), *row)
    return (
        torch.rand(output.shape).to(output.dtype).as_strided(output.shape, output.stride())
        if output.is_contiguous()
        else torch.empty_like(output).normal_(),
        mask,
        *row,
    )


def _maxout_backward(draw):
    x, pieces, dim = _maxout(draw)
    output, index = OPS.maxout(x, pieces, dim)
    return draw.like(output), index, pieces, dim


SAMPLES = {
    "activation": lambda d: (d.tensor(d.shape()), *_activation(d)),
    "activation_": lambda d: (d.tensor(d.shape(), requires_dense=True), *_activation(d)),
    "activation_backward": lambda d: (d.like(x := d.tensor(d.shape())), x, *_activation(d)),
    "activation_masked": lambda d: (d.tensor(d.shape()), *_activation(d, "mask")),
    "activation_masked_backward": _masked_backward,
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "bias_act_dropout": _bias_act,
    "bias_act_dropout_backward": lambda d: (d.like((a := _bias_act(d))[0]), *a),
    "cross_entropy": lambda d: _class_loss(d, False),
    "cross_entropy_backward": lambda d: _class_loss(d, True),
    "dropout": _dropout,
    "dropout_add": lambda d: (x := d.tensor(d.shape()), d.like(x), torch.tensor(1), 0.5),
    "dropout_backward": _dropout,
    "elementwise_loss": lambda d: _elementwise(d, False),
    "elementwise_loss_backward": lambda d: _elementwise(d, True),
    "gated": _halves,
    "gated_backward": lambda d: _with_grad(d, a := _halves(d), OPS.gated, *a),
    "image_normalize": _image,
    "maxout": _maxout,
    "maxout_backward": _maxout_backward,
    "nll_loss": lambda d: _class_loss(d, False, True),
    "nll_loss_backward": lambda d: _class_loss(d, True, True),
    "prelu": _prelu,
    "prelu_backward": lambda d: (d.like((a := _prelu(d))[0]), *a),
    "softmax": _softmax,
    "softmax_backward": lambda d: (d.like((a := _softmax(d))[0]), *a),
    "swiglu": _swiglu,
    "swiglu_backward": lambda d: (d.like((a := _swiglu(d))[0]), *a),
}
