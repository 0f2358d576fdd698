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
from optim.problems import set_grads
from torch_support import bits

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
    return torch.nn.Sequential(torch.nn.Linear(7, 37), torch.nn.Tanh(), torch.nn.Linear(37, 3)).to(
        dtype
    )


def run(model, optimizer, steps):
    for step in steps:
        set_grads(model.parameters(), step)
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
    return bits(value)


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
            full_state_dict=not flatten and any(optimizer.state.values()),
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
    whole, saved = case.after(steps + 2), case.after(steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = WAYS[way](case, *saved, folder)
    what = (case.cls, case.more, way, steps)
    if steps:
        assert_same(loaded, saved, (*what, "loaded"))
    for given in (saved, loaded):
        run(*given, range(steps, steps + 2))
        assert_same(given, whole, what)
        if "ema_decay" in case.more:
            pairs = zip(given[1].ema_parameters(), whole[1].ema_parameters(), strict=True)
            assert all(raw(a) == raw(b) for a, b in pairs), what


@pytest.mark.parametrize(
    ("case", "way"),
    [
        (("Adagrad", 0, "8bit", "all"), "checkpoint"),
        (("Adagrad", 0, "plain", "ema"), "checkpoint, flat"),
        (("AdamW", 0, "8bit-split16", "ema"), "checkpoint, flat"),
        (("SGD", 1, "plain", "ema"), "checkpoint"),
        (("SGD", 0, "8bit", "none"), "get and set, flat"),
    ],
    ids=str,
)
@pytest.mark.parametrize("steps", [0, 2])
def test_going_on_is_going_on_bit_by_bit(case, way, steps, tmp_path):
    check_going_on(case, way, steps, tmp_path)


@pytest.mark.parametrize("name", ours.__all__)
def test_going_on_for_some_of_each(name, tmp_path):
    cases = [case for case in CASES if case[0] == name]
    number = 7 * ours.__all__.index(name)
    for index, steps in ((number, 2), (number + 1, 0)):
        way = list(WAYS)[index % len(WAYS)]
        check_going_on(cases[5 * index % len(cases)], way, steps, tmp_path / str(steps))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_going_on_for_every_case(case, tmp_path):
    for number, (way, steps) in enumerate(itertools.product(WAYS, (0, 1, 3))):
        check_going_on(case, way, steps, tmp_path / str(number))


# --- taking one


@pytest.mark.parametrize(
    "case",
    [case for case in CASES if case[2] in ("plain", "8bit-split16") and case[3] == "all"],
    ids=str,
)
def test_taking_a_state_dict_changes_nothing(case):
    """Before the first step too, and where the learning rate changes between."""
    case = Case(case, 1)
    results = []
    for reads in (False, True):
        model, optimizer = case.make(lr=0.5)
        before = [raw(param) for param in model.parameters()]
        if reads:
            for _ in range(2):
                taken = checkpoint.get_optimizer_state_dict(model, optimizer)
            assert [raw(param) for param in model.parameters()] == before
            assert all(taken["state"][name] for name, _ in model.named_parameters())
            assert taken["param_groups"][0]["ema_steps"] == 0
            for own in taken["state"].values():
                assert own.get("step", 0) == 0
        model.load_state_dict(case.make(seed=5)[0].state_dict())
        for param, own in zip(model.parameters(), optimizer.ema_parameters(), strict=True):
            assert torch.equal(param, own)
        optimizer.param_groups[0]["lr"] = 0.02
        run(model, optimizer, range(2))
        results.append((model, optimizer))
    assert_same(*results, (case.cls, case.more))


def test_a_first_step_at_a_rate_of_zero_counts():
    """A warm-up starts so."""
    model = model_of(0, torch.float32)
    optimizer = ours.AdamW(model.parameters(), lr=0.0)
    run(model, optimizer, range(1))
    assert {float(own["step"]) for own in optimizer.state.values()} == {1.0}


def test_what_is_loaded_in_place_stays():
    """Before the first step, without a call of load_state_dict."""
    case = Case(("Adam", 0, "plain", "none"), 3)
    model, optimizer = case.after(3)
    other, loaded = case.make()
    other.load_state_dict(model.state_dict())
    given = checkpoint.get_optimizer_state_dict(model, optimizer)["state"]
    taken = checkpoint.get_optimizer_state_dict(other, loaded)["state"]
    with torch.no_grad():
        for name, own in taken.items():
            for key, value in own.items():
                value.copy_(given[name][key])
    for pair in ((model, optimizer), (other, loaded)):
        run(*pair, range(3, 5))
    assert_same((other, loaded), (model, optimizer), "in place")
