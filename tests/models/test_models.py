"""DeepLabV2: its shapes, torchvision's names, frozen norms, parameter groups, and what loading reports."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from fastia.models import DeepLabV2, load_matching, read_state
from fastia.models.backbones import FrozenBatchNorm2d


@pytest.mark.parametrize("backbone", ["resnet18", "small"])
@pytest.mark.parametrize("size", [(64, 80), (65, 57)])
def test_logits_are_those_of_each_scale_and_their_maximum(backbone: str, size: tuple[int, int]) -> None:
    model = DeepLabV2(4, backbone=backbone)
    images = torch.rand(1, 3, *size)
    with torch.no_grad():
        logits = model(images)
        assert len(logits) == 4
        for each in logits:
            assert each.shape == (1, 4, *(-(-side // 8) for side in size))
        maximum = torch.stack(logits[:3]).amax(0)
        assert torch.equal(logits[3], maximum)
        assert torch.equal(model.eval()(images), maximum)


def test_one_scale_has_no_maximum() -> None:
    model = DeepLabV2(4, backbone="small", scales=(1.0,))
    images = torch.rand(1, 3, 32, 32)
    (logits,) = model(images)
    assert torch.equal(model.eval()(images), logits)


@pytest.mark.parametrize("backbone", ["resnet50", "resnet18"])
def test_dilated_features_are_those_of_stride_32_and_more_of_them(backbone: str) -> None:
    """Every fourth feature equals that of the network as it was trained: weights at stride 32 fit."""
    dilated, strided = (DeepLabV2(2, backbone=backbone).backbone for _ in range(2))
    strided.load_state_dict(dilated.state_dict())
    for stage in (strided.layer3, strided.layer4):
        first = stage[0]
        (first.conv1 if backbone == "resnet18" else first.conv2).stride = (2, 2)
        first.downsample[0].stride = (2, 2)
        for module in stage.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.dilation = module.padding = (1, 1)
    images = torch.rand(1, 3, 97, 130)
    with torch.no_grad():
        expected, features = strided(images), dilated(images)
    assert expected.shape[2:] == (4, 5)
    torch.testing.assert_close(features[:, :, ::4, ::4], expected, rtol=1e-4, atol=1e-5)


def torchvision_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of torchvision's resnet state dict, fc left out, written from its definition."""
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (64, 3, 7, 7)}

    def norm(name: str, channels: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (channels,)

    norm("bn1", 64)
    counts = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    channels = 64
    for stage, count in enumerate(counts, 1):
        width = 32 * 2**stage
        for i in range(count):
            block = f"layer{stage}.{i}"
            if depth == 18:
                convolutions = [(width, channels, 3, 3), (width, width, 3, 3)]
            else:
                convolutions = [(width, channels, 1, 1), (width, width, 3, 3), (4 * width, width, 1, 1)]
            for number, shape in enumerate(convolutions, 1):
                shapes[f"{block}.conv{number}.weight"] = shape
                norm(f"{block}.bn{number}", shape[0])
            out = convolutions[-1][0]
            if i == 0 and channels != out:
                shapes[f"{block}.downsample.0.weight"] = (out, channels, 1, 1)
                norm(f"{block}.downsample.1", out)
            channels = out
    return shapes


@pytest.mark.parametrize("depth", [18, 50, 101])
def test_names_and_shapes_are_those_of_torchvision(depth: int) -> None:
    with torch.device("meta"):
        state = DeepLabV2(2, backbone=f"resnet{depth}").backbone.state_dict()
    assert {name: tuple(value.shape) for name, value in state.items()} == torchvision_shapes(depth)


def test_resnet101_has_the_known_number_of_parameters() -> None:
    """torchvision's resnet101 has 44,549,160, of which its fc 2,049,000; the four branches have 4 (9 * 2048 + 1) 21."""
    with torch.device("meta"):
        model = DeepLabV2(21)
    affine = [value for name, value in model.named_buffers() if name.endswith(("weight", "bias"))]
    count = sum(value.numel() for value in (*model.parameters(), *affine))
    assert count == 44_549_160 - 2_049_000 + 4 * (9 * 2048 + 1) * 21 == 44_048_532


def test_branches_are_summed_at_four_rates() -> None:
    model = DeepLabV2(3, backbone="small", scales=(1.0,)).eval()
    assert [branch.dilation for branch in model.classifier] == [(6, 6), (12, 12), (18, 18), (24, 24)]
    assert all(branch.bias is not None for branch in model.classifier)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        features = model.backbone(images)
        torch.testing.assert_close(model(images), sum(branch(features) for branch in model.classifier))


def test_frozen_norm_is_batch_norm_in_evaluation_and_never_changes() -> None:
    torch.manual_seed(0)
    reference = nn.BatchNorm2d(5).eval()
    for value in reference.state_dict().values():
        if value.is_floating_point():
            value.uniform_(0.5, 2)
    frozen = FrozenBatchNorm2d(5).train()
    load_matching(frozen, reference.state_dict())
    x = torch.randn(2, 5, 6, 6)
    torch.testing.assert_close(frozen(x), reference(x))

    model = DeepLabV2(3, backbone="resnet18").train()
    optimizer = torch.optim.SGD(model.parameter_groups(0.01, 5e-4))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    sum(logits.mean() for logits in model(torch.rand(1, 3, 32, 32))).backward()
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in model.named_parameters()}
    assert not any(re.search(r"bn|downsample\.1", name) for name in changed)


@pytest.mark.parametrize("backbone", ["resnet101", "resnet18", "small"])
def test_groups_hold_every_trainable_parameter_once(backbone: str) -> None:
    with torch.device("meta"):
        model = DeepLabV2(3, backbone=backbone)
    groups = model.parameter_groups(0.5, 0.25)
    held = [id(value) for group in groups for value in group["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(value) for value in model.parameters() if value.requires_grad}
    assert [group["initial_lr"] for group in groups] == [group["lr"] for group in groups] == [0.5, 5.0, 10.0]
    assert [group["weight_decay"] for group in groups] == [0.25, 0.25, 0.0]
    assert [tuple(value.shape) for value in groups[2]["params"]] == [(3,)] * 4


@pytest.mark.parametrize("backbone", ["resnet50", "small"])
def test_activations_keep_their_size_without_weights(backbone: str) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        features = DeepLabV2(3, backbone=backbone).backbone(torch.randn(1, 3, 64, 64))
    assert 0.03 < features.std() < 3


def test_small_backbone_learns_where_a_square_is() -> None:
    torch.manual_seed(0)
    model = DeepLabV2(2, backbone="small", scales=(1.0,))
    optimizer = torch.optim.SGD(model.parameter_groups(0.01, 5e-4), momentum=0.9)
    target = torch.zeros(4, 48, 48, dtype=torch.long)
    for i in range(4):
        target[i, 4 + 8 * i : 20 + 8 * i, 10:30] = 1
    images = (target[:, None] + 0.5 * torch.randn(4, 3, 48, 48)).float()
    losses = []
    for _ in range(100):
        logits = nn.functional.interpolate(model(images)[0], size=(48, 48), mode="bilinear")
        loss = nn.functional.cross_entropy(logits, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 3


@pytest.mark.parametrize("training", [True, False])
def test_compiled_model_equals_eager(training: bool) -> None:
    model = DeepLabV2(3, backbone="resnet18").train(training)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    images = torch.rand(1, 3, 33, 40)
    with torch.no_grad():
        torch.testing.assert_close(compiled(images), model(images))
    torch._dynamo.reset()


# Loading


def test_torchvision_file_loads_but_for_its_last_layer(tmp_path: Path) -> None:
    state = {name: torch.rand(shape) for name, shape in torchvision_shapes(18).items()}
    state |= {"bn1.num_batches_tracked": torch.tensor(3), "fc.weight": torch.rand(9, 512), "fc.bias": torch.rand(9)}
    torch.save(state, tmp_path / "resnet18.pth")
    model = DeepLabV2(3, backbone="resnet18")
    report = model.load_backbone(tmp_path / "resnet18.pth")
    assert report.matched == list(torchvision_shapes(18))
    assert (report.skipped, report.missing, report.other_shape) == (["fc.weight", "fc.bias"], [], [])
    assert str(report).startswith("100 matched; 2 skipped (fc.weight, fc.bias); 0 missing")
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[name])


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.module.", "backbone.", "module.backbone."])
@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_wrapped_and_nested_files_load(prefix: str, key: str, tmp_path: Path) -> None:
    source, model = DeepLabV2(3, backbone="small"), DeepLabV2(5, backbone="small")
    state = {prefix + name: value for name, value in source.backbone.state_dict().items()}
    torch.save({key: state, "epoch": 3}, tmp_path / "weights.pth")
    report = model.load_backbone(tmp_path / "weights.pth")
    assert not report.skipped
    assert not report.missing
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(model.backbone(images), source.backbone(images))


def test_other_shapes_and_missing_names_are_listed() -> None:
    state = {"0.weight": torch.ones(3, 2), "0.bias": torch.zeros(4), "9.weight": torch.ones(1)}
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    report = load_matching(module, state)
    assert report.matched == ["0.weight"]
    assert report.other_shape == ["0.bias (4,) for (3,)"]
    assert report.missing == ["1.weight", "1.bias"]
    assert report.skipped == ["9.weight"]
    assert bool((module[0].weight == 1).all())


def test_nothing_that_matches_is_an_error(tmp_path: Path) -> None:
    torch.save({"encoder.weight": torch.ones(3)}, tmp_path / "other.pth")
    model = DeepLabV2(3, backbone="small")
    with pytest.raises(ValueError, match=r"other.pth: state has no tensor that fits .* encoder.weight; the model has"):
        model.load_backbone(tmp_path / "other.pth")


class Unsafe:
    """A class of this file, which no unpickler may import."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a file of weights"),
        (b"PK\x03\x04 cut short", "cannot be read as a file of weights"),
        (b"not a checkpoint at all", "cannot be read as a file of weights"),
        (Unsafe(), "cannot be read as a file of weights"),
        (torch.ones(3), "must hold a state dict, tensors by name, got Tensor"),
        ({"model": {"weight": 3}}, "must hold a state dict, tensors by name, got dict"),
    ],
    ids=["empty", "cut", "text", "object", "tensor", "numbers"],
)
def test_bad_file_is_one_clear_error(content: object, message: str, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=f"weights.pth {message}"):
        read_state(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"absent\.pth"):
        DeepLabV2(3, backbone="small").load_backbone(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_classes": 0}, "num_classes must be in 1..65536, got 0"),
        ({"backbone": "vgg16"}, "backbone must be 'resnet101' or .*, got 'vgg16'"),
        ({"scales": (0.5, 1.0)}, r"scales must begin with 1 and be above 0, got \(0.5, 1.0\)"),
        ({"scales": ()}, r"scales must begin with 1"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepLabV2(**{"num_classes": 3, "backbone": "small", **change})
