"""A residual network for images, in the way of torchvision, with a memory behind its second stage.

What the memory needs of it stands in the lines that name it; the rest is the network as it was.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from aesg import AESGMemory
from aesg.nn import MemoryConv2d
from aesg.nn.origins import origins_of


class BasicBlock(nn.Module):
    """Two convolutions and a way around them (He et al., 2016, "Deep residual learning")."""

    def __init__(self, inplanes: int, planes: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inplanes, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = nn.Sequential(
            nn.Conv2d(inplanes, planes, 1, stride, bias=False), nn.BatchNorm2d(planes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """``(B, C, h, w)`` to ``(B, planes, h / stride, w / stride)``."""
        out = F.relu(self.bn1(self.conv1(images)))
        out = self.bn2(self.conv2(out))
        return F.relu(out + self.downsample(images))


class MemoryResNet(nn.Module):
    """Classifies images; the memory holds which class images with such features had.

    Parameters
    ----------
    memory : AESGMemory
    num_classes : int
    """

    def __init__(self, memory: AESGMemory, num_classes: int) -> None:
        super().__init__()
        self.memory = memory  # where the trainer looks for it
        self.layer1 = BasicBlock(3, 16)
        self.layer2 = BasicBlock(16, 32, stride=2)
        self.read = MemoryConv2d(32, memory, every="sample", values=nn.Embedding(num_classes, 32))
        self.layer3 = BasicBlock(32, 32, stride=2)
        self.fc = nn.Linear(32, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return the scores of classes, ``(B, 3, h, w)`` to ``(B, num_classes)``."""
        features = self.layer2(self.layer1(images))
        features = self.read(features, origins=origins_of(images))
        scores: Tensor = self.fc(self.layer3(features).mean((2, 3)))
        return scores

    def observe(self, targets: Tensor) -> None:
        """Tell the memory the classes ``(B,)``; the trainer calls it."""
        self.memory.observe(targets)
