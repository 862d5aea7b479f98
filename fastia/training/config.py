"""The configuration of a training run: a flat dataclass, read from TOML and from `key=value` on the command line."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fastia.functional import checks
from fastia.typing import PathLike

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BUILT_IN = Path(__file__).parent / "recipes"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides about a training run; the defaults are the released recipe for PASCAL VOC.

    Data, in PASCAL VOC layout:

    - ``dataset``: the folder; ``pseudo_masks``: the folder of PNGs of class ids to train on, in the dataset or
      anywhere, empty for its ``SegmentationClass``; ``train_split`` and ``val_split``: files of
      ``ImageSets/Segmentation``, the latter empty for no validation; ``classes``: names, or a text file with one a
      line, in the dataset or anywhere, empty for those of ``classes.txt`` in the dataset, or without it of VOC;
    - ``background``, ``ignore_index``: as in :func:`fastia.weights`;
    - ``crop``: side of the training crops; ``scales``: bounds of the random scale; ``flip``: whether half of the crops
      are mirrored; ``workers``: processes that load images, for each training process.

    Model: ``backbone``, ``backbone_weights`` (a state dict file in torchvision's names) and ``model_scales``, as in
    ``fastia.models.DeepLabV2``.

    Schedule: ``iterations`` optimizer steps, of which the first ``switch`` are task A (plain cross-entropy) and the
    others task B; ``batch_size`` images of all processes together, ``accumulation`` times per step; SGD with
    ``learning_rate``, ``momentum`` and ``weight_decay``; the learning rate falls as ``(1 - i / iterations) ** power``
    with i rounded down to a multiple of ``poly_step``.

    Loss of task B: ``loss`` (``"size-weighted"`` or ``"cross-entropy"``) with ``tau``, ``connectivity``,
    ``normalizer``, and of both tasks ``resize`` and ``normalize``, as in :func:`fastia.size_weighted_cross_entropy`;
    plus ``ewc_lambda`` times the penalty of :class:`fastia.EWC` with ``fisher`` and ``fisher_decay``.

    Run: ``output`` folder; ``seed``; ``device``: ``"auto"``, ``"cpu"``, ``"cuda"``; ``precision`` of the forward pass;
    ``compile`` the model; ``check`` all files first; every so many steps ``log_every``, ``validate_every`` (0: at the
    end only) and ``checkpoint_every``; ``test_scales`` and ``test_flip``: views that the predictions at the end are
    averaged over; ``tensorboard`` writes scalars for it.

    Raises:
        TypeError: a value of another type. Its text names the key.
        ValueError: a value that is not allowed. Its text names the key.

    Source: code released with Mun et al., "Small Objects Matters in Weakly-supervised Semantic Segmentation", WACV
    2024.
    """

    dataset: str = ""
    pseudo_masks: str = ""
    train_split: str = "train"
    val_split: str = "val"
    classes: str | tuple[str, ...] = ""
    background: int = 0
    ignore_index: int = 255
    crop: int = 321
    scales: tuple[float, ...] = (0.5, 1.5)
    flip: bool = True
    workers: int = 4

    backbone: Literal["resnet101", "resnet50", "resnet18", "small"] = "resnet101"
    backbone_weights: str = ""
    model_scales: tuple[float, ...] = (1.0, 0.75, 0.5)

    iterations: int = 30_000
    switch: int = 15_000
    batch_size: int = 5
    accumulation: int = 2
    learning_rate: float = 2.5e-4
    momentum: float = 0.9
    weight_decay: float = 5e-4
    power: float = 0.9
    poly_step: int = 10

    loss: Literal["size-weighted", "cross-entropy"] = "size-weighted"
    tau: float = 5.0
    connectivity: int = 8
    normalizer: Literal["class", "foreground"] = "class"
    resize: Literal["logits", "target"] = "logits"
    normalize: Literal["weights", "valid", "pixels"] = "weights"
    ewc_lambda: float = 500.0
    fisher: Literal["ema", "batch"] = "ema"
    fisher_decay: float = 0.9

    output: str = "runs/train"
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: bool = False
    check: bool = True
    log_every: int = 10
    validate_every: int = 0
    checkpoint_every: int = 500
    test_scales: tuple[float, ...] = (1.0,)
    test_flip: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            object.__setattr__(self, name, _typed(name, getattr(self, name), hint))
        for name in ("crop", "iterations", "batch_size", "accumulation", "poly_step", "log_every", "checkpoint_every"):
            checks.integer(name, getattr(self, name), 1, optional=False)
        for name in ("workers", "validate_every", "seed"):
            checks.integer(name, getattr(self, name), 0, optional=False)
        checks.integer("switch", self.switch, 0, self.iterations, optional=False)
        checks.background(self.background)
        checks.choice("connectivity", self.connectivity, checks.CONNECTIVITIES)
        checks.number("tau", self.tau, 1)
        for name in ("learning_rate", "weight_decay", "power", "ewc_lambda"):
            checks.number(name, getattr(self, name), 0)
        for name in ("momentum", "fisher_decay"):
            checks.number(name, getattr(self, name), 0, 1)
        for name in ("scales", "model_scales", "test_scales"):
            if not getattr(self, name) or not all(0 < scale < math.inf for scale in getattr(self, name)):
                raise ValueError(f"{name} must be positive numbers, got {list(getattr(self, name))}")
        if len(self.scales) != 2 or self.scales[0] > self.scales[1]:
            raise ValueError(f"scales must be [smallest, largest], got {list(self.scales)}")

    def to_toml(self) -> str:
        """The configuration as TOML that :func:`load` reads."""
        return "".join(f"{name} = {json.dumps(value)}\n" for name, value in dataclasses.asdict(self).items())


def load(source: PathLike | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read a configuration.

    Args:
        source: a TOML file, or the name of a built-in one (``voc12``, ``coco14``, ``shapes``); None: the defaults.
        overrides: ``key=value`` each, which win over the file. A value is written as in TOML; strings need no quotes.

    Raises:
        ValueError: no such file, no valid TOML, an unknown key (the text lists close ones), or a value that is not
            allowed. The text names file and key.

    Example:
        >>> from fastia.training import config
        >>> config.load("voc12", ["dataset=VOC2012", "scales=[0.8, 1.2]"]).scales
        (0.8, 1.2)
        >>> config.load("voc12", ["learning_rat=0.1"])
        Traceback (most recent call last):
            ...
        ValueError: learning_rat=0.1: no key learning_rat; did you mean learning_rate?
    """
    values: dict[str, Any] = {}
    if source is not None:
        path = _find(source)
        try:
            values = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ValueError(f"{path}: no valid TOML: {error}") from None
        _check(values, f"{path}")
    for override in overrides:
        key, equals, text = override.partition("=")
        key = key.strip()
        if not equals or not key:
            raise ValueError(f"{override}: not of the form key=value")
        value = {key: _parse(text.strip(), _hints().get(key))}
        _check(value, override)
        values |= value
    return Config(**values)


def _check(values: dict[str, Any], where: str) -> None:
    """Keys and types of one source, which the error then names."""
    for key, value in values.items():
        hint = _hints().get(key)
        if hint is None:
            close = difflib.get_close_matches(key, _hints(), n=3, cutoff=0.5)
            hint_text = f"did you mean {' or '.join(close)}?" if close else f"keys are {', '.join(_hints())}"
            raise ValueError(f"{where}: no key {key}; {hint_text}")
        try:
            _typed(key, value, hint)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from None


def _find(source: PathLike) -> Path:
    path = Path(source)
    built_in = BUILT_IN / f"{os.fspath(source)}.toml"
    if not path.is_file() and path.name == os.fspath(source) and built_in.is_file():
        return built_in
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in BUILT_IN.glob("*.toml")))
        raise ValueError(f"{path}: no such file; built-in configurations are {names}")
    return path


def _parse(text: str, hint: Any) -> Any:
    """The value of an override: TOML, or bare text where that is no TOML or a string is wanted."""
    if hint is str and not text.startswith(('"', "'")):
        return text
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _typed(name: str, value: Any, hint: Any) -> Any:
    """The value as the type of its key: lists become tuples, and integers floats."""
    if get_origin(hint) is Literal:
        return checks.choice(name, value, get_args(hint))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, bool, str):
        if type(value) is not hint:
            kind = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}[hint]
            raise TypeError(f"{name} must be {kind}, got {value!r}")
        return value
    if isinstance(value, str) and str in get_args(hint):
        return value
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} must be a list, got {value!r}")
    items = float if get_origin(hint) is tuple else str
    return tuple(_typed(f"{name}[{i}]", item, items) for i, item in enumerate(value))


@functools.cache
def _hints() -> dict[str, Any]:
    return get_type_hints(Config)
