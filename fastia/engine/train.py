"""Two-phase training: plain cross-entropy, then the size-weighted loss, which EWC holds near the first task."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastia.data.training import batches, normalized
from fastia.engine import checkpoint, objective, schedule
from fastia.engine.config import Config
from fastia.engine.evaluate import evaluate_directory
from fastia.engine.files import Files, TrainingFileError
from fastia.engine.monitor import Monitor, Row, write_curves, write_table
from fastia.engine.objective import Loss, Weights
from fastia.engine.processes import Processes, joined, stop_requests
from fastia.engine.result import Evaluation
from fastia.engine.validate import validate, write_predictions
from fastia.losses import EWC

# Keys of the configuration that may change when a run is resumed, for they do not change what is learned.
_FREE_KEYS = {
    *("dataset", "output", "workers", "device", "compile", "check", "tensorboard", "val_split"),
    *("log_every", "validate_every", "checkpoint_every", "test_scales", "test_flip"),
}


@dataclass(frozen=True)
class Result:
    """What :func:`train` returns.

    Attributes:
        output: folder of the run.
        model: the trained network.
        history: rows of iteration, phase, loss, penalty (before lambda), learning_rate, images_per_second.
        validations: rows of iteration and the scores of :class:`fastia.InstanceAwareIoU`.
        evaluation: of the predictions at the end; None without ``val_split``, and in all processes but the first.
    """

    output: Path
    model: nn.Module
    history: list[Row]
    validations: list[Row]
    evaluation: Evaluation | None


def train(
    config: Config,
    *,
    loss: Loss | None = None,
    weights: Weights | None = None,
    ewc: Callable[[nn.Module], EWC] | None = None,
    resume: bool = False,
    progress: bool = False,
) -> Result:
    """Train a network in two phases, then score it; in each of the processes that torchrun started, if it did.

    Into ``config.output`` go ``config.toml``, the last two checkpoints, ``history.csv``, ``validation.csv``,
    ``curves.png``, and of the images of ``val_split`` ``predictions/ID.png``, ``scores.json`` and ``scores.png``.
    SIGTERM and Ctrl-C save a checkpoint and end the process with status 143 or 130; a second Ctrl-C ends it at once.
    On the CPU, with the same number of threads, a run that was stopped and resumed learns the same bits.

    Args:
        config: everything else.
        loss: of task B in place of the configured one: logits ``[B, C, h, w]`` and target ``[B, H, W]`` to the sum
            over this process's images and what it is to be divided by, 0-d both.
        weights: of task B's pixels in place of :func:`fastia.weights`: target to weights, both ``[B, H, W]``.
        ewc: makes the penalty from the network, in place of :class:`fastia.EWC`.
        resume: whether to go on from the last checkpoint in ``config.output``, if there is one.
        progress: whether to show a progress bar on the standard error stream.

    Raises:
        TrainingFileError: a :class:`ValueError` with all files that are missing, truncated or damaged, differ in size,
            or hold an id that is no class.
        ValueError: no such dataset, split or folder; ``output`` holds another run; the checkpoint is of a run with
            another configuration; nothing in ``backbone_weights`` fits.
        FloatingPointError: the loss is no longer finite.
        OSError: the last checkpoint or a report cannot be written.

    Example:
        >>> import tempfile
        >>> from fastia.data.shapes import make_shapes
        >>> from fastia.engine import config, train
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     make_shapes(f"{folder}/shapes", images=6)
        ...     options = ["iterations=2", "switch=1", "batch_size=2", "crop=64"]
        ...     paths = [f"dataset={folder}/shapes", f"output={folder}/run"]
        ...     result = train.train(config.load("shapes", options + paths))
        >>> [row["phase"] for row in result.history]
        ['A', 'B']

    Source: Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV 2024.
    """
    with joined(config.device) as here:
        run = _Run(config, here, loss, weights, ewc)
        run.begin(resume, progress)
        run.fit(progress)
        return run.end(progress)


class _Run:
    """The state of a run: all that a checkpoint holds, and what it takes to go on from there."""

    def __init__(
        self,
        config: Config,
        here: Processes,
        loss: Loss | None,
        weights: Weights | None,
        ewc: Callable[[nn.Module], EWC] | None,
    ) -> None:
        from fastia.models import DeepLabV2

        self.config = config
        self.here = here
        self.output = Path(config.output)
        self.files = Files(config)
        if config.batch_size < here.count:
            raise ValueError(f"batch_size must be at least the number of processes, {here.count}")
        checkpoint.seed_everything(config.seed)
        self.model = DeepLabV2(len(self.files.classes), backbone=config.backbone, scales=config.model_scales)
        if config.backbone_weights:
            loaded = self.model.load_backbone(config.backbone_weights)
            self._tell(f"{config.backbone_weights}: {loaded}")
        self.model.to(here.device)
        groups = self.model.parameter_groups(config.learning_rate, config.weight_decay)
        self.optimizer = torch.optim.SGD(groups, momentum=config.momentum)
        self.ewc: EWC | None = None
        if config.ewc_lambda > 0 and 0 < config.switch < config.iterations:
            make = ewc or (lambda model: EWC(model, fisher=config.fisher, decay=config.fisher_decay))
            self.ewc = make(self.model)
            warning = schedule.instability(config, self.optimizer.param_groups)
            if warning:
                self._tell(f"Warning: {warning}")
        by_config = (
            objective.cross_entropy(config)
            if config.loss == "cross-entropy"
            else objective.size_weighted_cross_entropy(config, weights)
        )
        self.losses = {"A": objective.cross_entropy(config), "B": loss or by_config}
        self.iteration = 0
        self.loss = torch.zeros((), dtype=torch.float64, device=here.device)  # sum since the last row of the history
        self.penalty = 0.0 * self.loss
        self.steps = 0
        self.history: list[Row] = []
        self.validations: list[Row] = []

    def begin(self, resume: bool, progress: bool) -> None:
        """Check the files; go on from the last checkpoint, or claim the folder."""
        if self.config.check:
            problems = self.files.problems(progress) if self.here.first else []
            problems = self.here.gather(problems)[0]
            if problems:
                raise TrainingFileError(problems)
        found = checkpoint.find(self.output)
        if found and not resume:
            raise ValueError(f"output {self.output} holds {found[0].name}: resume that run, or choose another output")
        latest = checkpoint.load_latest(self.output)
        if latest is not None:
            self._restore(*latest)
        self.here.gather(None)  # all have read the folder before one writes
        if self.here.first:
            self.output.mkdir(parents=True, exist_ok=True)
            (self.output / "config.toml").write_text(self.config.to_toml(), encoding="utf-8")

    def fit(self, progress: bool) -> None:
        """Train to the end."""
        config, here = self.config, self.here
        trained, no_sync = self._trained_module()
        data = batches(
            self.files.training_set(),
            self.iteration * config.accumulation,
            config.iterations * config.accumulation,
            batch_size=config.batch_size,
            rank=here.rank,
            world_size=here.count,
            workers=config.workers,
        )
        self.model.train()
        scalars = config.tensorboard
        shown = Monitor(self.output, config.iterations, active=here.first, progress=progress, tensorboard=scalars)
        with shown as monitor, stop_requests() as requested:
            self._validate_if_due(monitor)
            clock = time.perf_counter()
            while self.iteration < config.iterations:
                monitor.show(self.iteration, self.phase)
                if self.iteration == config.switch and self.ewc is not None:
                    self.ewc.consolidate()
                self._step(trained, no_sync, data)
                self.iteration += 1
                if self.iteration % config.log_every == 0 or self.iteration in (config.switch, config.iterations):
                    self._log(monitor, time.perf_counter() - clock)
                    clock = time.perf_counter()
                paused = time.perf_counter()
                stop = here.any(requested())
                last = self.iteration == config.iterations
                if stop or last or self.iteration % config.checkpoint_every == 0:
                    self._save(must=bool(stop) or last)
                if stop:
                    self._tell(f"Stopped by {signal.Signals(stop).name} after {self.iteration} of {config.iterations}"
                          f" iterations; a checkpoint is in {self.output}, resume goes on from there")  # fmt: skip
                    raise SystemExit(128 + stop)
                self._validate_if_due(monitor)
                clock += time.perf_counter() - paused
            monitor.show(self.iteration, "B" if config.switch < config.iterations else "A")

    def end(self, progress: bool) -> Result:
        """Write predictions, scores and curves."""
        config, here = self.config, self.here
        evaluation = None
        if config.val_split:
            predictions = self.output / "predictions"
            write_predictions(
                self.model,
                self.files.layout,
                self.files.validation_names,
                here,
                predictions,
                precision=self._precision,
                scales=config.test_scales,
                flip=config.test_flip,
            )
            here.gather(None)  # all are written
            if here.first:
                evaluation = evaluate_directory(
                    config.dataset,
                    config.val_split,
                    predictions,
                    classes=self.files.classes,
                    background=config.background,
                    ignore_index=config.ignore_index,
                    json=self.output / "scores.json",
                    plot=self.output / "scores.png",
                    progress=progress,
                )
        if here.first:
            self._write_tables()
            write_curves(self.history, self.validations, config.switch, self.output / "curves.png")
        return Result(self.output, self.model, self.history, self.validations, evaluation)

    @property
    def phase(self) -> str:
        """The task that is being learned."""
        return "A" if self.iteration < self.config.switch else "B"

    @property
    def _precision(self) -> torch.dtype:
        return torch.bfloat16 if self.config.precision == "bfloat16" else torch.float32

    def _trained_module(self) -> tuple[Callable[[Tensor], list[Tensor]], Callable[[], AbstractContextManager[None]]]:
        """The network as it is called in training, and the context in which processes do not exchange gradients."""
        module: Any = self.model
        if self.here.count > 1:
            devices = [self.here.device.index] if self.here.device.type == "cuda" else None
            module = DistributedDataParallel(module, device_ids=devices)
        no_sync = module.no_sync if self.here.count > 1 else nullcontext
        return torch.compile(module) if self.config.compile else module, no_sync

    def _step(
        self,
        trained: Callable[[Tensor], list[Tensor]],
        no_sync: Callable[[], AbstractContextManager[None]],
        data: Iterator[tuple[Tensor, Tensor]],
    ) -> None:
        """One step of the optimizer."""
        config, here = self.config, self.here
        factor = schedule.poly(self.iteration, config.iterations, config.power, config.poly_step)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * group["initial_lr"]
        self.optimizer.zero_grad()
        for part in range(config.accumulation):
            images, target = (each.to(here.device, non_blocking=True) for each in next(data))
            with nullcontext() if part == config.accumulation - 1 else no_sync():
                with torch.autocast(here.device.type, self._precision, enabled=self._precision != torch.float32):
                    outputs = trained(normalized(images))
                sums, denominators = objective.total(self.losses[self.phase], outputs, target)
                denominators = here.sum(denominators)
                loss = (sums / torch.where(denominators == 0, 1, denominators)).sum() / config.accumulation
                (loss * here.count).backward()  # DistributedDataParallel divides gradients by that
            self.loss += loss.detach()
        if self.ewc is not None and self.phase == "A":
            self.ewc.observe()
        elif self.ewc is not None:
            self.penalty += self.ewc.add_penalty_gradient_(config.ewc_lambda)
        self.optimizer.step()
        self.steps += 1

    def _log(self, monitor: Monitor, seconds: float) -> None:
        """Add the means since the last row to the history."""
        loss = self.here.sum(self.loss.clone()).item() / self.steps
        images = self.steps * self.config.accumulation * self.config.batch_size
        row: Row = {
            "iteration": self.iteration,
            "phase": "A" if self.iteration <= self.config.switch else "B",
            "loss": loss,
            "penalty": self.penalty.item() / self.steps,
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "images_per_second": images / seconds,
        }
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at iteration {self.iteration}: lower learning_rate"
                + (" or ewc_lambda" if self.ewc is not None else "")
            )
        self.history.append(row)
        self.loss.zero_()
        self.penalty.zero_()
        self.steps = 0
        monitor.log(row)

    def _validate_if_due(self, monitor: Monitor) -> None:
        config, every = self.config, self.config.validate_every
        due = self.iteration == config.iterations or (every and self.iteration and self.iteration % every == 0)
        if not config.val_split or not due or any(row["iteration"] == self.iteration for row in self.validations):
            return
        scores = validate(
            self.model,
            self.files.layout,
            self.files.validation_names,
            self.here,
            num_classes=len(self.files.classes),
            background=config.background,
            ignore_index=config.ignore_index,
            precision=self._precision,
        )
        self.validations.append({"iteration": self.iteration, **scores})
        monitor.validated(self.validations[-1])

    def _save(self, must: bool) -> None:
        """Write a checkpoint; unless it must be, one that cannot be written is told, and the run goes on."""
        states = self.here.gather(checkpoint.random_state())
        losses = self.here.sum(self.loss.clone())
        if not self.here.first:
            return
        state = {
            "config": dataclasses.asdict(self.config),
            "images": self.files.digest,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ewc": None if self.ewc is None else self.ewc.state_dict(),
            "random": states,
            "loss": losses,
            "penalty": self.penalty,
            "steps": self.steps,
            "history": self.history,
            "validations": self.validations,
        }
        try:
            checkpoint.save(self.output, self.iteration, state)
            self._write_tables()
        except OSError as error:
            found = checkpoint.find(self.output)
            left = f"{found[0].name} is still there" if found else "there is none yet"
            message = f"the checkpoint of iteration {self.iteration} cannot be written: {error}; {left}"
            if must:
                raise OSError(message) from None
            self._tell(f"Warning: {message}")

    def _restore(self, path: Path, state: dict[str, Any]) -> None:
        now = dataclasses.asdict(self.config)
        changed = [
            f"{key} was {value!r} and is {now[key]!r}"
            for key, value in state["config"].items()
            if key in now and key not in _FREE_KEYS and now[key] != value
        ]
        if state["images"] != self.files.digest:
            changed.append(f"split {self.config.train_split} has other images")
        if changed:
            raise ValueError("\n  ".join([f"{path} cannot be resumed:", *changed]))
        self.iteration = state["iteration"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ewc is not None:
            self.ewc.load_state_dict(state["ewc"])
        if self.here.first:
            self.loss.copy_(state["loss"])
        self.penalty.copy_(state["penalty"])
        self.steps = state["steps"]
        self.history = state["history"]
        self.validations = state["validations"]
        checkpoint.set_random_state(state["random"][self.here.rank % len(state["random"])])

    def _write_tables(self) -> None:
        write_table(self.history, self.output / "history.csv")
        write_table(self.validations, self.output / "validation.csv")

    def _tell(self, text: str) -> None:
        if self.here.first:
            print(text, file=sys.stderr, flush=True)
