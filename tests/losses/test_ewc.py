"""EWC: against a slow reference, a closed form, autograd, and every way in which a model can be wrapped."""

import copy
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import fastia
from fastia.losses import ewc as module

STRENGTH = 3.0


def small_model(seed: int = 0) -> nn.Sequential:
    """Linear layers with a bias that gets no gradient, a frozen layer, and a parameter that nothing uses."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Linear(5, 3))
    model[2].requires_grad_(False)
    model[3].unused = nn.Parameter(torch.randn(7))
    return model


def batch(seed: int, size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, 4, generator=generator), torch.randn(size, 3, generator=generator)


def backward(model: nn.Module, seed: int) -> None:
    model.zero_grad()
    inputs, target = batch(seed)
    F.mse_loss(model(inputs), target).backward()


def drift(model: nn.Module, size: float = 0.1) -> None:
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator), alpha=size)


def task_a(model: nn.Module, *, calls: int = 3, **options: Any) -> fastia.EWC:
    """An EWC that has seen task A, before consolidate()."""
    ewc = fastia.EWC(model, **options)
    if ewc.fisher == "empirical":
        ewc.estimate([batch(0, 5), batch(1, 3)], F.mse_loss)
    else:
        for seed in range(calls):
            backward(model, seed)
            ewc.observe()
    return ewc


def reference_fisher(
    model: nn.Module, fisher: str, decay: float, normalize: bool, calls: int = 3
) -> dict[str, torch.Tensor]:
    """F by the formulas of the documentation, parameter by parameter, in float64."""
    model = copy.deepcopy(model).double()
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    gradients = []  # of each observation
    if fisher == "empirical":
        samples = [(x[None], y[None]) for b in (batch(0, 5), batch(1, 3)) for x, y in zip(*b, strict=True)]
    else:
        samples = [batch(seed) for seed in range(calls)]
    for inputs, target in samples:
        model.zero_grad()
        F.mse_loss(model(inputs.double()), target.double()).backward()
        gradients.append({n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in trainable.items()})
    result = {}
    for name, value in trainable.items():
        if fisher == "ema":
            total = torch.ones_like(value)
            for each in gradients:
                total = decay * each[name] ** 2 + (1 - decay) * total
        else:
            total = sum(each[name] ** 2 for each in gradients) / len(gradients)
        if normalize:
            total = (total - total.min()) / (total.max() - total.min() + 1e-8)
        result[name] = total.detach()
    return result


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("fisher", ["ema", "batch", "empirical"])
def test_equals_a_slow_reference(fisher: str, normalize: bool) -> None:
    model = small_model()
    ewc = task_a(model, fisher=fisher, decay=0.7, normalize=normalize)
    expected = reference_fisher(model, fisher, 0.7, normalize)
    anchors = {name: value.detach().double().clone() for name, value in model.named_parameters()}
    ewc.consolidate()
    state = ewc.state_dict()
    assert list(state["fisher"]) == list(state["anchor"]) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(state["fisher"][name].double(), value, rtol=1e-5, atol=1e-6)  # float32 rounding
        assert torch.equal(state["anchor"][name].double(), anchors[name])
    drift(model)
    penalty = sum(
        (expected[n] * (v.double() - anchors[n]) ** 2).sum() for n, v in model.named_parameters() if n in expected
    )
    torch.testing.assert_close(ewc.penalty().double(), penalty, rtol=1e-5, atol=0)


def test_groups_give_the_sum_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = small_model(), small_model()
    expected = task_a(model)
    monkeypatch.setattr(module, "_GROUP", 20)
    ewc = task_a(other)
    assert len(ewc._groups) > 2
    for each in (expected, ewc):
        each.consolidate()
    drift(model)
    drift(other)
    torch.testing.assert_close(ewc.add_penalty_gradient_(1.0), expected.add_penalty_gradient_(1.0), rtol=1e-6, atol=0)
    for value, like in zip(other.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(value.grad, like.grad)


def test_fisher_of_linear_regression_is_that_in_closed_form() -> None:
    """Loss (y - w x)^2 / 2 with y = w x + e: gradient -e x, so that F = mean of e^2 x^2 for each weight."""
    torch.manual_seed(0)
    inputs, noise = torch.randn(50, 3, dtype=torch.float64), torch.randn(50, 1, dtype=torch.float64)
    model = nn.Linear(3, 1, bias=False, dtype=torch.float64)
    target = (model(inputs) + noise).detach()
    ewc = fastia.EWC(model, fisher="empirical", normalize=False)
    ewc.estimate([(inputs[:20], target[:20]), (inputs[20:], target[20:])], lambda y, t: (y - t).square().sum() / 2)
    ewc.consolidate()
    expected = (noise**2 * inputs**2).mean(0, keepdim=True)
    torch.testing.assert_close(ewc.state_dict()["fisher"]["weight"], expected)
    with torch.no_grad():
        model.weight.add_(torch.tensor([[1.0, -2.0, 0.0]]))
    torch.testing.assert_close(ewc.penalty(), (expected * torch.tensor([[1.0, 4.0, 0.0]])).sum())


@pytest.mark.parametrize("fisher", ["ema", "batch", "empirical"])
def test_penalty_is_zero_without_drift_and_positive_after(fisher: str) -> None:
    model = small_model()
    ewc = task_a(model, fisher=fisher)
    ewc.consolidate()
    assert ewc.penalty() == 0
    drift(model, 1e-3)
    assert ewc.penalty() > 0


def test_added_gradient_is_that_of_autograd() -> None:
    model = small_model()
    ewc = task_a(model)
    ewc.consolidate()
    drift(model)
    backward(model, 5)
    before = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    trainable = {name: value for name, value in model.named_parameters() if value.requires_grad}
    slopes = torch.autograd.grad(STRENGTH * ewc.penalty(), list(trainable.values()))
    added = ewc.add_penalty_gradient_(STRENGTH)
    torch.testing.assert_close(added, ewc.penalty().detach(), rtol=0, atol=0)
    assert not added.requires_grad
    assert trainable["3.unused"].grad is not None
    for slope, (name, value) in zip(slopes, trainable.items(), strict=True):
        torch.testing.assert_close(value.grad, before.get(name, 0) + slope)
    assert model[2].weight.grad is None


def test_gradient_of_penalty_is_that_of_finite_differences() -> None:
    model = small_model().double()
    ewc = fastia.EWC(model)
    inputs, target = batch(0)
    F.mse_loss(model(inputs.double()), target.double()).backward()
    ewc.observe()
    ewc.consolidate()
    drift(model)
    trainable = [value for value in model.parameters() if value.requires_grad]
    torch.autograd.gradcheck(lambda *_: ewc.penalty(), trainable)


def test_layer_frozen_for_task_b_gets_no_gradient() -> None:
    model = small_model()
    ewc = task_a(model)
    ewc.consolidate()
    drift(model)
    expected = ewc.penalty().detach()
    model[0].requires_grad_(False)
    model.zero_grad()
    assert ewc.add_penalty_gradient_(1.0) == expected
    assert model[0].weight.grad is None
    assert model[3].weight.grad is not None


def test_penalty_comes_once_for_accumulated_micro_batches() -> None:
    """Two halves of a batch, their losses halved, give the Fisher information and gradient of the whole."""
    gradients, fishers = [], []
    for parts in (1, 2):
        model = small_model()
        ewc = fastia.EWC(model)
        for step in range(2):
            model.zero_grad()
            for inputs, target in zip(*(tensor.chunk(parts) for tensor in batch(step)), strict=True):
                (F.mse_loss(model(inputs), target) / parts).backward()
            if step == 0:
                ewc.observe()
                ewc.consolidate()
                drift(model)
        ewc.add_penalty_gradient_(STRENGTH)
        gradients.append([value.grad for value in model.parameters() if value.grad is not None])
        fishers.append(ewc.state_dict()["fisher"])
    torch.testing.assert_close(gradients[1], gradients[0])
    torch.testing.assert_close(fishers[1], fishers[0])


# Wrapped models


def wrap(how: str, model: nn.Module) -> nn.Module:
    if how == "DataParallel":
        return DataParallel(model)
    if how == "compile":
        return torch.compile(model, backend="eager")
    if how == "compile of DataParallel":
        return torch.compile(DataParallel(model), backend="eager")
    model[0] = torch.compile(model[0], backend="eager")
    return model


@pytest.mark.parametrize("how", ["DataParallel", "compile", "compile of DataParallel", "compiled layer"])
def test_state_of_a_wrapped_model_fits_the_bare_one_and_sees_its_drift(how: str) -> None:
    """The released code compares names of the wrapped with names of the bare model; its penalty is always 0."""
    model, bare = small_model(), small_model()
    expected = task_a(bare).state_dict()["fisher"]
    ewc = task_a(wrap(how, model))
    torch.testing.assert_close(ewc.state_dict()["fisher"], expected)
    ewc.consolidate()
    other = fastia.EWC(bare)
    other.load_state_dict(ewc.state_dict())
    drift(bare)
    assert other.penalty() > 0
    drift(model)
    torch.testing.assert_close(ewc.penalty(), other.penalty())


def test_own_attribute_named_module_keeps_its_name() -> None:
    model = nn.Module()
    model.module, model.head = nn.Linear(2, 2), nn.Linear(2, 2)
    assert list(fastia.EWC(model).state_dict()["fisher"]) == [name for name, _ in model.named_parameters()]


def run_rank(rank: int, world_size: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world_size)
    result = {}
    for fisher in ("ema", "empirical"):
        model = small_model()
        del model[3].unused
        model = DistributedDataParallel(model)
        ewc = fastia.EWC(model, fisher=fisher)
        for seed in range(3):
            inputs, target = (tensor.chunk(world_size)[rank] for tensor in batch(seed))
            if fisher == "empirical":
                ewc.estimate([(inputs, target)], F.mse_loss)
            else:
                model.zero_grad()
                F.mse_loss(model(inputs), target).backward()
                ewc.observe()
        ewc.consolidate()
        drift(model)
        result[fisher] = ewc.state_dict()["fisher"], ewc.add_penalty_gradient_(1.0)
    torch.save(result, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_fisher_of_one_with_the_joined_batch(tmp_path: Path) -> None:
    multiprocessing.set_forkserver_preload(["fastia"])
    torch.multiprocessing.start_processes(run_rank, (2, str(tmp_path)), 2, start_method="forkserver")
    ranks = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    for fisher in ("ema", "empirical"):
        model = small_model()
        del model[3].unused
        ewc = fastia.EWC(model, fisher=fisher)
        for seed in range(3):
            if fisher == "empirical":
                ewc.estimate([batch(seed)], F.mse_loss)
            else:
                backward(model, seed)
                ewc.observe()
        ewc.consolidate()
        drift(model)
        expected = ewc.state_dict()["fisher"], ewc.add_penalty_gradient_(1.0)
        assert expected[1] > 0
        for result in ranks:
            torch.testing.assert_close(result[fisher], expected)
        torch.testing.assert_close(ranks[0][fisher], ranks[1][fisher], rtol=0, atol=0)


# Dtypes and devices


def test_nothing_is_read_from_the_device() -> None:
    """Tensors on the meta device have no values, so that whatever waits for one raises."""
    with torch.device("meta"):
        model = nn.Linear(4, 3)
        ewc = fastia.EWC(model, normalize=False)
        for _ in range(2):
            model(torch.randn(2, 4)).sum().backward()
            ewc.observe()
        ewc.consolidate()
        assert ewc.add_penalty_gradient_(2.0).is_meta
        assert ewc.penalty().is_meta


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_parameters_keep_float32_fisher(dtype: torch.dtype) -> None:
    model = nn.ModuleList([nn.Linear(4, 3).to(dtype), nn.Linear(4, 3), nn.Linear(4, 3).double()])
    ewc = fastia.EWC(model, fisher="batch", normalize=False)
    for value in model.parameters():
        value.grad = torch.full_like(value, 1e-4)  # its square is 0 in float16
    ewc.observe()
    ewc.consolidate()
    with torch.no_grad():
        for value in model.parameters():
            value.add_(0.5)
    fisher = ewc.state_dict()["fisher"]
    assert [fisher[f"{i}.weight"].dtype for i in range(3)] == [torch.float32, torch.float32, torch.float64]
    expected = sum(15 * fisher[f"{i}.weight"].mean() * 0.25 for i in range(3))
    torch.testing.assert_close(ewc.add_penalty_gradient_(1e6), expected.float(), rtol=0.02, atol=0)  # bfloat16 steps
    for layer in model:
        torch.testing.assert_close(layer.bias.grad, torch.full_like(layer.bias, 1e-4 + 1e6 * 1e-8), rtol=0.02, atol=0)


# State


@pytest.mark.parametrize("fisher", ["ema", "batch", "empirical"])
def test_state_in_the_middle_of_task_a_goes_on(fisher: str, tmp_path: Path) -> None:
    results = []
    for interrupted in (False, True):
        model = small_model()
        ewc = task_a(model, fisher=fisher)
        if interrupted:
            torch.save(ewc.state_dict(), tmp_path / "ewc.pt")
            ewc = fastia.EWC(model, fisher=fisher)
            ewc.load_state_dict(torch.load(tmp_path / "ewc.pt", weights_only=True))
            assert not ewc.consolidated
        if fisher == "empirical":
            ewc.estimate([batch(9)], F.mse_loss)
        else:
            backward(model, 9)
            ewc.observe()
        ewc.consolidate()
        torch.save(ewc.state_dict(), tmp_path / "ewc.pt")
        ewc = fastia.EWC(model, fisher=fisher)
        ewc.load_state_dict(torch.load(tmp_path / "ewc.pt", weights_only=True))
        drift(model)
        results.append((ewc.state_dict()["fisher"], ewc.penalty().detach()))
    torch.testing.assert_close(results[1], results[0], rtol=0, atol=0)


def test_state_that_does_not_match_is_named_and_changes_nothing() -> None:
    model = small_model()
    ewc = task_a(model)
    ewc.consolidate()
    state = ewc.state_dict()
    fisher = state["fisher"]
    lacking = {name: value for name, value in fisher.items() if name != "3.bias"}
    cases = [
        ({"fisher": lacking}, KeyError, "state has no fisher of '3.bias'"),
        ({"anchor": {**fisher, "4.bias": fisher["3.bias"]}}, KeyError, "state has anchor of '4.bias'"),
        ({"fisher": {**fisher, "3.bias": torch.zeros(2)}}, ValueError, r"fisher of '3.bias' .* \(3,\), got \(2,\)"),
        ({"options": {**state["options"], "decay": 0.5}}, ValueError, "state was made with .*0.5"),
        ({"version": 2}, ValueError, "state must be that of EWC.state_dict"),
    ]  # fmt: skip
    other = fastia.EWC(model)
    for change, error, message in cases:
        with pytest.raises(error, match=message):
            other.load_state_dict({**state, **change})
    assert not other.consolidated
    assert all(bool((value == 1).all()) for value in other.state_dict()["fisher"].values())


def test_calls_out_of_order_are_named() -> None:
    model = small_model()
    ewc = fastia.EWC(model)
    for call in (ewc.penalty, lambda: ewc.add_penalty_gradient_(1.0)):
        with pytest.raises(RuntimeError, match="belongs to task B, which consolidate"):
            call()
    with pytest.raises(RuntimeError, match="found no gradient"):
        ewc.observe()
    with pytest.raises(RuntimeError, match=r"call observe\(\) before"):
        ewc.consolidate()
    with pytest.raises(RuntimeError, match="needs fisher=\"empirical\", not 'ema'"):
        ewc.estimate([], F.mse_loss)
    with pytest.raises(RuntimeError, match='with "empirical" call estimate'):
        fastia.EWC(model, fisher="empirical").observe()
    ewc = task_a(model)
    ewc.consolidate()
    for call in (ewc.observe, ewc.consolidate):
        with pytest.raises(RuntimeError, match="belongs to task A, which consolidate"):
            call()


def test_bad_arguments_are_named() -> None:
    model = small_model()
    with pytest.raises(ValueError, match="fisher must be 'ema' or 'batch' or 'empirical', got 'diagonal'"):
        fastia.EWC(model, fisher="diagonal")
    with pytest.raises(ValueError, match=r"decay must be in 0..1, got 1.5"):
        fastia.EWC(model, decay=1.5)
    with pytest.raises(ValueError, match="model must have a parameter that requires gradients"):
        fastia.EWC(nn.ReLU())
    ewc = task_a(model)
    ewc.consolidate()
    with pytest.raises(ValueError, match="strength must be at least 0, got -1"):
        ewc.add_penalty_gradient_(-1)
