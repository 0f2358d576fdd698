"""Pictures of bytes to normalized planes: a byte in, a float32 out."""

from __future__ import annotations

from typing import Any

from bench.case import AND_COMPILED, Case, against
from bench.workload import Front, Workload, forward


def in_torch(x: Any, mean: Any, std: Any) -> Any:
    """What one writes in torch."""
    import torch

    mean, std = torch.tensor(mean), torch.tensor(std)
    return ((x.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def normalize(case: Case, front: Front) -> Workload:
    """A batch, channels last."""
    import torch

    function = front.wrap(in_torch)
    if front.is_ours:
        from dlkernels.torch import image

        function = image.normalize
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, case.shape, generator=generator, dtype=torch.uint8)
    return forward(function, x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


CASES = (
    Case(
        "images",
        "uint8 NHWC to normalized NCHW",
        (64, 224, 224, 3),
        AND_COMPILED,
        normalize,
        bytes_per_element=5,
        telling=True,
        targets=against(5, 3),
    ),
)
