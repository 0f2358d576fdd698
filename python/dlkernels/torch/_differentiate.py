"""Gradients through torch's own operations: for gradients of gradients, batches of gradients, and
tensors that no kernel takes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import _C, Tensor

_AUTOGRAD = _C.DispatchKeySet(_C.DispatchKey.AutogradFunctionality) | _C.DispatchKeySet(
    _C.DispatchKey.ADInplaceOrView
)


_transforms = _C._functorch.peek_interpreter_stack


def _autograd_on() -> Any:
    """Lets autograd record also where an operator is being taken apart, below autograd's level."""
    if not _C._dispatch_tls_is_dispatch_key_excluded(_C.DispatchKey.AutogradFunctionality):
        return contextlib.nullcontext()
    included, excluded = _C._dispatch_tls_local_include_set(), _C._dispatch_tls_local_exclude_set()
    return _C._ForceDispatchKeyGuard(included, excluded - _AUTOGRAD)


def differentiate(
    function: Callable[..., Any], inputs: Sequence[Tensor], grad_output: Any
) -> tuple[Tensor, ...]:
    """The gradients of `function`, whose result may be a tuple as `grad_output` then is, for every
    one of its inputs, through torch's own operations, inside a backward: differentiable again under
    create_graph, and good for a batch of grad_output.
    """
    if _transforms() is not None:  # inside them no tensor can be made to require grad
        gradients: tuple[Tensor, ...] = torch.func.vjp(function, *inputs)[1](grad_output)
        return gradients
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad(), _autograd_on():
        # A view, because one tensor may be two of the inputs: each gets its own part.
        at = [
            x.view_as(x) if create_graph and x.requires_grad else x.detach().requires_grad_()
            for x in inputs
        ]
        results = function(*at)
        single = isinstance(results, Tensor)
        pairs = zip(
            *(((results,), (grad_output,)) if single else (results, grad_output)), strict=True
        )
        chosen = [pair for pair in pairs if pair[0].requires_grad]  # some may depend on no input
        if not chosen:
            return tuple(torch.zeros_like(x) for x in inputs)
        outputs, grads = zip(*chosen, strict=True)
        return torch.autograd.grad(
            outputs, at, grads, create_graph=create_graph, materialize_grads=True
        )


def differentiate_chosen(
    function: Callable[..., Any], inputs: Sequence[Any], chosen: Sequence[int], grad_output: Any
) -> list[Tensor | None]:
    """`differentiate` for those inputs whose places are `chosen`; None for the others, which need
    not be tensors."""
    gradients: list[Tensor | None] = [None] * len(inputs)
    if not chosen:
        return gradients

    def of_chosen(*at: Tensor) -> Any:
        filled = list(inputs)
        for place, tensor in zip(chosen, at, strict=True):
            filled[place] = tensor
        return function(*filled)

    found = differentiate(of_chosen, [inputs[place] for place in chosen], grad_output)
    for place, gradient in zip(chosen, found, strict=True):
        gradients[place] = gradient
    return gradients


def differentiated(function: Callable[..., Tensor], count: int = 1) -> Callable[..., Any]:
    """The gradient of a function's first argument, or the tuple of those of the first `count`, as a
    function of the result's gradient and the same arguments."""

    def gradients(grad_output: Tensor, *arguments: Any) -> Any:
        rest = arguments[count:]
        found = differentiate(lambda *at: function(*at, *rest), arguments[:count], grad_output)
        return found[0] if count == 1 else found

    return gradients
