"""Elastic weight consolidation: the parameters that mattered for task A stay near their values during task B."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from fastia.functional import checks

FISHERS = ("ema", "batch", "empirical")
_GROUP = 2**21  # elements of parameters that are worked on at once: what lies between two operations stays in the cache


class EWC:
    """Elastic weight consolidation: ``penalty = sum_i F_i (theta_i - theta_A,i)^2``, to be added ``lambda`` times.

    While task A is trained, ``observe()`` estimates the Fisher information F from the gradients; ``consolidate()`` ends
    task A, keeping F and the parameters theta_A. While task B is trained, either ``penalty()`` joins the loss or, which
    needs no graph, ``add_penalty_gradient_()`` adds its gradient to ``.grad`` after ``backward()``.

    Both ``observe()`` and ``add_penalty_gradient_()`` belong between ``backward()`` and ``optimizer.step()``, once for
    each optimizer step: when micro-batches are accumulated, after the last of them; with a gradient scaler, after
    ``scaler.unscale_(optimizer)``; before gradients are clipped; and with DistributedDataParallel, where gradients are
    averaged by then, in every process. Neither waits for the device.

    Covered are the parameters that require gradients when the object is made, which it refers to: make it when the
    model is on its device. F is float32 (float64 for float64 parameters), and so is the copy theta_A.

    Args:
        model: the model, bare or wrapped in DataParallel, DistributedDataParallel or ``torch.compile``.
        fisher: estimator of F, with g the gradient in ``.grad``; a parameter without gradient has g = 0.
            ``"ema"``: ``F = decay * g^2 + (1 - decay) * F`` at each ``observe()``, F starting at 1.
            ``"batch"``: the mean of g^2 over the calls of ``observe()``.
            ``"empirical"``: the mean over samples of the squared gradients of their own losses, by ``estimate()``.
        decay: of ``"ema"``, in 0..1; the larger, the faster it forgets.
        normalize: map F of each parameter tensor to ``(F - min) / (max - min + 1e-8)`` when task A ends. A tensor
            whose F is the same everywhere (a single number, say) is then free: its F becomes 0.

    Raises:
        ValueError: an unknown ``fisher``, a ``decay`` outside 0..1, or a model without trainable parameters.

    Example:
        >>> import torch
        >>> import fastia
        >>> model = torch.nn.Linear(3, 2)
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> ewc = fastia.EWC(model)
        >>> for step in range(4):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(8, 3)).square().mean().backward()
        ...     if step < 2:  # task A
        ...         ewc.observe()
        ...     else:  # task B
        ...         penalty = ewc.add_penalty_gradient_(500.0)
        ...     optimizer.step()
        ...     if step == 1:
        ...         ewc.consolidate()
        >>> penalty.item() > 0  # the first step of task B moved the parameters
        True

    Source: Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks" (2017); without its factor 1/2
    as in Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation" (WACV 2024), Eq. 5. In the code
    released with the latter the penalty is always 0, since names of the wrapped and the bare model never match; here
    names are those of the bare model.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        fisher: Literal["ema", "batch", "empirical"] = "ema",
        decay: float = 0.9,
        normalize: bool = True,
    ) -> None:
        self.fisher = checks.choice("fisher", fisher, FISHERS)
        self.decay = checks.number("decay", decay, 0, 1)
        self.normalize = normalize
        self._model = model
        self._parameters = _trainable(model)
        if not self._parameters:
            raise ValueError("model must have a parameter that requires gradients, got none")
        start = torch.ones_like if fisher == "ema" else torch.zeros_like
        self._values: list[Tensor] = list(self._parameters.values())
        self._fisher = [
            start(value, dtype=torch.promote_types(value.dtype, torch.float32), requires_grad=False)
            for value in self._values
        ]
        self._anchor: list[Tensor] | None = None
        self._observations = 0
        self._groups = list(_groups(self._values))

    @property
    def consolidated(self) -> bool:
        """Whether task A has ended."""
        return self._anchor is not None

    @torch.no_grad()
    def observe(self) -> None:
        """Take the gradients in ``.grad`` into the Fisher information.

        Raises:
            RuntimeError: after ``consolidate()``, with ``fisher="empirical"``, or when no parameter has a gradient.
        """
        if self.fisher == "empirical":
            raise RuntimeError('observe() needs fisher="ema" or "batch": with "empirical" call estimate()')
        self._expect_task_a("observe()")
        if all(value.grad is None for value in self._values):
            raise RuntimeError("observe() found no gradient: call it after backward() and before zero_grad()")
        if self.fisher == "ema":
            torch._foreach_mul_(self._fisher, 1 - self.decay)
        scale = self.decay if self.fisher == "ema" else 1.0
        _add_squares(self._fisher, [value.grad for value in self._values], scale)
        self._observations += 1

    def estimate(self, loader: Iterable[Any], loss: Callable[[Any, Tensor], Tensor]) -> None:
        """Take the squared gradient of each sample's loss into the Fisher information, with ``fisher="empirical"``.

        Runs one forward and one backward pass a sample: this suits any model and loss and needs no memory beyond a
        batch of one, but takes as long as training with batches of one. The model is used in the mode it is in: layers
        that learn from a batch (batch norm), or draw random numbers (dropout), call for ``model.eval()`` before.
        ``.grad`` is neither read nor written. Under DistributedDataParallel every process brings its own part of the
        data, and all get the mean over all of it.

        Args:
            loader: batches ``(inputs, target)``, tensors whose first axis is the sample.
            loss: ``loss(output, target)`` of a batch of one, a scalar.

        Raises:
            RuntimeError: with another ``fisher``, or after ``consolidate()``.
        """
        if self.fisher != "empirical":
            raise RuntimeError(f'estimate() needs fisher="empirical", not {self.fisher!r}: call observe()')
        self._expect_task_a("estimate()")
        model, device = unwrapped(self._model), self._values[0].device
        squares, count = [torch.zeros_like(fisher) for fisher in self._fisher], 0
        for inputs, target in loader:
            for sample, truth in zip(inputs.split(1), target.split(1), strict=True):
                value = loss(model(sample.to(device)), truth.to(device))
                gradients = torch.autograd.grad(value, self._values, allow_unused=True)
                _add_squares(squares, gradients, 1.0)
                count += 1
        if isinstance(self._model, DistributedDataParallel):
            samples = torch.tensor(count, device=device)
            for total in (samples, *squares):
                torch.distributed.all_reduce(total, group=self._model.process_group)
            count = int(samples)
        torch._foreach_add_(self._fisher, squares)
        self._observations += count

    @torch.no_grad()
    def consolidate(self) -> None:
        """End task A: keep the parameters as they are now, and F.

        Raises:
            RuntimeError: nothing was observed, or it was called before.
        """
        self._expect_task_a("consolidate()")
        if not self._observations:
            missing = "estimate()" if self.fisher == "empirical" else "observe()"
            raise RuntimeError(f"consolidate() needs the Fisher information of task A: call {missing} before")
        if self.fisher != "ema":
            torch._foreach_div_(self._fisher, self._observations)
        if self.normalize:
            for fisher in self._fisher:
                low, high = fisher.aminmax()
                fisher.sub_(low).div_(high - low + 1e-8)
        self._anchor = [
            value.detach().to(fisher.dtype, copy=True) for value, fisher in zip(self._values, self._fisher, strict=True)
        ]

    def penalty(self) -> Tensor:
        """``sum_i F_i (theta_i - theta_A,i)^2``, differentiable, 0-d.

        Raises:
            RuntimeError: before ``consolidate()``.
        """
        return self._total([norms for _, _, norms in self._drifts("penalty()")])

    @torch.no_grad()
    def add_penalty_gradient_(self, strength: float) -> Tensor:
        """Add the gradient of ``strength * penalty()`` to ``.grad``, without a graph.

        Parameters that no longer require gradients count in the penalty and get no gradient.

        Args:
            strength: lambda, at least 0.

        Returns:
            ``penalty()`` (without ``strength``), detached, 0-d.

        Raises:
            RuntimeError: before ``consolidate()``.
            ValueError: a negative ``strength``.
        """
        checks.number("strength", strength, 0)
        totals = []
        for group, weighted, norms in self._drifts("add_penalty_gradient_()"):
            gradients, slopes = [], []
            for value, slope in zip(self._values[group], weighted, strict=True):
                if value.requires_grad:
                    if value.grad is None:
                        value.grad = torch.zeros_like(value)
                    gradients.append(value.grad)
                    slopes.append(slope)
            if gradients:
                torch._foreach_add_(gradients, slopes, alpha=2 * strength)
            totals.append(norms)
        return self._total(totals)

    def state_dict(self) -> dict[str, Any]:
        """All that goes on where it stopped: options, number of observations, F and theta_A by unwrapped name.

        The tensors are those in use, not copies, as with ``nn.Module``. ``torch.load(..., weights_only=True)`` reads
        what ``torch.save`` makes of it.
        """
        names = list(self._parameters)
        return {
            "options": self._options(),
            "observations": self._observations,
            "fisher": dict(zip(names, self._fisher, strict=True)),
            "anchor": dict(zip(names, self._anchor, strict=True)) if self._anchor is not None else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a ``state_dict()``; on an error nothing has changed.

        Raises:
            KeyError: the state lacks a parameter of the model, or has one that the model lacks.
            ValueError: a shape or an option differs, or the state is not that of an EWC.
        """
        if not isinstance(state, dict) or set(state) != {"options", "observations", "fisher", "anchor"}:
            raise ValueError("state must be that of EWC.state_dict()")
        if state["options"] != self._options():
            raise ValueError(f"state was made with {state['options']}, but this EWC has {self._options()}")
        fisher = self._matching("fisher", state["fisher"])
        anchor = self._matching("anchor", state["anchor"]) if state["anchor"] is not None else None
        for current, loaded in zip(self._fisher, fisher, strict=True):
            current.copy_(loaded)
        if anchor is None:
            self._anchor = None
        else:
            self._anchor = [value.to(like, copy=True) for value, like in zip(anchor, self._fisher, strict=True)]
        self._observations = state["observations"]

    def _options(self) -> dict[str, Any]:
        return {"fisher": self.fisher, "decay": self.decay, "normalize": self.normalize}

    def _matching(self, kind: str, tensors: dict[str, Tensor]) -> list[Tensor]:
        """The tensors in the order of the parameters."""
        for name, value in self._parameters.items():
            if name not in tensors:
                raise KeyError(f"state has no {kind} of {name!r}, a parameter of the model")
            if tensors[name].shape != value.shape:
                shapes = f"{tuple(value.shape)}, got {tuple(tensors[name].shape)}"
                raise ValueError(f"{kind} of {name!r} must have shape {shapes}")
        for name in tensors:
            if name not in self._parameters:
                raise KeyError(f"state has {kind} of {name!r}, which is no trainable parameter of the model")
        return [tensors[name] for name in self._parameters]

    def _expect_task_a(self, caller: str) -> None:
        if self._anchor is not None:
            raise RuntimeError(f"{caller} belongs to task A, which consolidate() has ended")

    def _drifts(self, caller: str) -> Iterator[tuple[slice, Sequence[Tensor], Sequence[Tensor]]]:
        """For each group of parameters: F (theta - theta_A) and the sums of F (theta - theta_A)^2."""
        if self._anchor is None:
            raise RuntimeError(f"{caller} belongs to task B, which consolidate() begins")
        for group in self._groups:
            drift = torch._foreach_sub(self._values[group], self._anchor[group])
            weighted = torch._foreach_mul(drift, self._fisher[group])
            squares = torch._foreach_mul(weighted, drift)
            # All are >= 0, so that their 1-norm is their sum; float32 would lose digits in large tensors.
            yield group, weighted, torch._foreach_norm(squares, 1, torch.float64)

    def _total(self, norms: list[Sequence[Tensor]]) -> Tensor:
        device, dtype = self._values[0].device, self._fisher[0].dtype
        return torch.stack([torch.stack(list(each)).sum().to(device) for each in norms]).sum().to(dtype)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside DataParallel, DistributedDataParallel and ``torch.compile``, in whatever order they wrap it."""
    inner: Any = model
    while True:
        if isinstance(inner, (DataParallel, DistributedDataParallel)):
            inner = inner.module
        elif hasattr(inner, "_orig_mod"):  # torch._dynamo.OptimizedModule, whose import takes a second
            inner = inner._orig_mod
        else:
            return inner


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that require gradients by their names in the bare model; its parts may be compiled too."""
    named = unwrapped(model).named_parameters()
    return {name.replace("_orig_mod.", ""): value for name, value in named if value.requires_grad}


def _add_squares(sums: list[Tensor], gradients: Sequence[Tensor | None], scale: float) -> None:
    """sums += scale * gradients^2"""
    pairs = [(total, gradient) for total, gradient in zip(sums, gradients, strict=True) if gradient is not None]
    if pairs:
        totals, present = (list(column) for column in zip(*pairs, strict=True))
        torch._foreach_addcmul_(totals, present, present, value=scale)


def _groups(values: list[Tensor]) -> Iterator[slice]:
    """Consecutive parameters of one device and dtype, together of about `_GROUP` elements."""
    begin, elements = 0, 0
    for i, value in enumerate(values):
        same = (value.device, value.dtype) == (values[begin].device, values[begin].dtype)
        if i > begin and (not same or elements + value.numel() > _GROUP):
            yield slice(begin, i)
            begin, elements = i, 0
        elements += value.numel()
    yield slice(begin, len(values))
