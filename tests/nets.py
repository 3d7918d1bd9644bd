"""Networks as users write them in PyTorch, in a file of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  as everybody has it


class MLP(nn.Module):
    """The usual one, with dropout."""

    def __init__(self, n_columns: int = 30, hidden: int = 16, n_outputs: int = 2, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(n_columns, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(hidden, n_outputs)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.body(x))


class ConvNet(nn.Module):
    """For images of 8 x 8, with batch normalisation."""

    def __init__(self, n_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 16, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(16)
        self.fc = nn.Linear(16 * 2 * 2, n_classes)

    def forward(self, x: Tensor) -> Any:
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(x))), 2)
        x = F.max_pool2d(F.relu(self.norm2(self.conv2(x))), 2)
        return self.fc(x.flatten(1))


class Transformer(nn.Module):
    """For sequences of characters: what kind of one comes next."""

    def __init__(self, n_characters: int, length: int, n_kinds: int, width: int = 16, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_characters, width)
        self.position = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(width, nhead=2, dim_feedforward=32, dropout=dropout, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, num_layers=1, enable_nested_tensor=False)
        self.head = nn.Linear(width, n_kinds)
        self.register_buffer("mask", torch.triu(torch.full((length, length), float("-inf")), diagonal=1))

    def forward(self, x: Tensor) -> Any:
        h = self.embedding(x) + self.position
        return self.head(self.encoder(h, mask=self.mask)[:, -1])
