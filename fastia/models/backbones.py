"""Feature extractors: residual networks dilated to an output stride of 8, with torchvision's names, and a small one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose statistics and affine parameters are constants: buffers with the names of ``nn.BatchNorm2d``."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((channels,), value))

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias)


class ResNet(nn.Module):
    """A residual network without its last pooling and layer, at an output stride of 8.

    The last two stages keep their resolution and dilate by 2 and 4 instead, such that weights of the network at stride
    32 give the same features, 4 times as dense. Without such weights its frozen norms are the identity; the last
    convolution of each block then starts small enough that activations keep their size over any depth.
    """

    def __init__(self, block: type[_BasicBlock] | type[_Bottleneck], blocks: tuple[int, int, int, int]) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.channels = 64
        self.layer1 = self._stage(block, 64, blocks[0])
        self.layer2 = self._stage(block, 128, blocks[1], stride=2)
        self.layer3 = self._stage(block, 256, blocks[2], dilations=(1, 2))
        self.layer4 = self._stage(block, 512, blocks[3], dilations=(2, 4))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        for module in self.modules():
            if isinstance(module, (_BasicBlock, _Bottleneck)):
                last = module.conv2 if isinstance(module, _BasicBlock) else module.conv3
                last.weight.data.div_(sum(blocks) ** 0.5)

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` -> features ``[B, channels, ceil(H / 8), ceil(W / 8)]``."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return self.layer4(self.layer3(self.layer2(self.layer1(x))))

    def _stage(
        self,
        block: type[_BasicBlock] | type[_Bottleneck],
        width: int,
        count: int,
        stride: int = 1,
        dilations: tuple[int, int] = (1, 1),
    ) -> nn.Sequential:
        """A stage; its first block dilates as the stage before, for its input is no denser than that one's."""
        modules = [block(self.channels, width, stride, dilations[0], dilations[1])]
        self.channels = width * block.expansion
        modules += [block(self.channels, width, 1, dilations[1], dilations[1]) for _ in range(1, count)]
        return nn.Sequential(*modules)


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, channels: int, width: int, stride: int, first_dilation: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels, width, stride, first_dilation)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, 1, dilation)
        self.bn2 = FrozenBatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, channels: int, width: int, stride: int, first_dilation: int, dilation: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = _conv3x3(width, width, stride, first_dilation)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(4 * width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = _shortcut(channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def _conv3x3(channels: int, width: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, width, 3, stride, padding=dilation, dilation=dilation, bias=False)


def _shortcut(channels: int, width: int, stride: int) -> nn.Sequential | None:
    if stride == 1 and channels == width:
        return None
    return nn.Sequential(nn.Conv2d(channels, width, 1, stride, bias=False), FrozenBatchNorm2d(width))


class SmallNet(nn.Module):
    """Nine convolutions without norms, output stride 8: learns from nothing within minutes on a CPU.

    A group norm in their place would take the mean colour out of each crop, and learned several times slower.
    """

    def __init__(self) -> None:
        super().__init__()
        self.channels = 48
        self.stem = nn.Sequential(
            *(nn.Conv2d(3, 16, 5, stride=2, padding=2), nn.ReLU(inplace=True)),
            *(nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(inplace=True)),
            *(nn.Conv2d(32, 48, 3, stride=2, padding=1), nn.ReLU(inplace=True)),
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(48, 48, 3, padding=dilation, dilation=dilation),
                nn.ReLU(inplace=True),
                nn.Conv2d(48, 48, 3, padding=1),
            )
            for dilation in (1, 2, 4)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Images ``[B, 3, H, W]`` -> features ``[B, channels, ceil(H / 8), ceil(W / 8)]``."""
        x = self.stem(images)
        for block in self.blocks:
            x = F.relu(x + block(x))
        return x


BACKBONES: dict[str, Any] = {
    "resnet101": lambda: ResNet(_Bottleneck, (3, 4, 23, 3)),
    "resnet50": lambda: ResNet(_Bottleneck, (3, 4, 6, 3)),
    "resnet18": lambda: ResNet(_BasicBlock, (2, 2, 2, 2)),
    "small": SmallNet,
}
