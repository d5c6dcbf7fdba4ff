"""Blocks of convolution, norm and activation; then the mean over the picture, and one matrix."""

import torch
from torch import nn

from orchestrator.config.model import CnnBlock, CnnSection
from orchestrator.train.models.activation import ACTIVATIONS


class Cnn(nn.Module):
    def __init__(self, outputs: int, section: CnnSection) -> None:
        super().__init__()
        widths = [section.channels_in, *(block.channels for block in section.blocks)]
        self.blocks = nn.Sequential(
            *(_make_block(width, block, section) for width, block in zip(widths, section.blocks, strict=False))
        )
        self.dropout = nn.Dropout(section.dropout)
        self.output = nn.Linear(widths[-1], outputs)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """[n, outputs] of pictures [n, channels, height, width] of any size."""
        logits: torch.Tensor = self.output(self.dropout(self.blocks(pixel_values).mean((-2, -1))))
        return logits


def _make_block(width: int, block: CnnBlock, section: CnnSection) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(block.convolutions):
        layers += [
            nn.Conv2d(width, block.channels, block.kernel, padding=block.kernel // 2, bias=section.norm == "none"),
            _make_norm(block.channels, section),
            ACTIVATIONS[section.activation](),
        ]
        width = block.channels
    pool = nn.MaxPool2d(block.pool, ceil_mode=True)  # of one pixel it makes one: no picture is too small
    return nn.Sequential(*layers, pool if block.pool > 1 else nn.Identity())


def _make_norm(channels: int, section: CnnSection) -> nn.Module:
    if section.norm == "batch":
        return nn.BatchNorm2d(channels)
    if section.norm == "group":
        return nn.GroupNorm(max(n for n in range(1, section.groups + 1) if channels % n == 0), channels)
    return nn.Identity()
