"""JAX under `jit`. Each case says what it is in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bench.peers import Peer
from bench.workload import Workload

JAX = "JAX jit"


def jitted(function: Callable[..., Any], *tensors: Any) -> Workload:
    """A function of torch tensors' values, which waits for each result as its user would."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    arguments = [
        jnp.asarray(tensor.float().numpy()).astype(str(tensor.dtype).removeprefix("torch."))
        if tensor.is_floating_point()
        else jnp.asarray(tensor.numpy().astype(np.int32))
        for tensor in tensors
    ]
    compiled = jax.jit(function)

    def fingerprint(result: Any) -> float:
        return sum(
            float(np.abs(np.asarray(part).astype(np.float32)).sum(dtype=np.float64))
            for part in jax.tree_util.tree_leaves(result)
        )

    return Workload(lambda: jax.block_until_ready(compiled(*arguments)), fingerprint)


PEERS = (
    Peer(
        JAX,
        None,
        ("torch", "jax", "ml_dtypes"),
        child=True,
        environment={"JAX_PLATFORMS": "cpu"},
        colour="#7cb0d1",
        marker="D",
    ),
)
