"""State dicts of `dlkernels.torch.optim`, by every way that torch has of saving and loading them:
going on from one is going on bit by bit, and taking one changes nothing."""

import copy
import io
import itertools
import warnings

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict as checkpoint

import dlkernels.torch.optim as ours

#: Options that make every state there is, and first steps that differ from others.
OPTIONS = {
    "SGD": [{"momentum": 0.9, "weight_decay": 0.1, "dampening": 0.5}, {}],
    "Adam": [{"amsgrad": True, "weight_decay": 0.1}],
    "AdamW": [{}],
    "RMSprop": [{"momentum": 0.9}, {"momentum": 0.9, "centered": True}],
    "Adagrad": [{"initial_accumulator_value": 0.125}],
    "LARS": [{"momentum": 0.9, "dampening": 0.5}],
    "Rprop": [{"lr": 0.02}],
    "ASGD": [{"lr": 0.02, "t0": 1.0}],
}
FORMATS = {
    "plain": {},
    "8bit": {"state_dtype": "8bit", "min_8bit_size": 64},
    "bf16": {"state_dtype": "bf16", "seed": 3},
    "split16": {"master": "split16"},
    "8bit-split16": {"state_dtype": "8bit", "min_8bit_size": 64, "master": "split16"},
    "bf16-split16": {"state_dtype": "bf16", "seed": 2**63 + 9, "master": "split16"},
}
EXTRAS = {
    "none": {},
    "ema": {"ema_decay": 0.9},
    "all": {"ema_decay": 0.5, "max_grad_norm": 0.25, "zero_grads": True, "write_back": True},
}


def takes(name, options, format):
    rule = getattr(ours, name)._rule
    return "state_dtype" not in FORMATS[format] or (rule.signed and not options.get("centered"))


CASES = [
    (name, index, format, extras)
    for name in ours.__all__
    for index, options in enumerate(OPTIONS.get(name, [{}]))
    for format in FORMATS
    for extras in EXTRAS
    if takes(name, options, format)
]


def model_of(seed, dtype):
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(7, 37), torch.nn.Tanh(), torch.nn.Linear(37, 3)
    ).to(dtype)


def set_grads(model, step):
    generator = torch.Generator().manual_seed(100 + step)
    for param in model.parameters():
        param.grad = torch.randn(param.shape, generator=generator).to(param.dtype)


def run(model, optimizer, steps):
    for step in steps:
        set_grads(model, step)
        optimizer.step()
    model.zero_grad()


class Case:
    """A case of `CASES`, and how its optimizers are made."""

    def __init__(self, case, steps):
        name, index, format, extras = case
        self.dtype = torch.bfloat16 if "split16" in format else torch.float32
        self.cls = getattr(ours, name)
        self.options = {"lr": 0.02, **OPTIONS.get(name, [{}])[index]}
        if not steps:  # a checkpoint has a buffer, of zeros, before the first step
            self.options.pop("dampening", None)
        self.more = {**FORMATS[format], **EXTRAS[extras]}

    def make(self, seed=0, bare=False, lr=None):
        model = model_of(seed, self.dtype)
        options = {**self.options, **({} if bare else self.more)}
        if lr is not None:
            options["lr"] = lr
        return model, self.cls(model.parameters(), **options)

    def after(self, steps):
        model, optimizer = self.make()
        run(model, optimizer, range(steps))
        return model, optimizer


def raw(value):
    if isinstance(value, tuple):
        return list(value)  # as a full state dict has it
    if not torch.is_tensor(value):
        return value
    return value.dtype, value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def everything(model, optimizer):
    groups = [
        {key: raw(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    params = [param for group in optimizer.param_groups for param in group["params"]]
    states = [
        {key: raw(value) for key, value in sorted(optimizer.state.get(param, {}).items())}
        for param in params
    ]
    return groups, states, [raw(param) for param in params]


def assert_same(first, second, what):
    for a, b in zip(everything(*first), everything(*second), strict=True):
        assert a == b, what


# --- the ways


def through_state_dict(case, model, optimizer, folder):
    other, loaded = case.make(seed=1, lr=0.5)
    other.load_state_dict(model.state_dict())
    loaded.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    return other, loaded


def through_file_without_arguments(case, model, optimizer, folder):
    file = io.BytesIO()
    torch.save((model.state_dict(), optimizer.state_dict()), file)
    file.seek(0)
    weights, states = torch.load(file, weights_only=True)
    other, loaded = case.make(seed=1, bare=True)
    other.load_state_dict(weights)
    loaded.load_state_dict(states)
    return other, loaded


def through_get_and_set(flatten):
    def way(case, model, optimizer, folder):
        # of torch's own none can be flat and full, or full without states
        options = checkpoint.StateDictOptions(
            flatten_optimizer_state_dict=flatten,
            full_state_dict=not flatten and bool(optimizer.state),
        )
        weights, states = checkpoint.get_state_dict(model, optimizer, options=options)
        file = io.BytesIO()
        torch.save((weights, states), file)
        file.seek(0)
        weights, states = torch.load(file, weights_only=True)
        other, loaded = case.make(seed=1, lr=0.5)
        other.load_state_dict(weights)
        checkpoint.set_optimizer_state_dict(other, loaded, states, options=options)
        return other, loaded

    return way


def through_checkpoint(flatten):
    def way(case, model, optimizer, folder):
        options = checkpoint.StateDictOptions(flatten_optimizer_state_dict=flatten)

        def of(model, optimizer):
            return {
                "model": checkpoint.get_model_state_dict(model),
                "optim": checkpoint.get_optimizer_state_dict(model, optimizer, options=options),
            }

        dcp.save(of(model, optimizer), checkpoint_id=folder, no_dist=True)
        other, loaded = case.make(seed=1, lr=0.5)
        state = of(other, loaded)
        dcp.load(state, checkpoint_id=folder, no_dist=True)
        checkpoint.set_state_dict(
            other,
            loaded,
            model_state_dict=state["model"],
            optim_state_dict=state["optim"],
            options=options,
        )
        return other, loaded

    return way


WAYS = {
    "state_dict": through_state_dict,
    "file, without arguments": through_file_without_arguments,
    "get and set": through_get_and_set(False),
    "get and set, flat": through_get_and_set(True),
    "checkpoint": through_checkpoint(False),
    "checkpoint, flat": through_checkpoint(True),
}


def check_going_on(case, way, steps, folder):
    case = Case(case, steps)
    model, optimizer = case.after(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        other, loaded = WAYS[way](case, model, optimizer, folder)
    if steps:
        assert_same((other, loaded), (model, optimizer), (case.cls, case.more, way, "loaded"))
    for given in ((model, optimizer), (other, loaded)):
        run(*given, range(steps, steps + 2))
    assert_same((other, loaded), (model, optimizer), (case.cls, case.more, way, steps))
    if "ema_decay" in case.more:
        for a, b in zip(loaded.ema_parameters(), optimizer.ema_parameters(), strict=True):
            assert raw(a) == raw(b)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ours.__all__)
def test_going_on_is_going_on_bit_by_bit(name, way, tmp_path):
    """One case of each; the next test has all."""
    cases = [case for case in CASES if case[0] == name]
    number = 7 * ours.__all__.index(name) + list(WAYS).index(way)
    for index, steps in ((5 * number, 2), (5 * number + 11, 0)):
        check_going_on(cases[index % len(cases)], way, steps, tmp_path / str(steps))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_going_on_for_every_case(case, tmp_path):
    for number, (way, steps) in enumerate(itertools.product(WAYS, (0, 1, 3))):
        check_going_on(case, way, steps, tmp_path / str(number))
