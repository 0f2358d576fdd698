"""Every module of `dlkernels.torch.nn` as tools and their users treat modules."""

import copy
import pickle

import pytest
import torch

import dlkernels.torch.functional as F
import dlkernels.torch.nn as dnn
from twins import MODULE_CALLS


@pytest.mark.parametrize("name", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("dim", [True, 1.0, "1"])
def test_softmax_takes_no_dimension_that_is_no_int(name, dim):
    with pytest.raises(TypeError):
        getattr(dnn, name)(dim=dim)(torch.ones(2, 2))


#: Ours without a module of torch's of the same name: what a user has in its place.
IN_PLACE_OF = {
    "BatchNormAct1d": torch.nn.BatchNorm1d,
    "BatchNormAct2d": torch.nn.BatchNorm2d,
    "BatchNormAct3d": torch.nn.BatchNorm3d,
    "SyncBatchNorm": torch.nn.BatchNorm1d,
}


def _run(module, call, training):
    module.train(training)
    torch.manual_seed(0)
    with torch.no_grad():
        return module(*call.inputs())


@pytest.mark.parametrize("call", MODULE_CALLS, ids=lambda c: c.name)
def test_a_module_of_torchs_becomes_ours_by_its_class(call):
    base = IN_PLACE_OF.get(call.name, call.theirs)
    if base is None:
        pytest.skip("torch has nothing like it")
    ours = call.ours(**call.arguments)
    swapped = base(**call.arguments)
    swapped.__class__ = call.ours
    copies = [pickle.loads(pickle.dumps(swapped)), copy.deepcopy(swapped)]
    for module in (swapped, *copies):
        assert repr(module) == repr(ours)
        for training in (True, False):
            expected = _run(copy.deepcopy(ours), call, training)
            assert torch.equal(_run(copy.deepcopy(module), call, training), expected)


def test_the_maps_to_twins_are_complete():
    """By torch's names; and they hold nothing else."""
    assert {getattr(torch.nn, n): getattr(dnn, n) for n in dnn.__all__ if hasattr(torch.nn, n)} == (
        dnn.TWINS
    )
    theirs = {n: getattr(torch.nn.functional, n, None) for n in F.__all__}
    theirs |= {n: getattr(torch, n, None) for n in F.__all__ if n.endswith("_") and not theirs[n]}
    assert {t: getattr(F, n) for n, t in theirs.items() if t is not None} == F.TWINS
    for name in ("CrossEntropyLoss", "NLLLoss", "Softmax", "LogSoftmax", "SyncBatchNorm", "ReLU"):
        assert dnn.TWINS[getattr(torch.nn, name)] is getattr(dnn, name)
    assert dnn.TWINS[torch.nn.BatchNorm2d] is dnn.BatchNorm2d
    assert F.TWINS[torch.nn.functional.relu] is F.relu
    assert F.TWINS[torch.sigmoid_] is F.sigmoid_
