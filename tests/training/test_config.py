"""Configurations: files, overrides, and what is reported about bad ones."""

import re

import pytest

from fastia.training.config import BUILT_IN, Config, load

RECIPE = {
    "backbone": "resnet101", "model_scales": (1.0, 0.75, 0.5), "iterations": 30_000, "switch": 15_000, "tau": 5.0,
    "ewc_lambda": 500.0, "crop": 321, "batch_size": 5, "accumulation": 2, "scales": (0.5, 1.5), "learning_rate": 2.5e-4,
    "momentum": 0.9, "weight_decay": 5e-4, "power": 0.9, "poly_step": 10, "resize": "target", "normalize": "weights",
}  # fmt: skip


@pytest.mark.parametrize("name", ["voc12", "coco14", "shapes"])
def test_built_in_configurations_are_valid(name: str) -> None:
    assert load(name) == load(BUILT_IN / f"{name}.toml")


def test_voc12_is_the_released_recipe() -> None:
    config = load("voc12")
    assert {key: getattr(config, key) for key in RECIPE} == RECIPE


def test_coco14_has_the_81_classes() -> None:
    classes = load("coco14").classes
    assert len(classes) == len(set(classes)) == 81
    assert (classes[0], classes[1], classes[80]) == ("background", "person", "toothbrush")


def test_overrides_win_and_are_read_as_toml_or_bare_text(tmp_path) -> None:
    (tmp_path / "a.toml").write_text('crop = 65\ndataset = "here"\n')
    overrides = ["dataset=a b=c", "learning_rate=1", "scales=[1, 2.5]", "flip=false", "loss=cross-entropy", "crop=64"]
    config = load(tmp_path / "a.toml", [*overrides, 'classes=["a", "b"]', "output='x'"])
    assert (config.dataset, config.learning_rate, config.scales, config.flip) == ("a b=c", 1.0, (1.0, 2.5), False)
    assert (config.loss, config.crop, config.classes, config.output) == ("cross-entropy", 64, ("a", "b"), "x")
    assert isinstance(config.learning_rate, float)


def test_written_configuration_is_read_again(tmp_path) -> None:
    config = load("coco14", ['dataset=a "quoted" folder\\', "scales=[1, 2]"])
    (tmp_path / "a.toml").write_text(config.to_toml(), encoding="utf-8")
    assert load(tmp_path / "a.toml") == config


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("learning_rat=1", "learning_rat=1: no key learning_rat; did you mean learning_rate?"),
        ("zzzz=1", "zzzz=1: no key zzzz; keys are dataset, pseudo_masks,"),
        ("crop", "crop: not of the form key=value"),
        ("crop=wide", "crop=wide: crop must be an integer, got 'wide'"),
        ("crop=1.5", "crop=1.5: crop must be an integer, got 1.5"),
        ("crop=true", "crop=true: crop must be an integer, got True"),
        ("crop=0", "crop must be in 1.."),
        ("tau=0.5", "tau must be at least 1, got 0.5"),
        ("scales=1", "scales=1: scales must be a list, got 1"),
        ("scales=[1, 'a']", "scales=[1, 'a']: scales[1] must be a number, got 'a'"),
        ("scales=[2, 1]", "scales must be [smallest, largest], got [2.0, 1.0]"),
        ("test_scales=[0]", "test_scales must be positive numbers, got [0.0]"),
        ("flip=1", "flip=1: flip must be true or false, got 1"),
        ("loss=dice", "loss=dice: loss must be 'size-weighted' or 'cross-entropy', got 'dice'"),
        ("switch=30001", "switch must be in 0..30000, got 30001"),
    ],
)
def test_bad_override_is_named(override: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}"):
        load(None, [override])


def test_bad_file_is_named(tmp_path) -> None:
    path = tmp_path / "a.toml"
    with pytest.raises(ValueError, match=r"a\.toml: no such file; built-in configurations are coco14, shapes, voc12"):
        load(path)
    path.write_text("crop = \n")
    with pytest.raises(ValueError, match=r"a\.toml: no valid TOML"):
        load(path)
    path.write_text("crops = 3\n")
    with pytest.raises(ValueError, match=r"a\.toml: no key crops; did you mean crop"):
        load(path)


def test_defaults_are_valid() -> None:
    assert Config() == load()
