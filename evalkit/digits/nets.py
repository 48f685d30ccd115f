"""The classifier and the two halves of the DCGAN, as plain torch modules."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from evalkit.digits import data, weights_path

M = TypeVar("M", bound=nn.Module)

N_COLOURS = len(data.COLOURS)

FEATURES = 64
"""Width of the classifier's feature layer."""


def _conv(inner: int, outer: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, 3, stride, 1, bias=False), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)
    )


class DigitClassifier(nn.Module):
    """Small CNN with a 64-wide feature layer that sees digit, ink and background colour (0.3M parameters)."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(3, 32),
            _conv(32, 48, 2),
            _conv(48, 64),
            _conv(64, 96, 2),
            _conv(96, 128),
            _conv(128, 64, 2),
        )
        self.neck = nn.Linear(64 * 16, FEATURES)
        self.digit = nn.Linear(FEATURES, 10)
        self.ink = nn.Linear(FEATURES, 8)
        self.background = nn.Linear(FEATURES, 8)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Classify.

        Args:
            images: float [B,3,32,32] in [-1,1].

        Returns:
            ``features`` [B,64] (>= 0), ``logits`` [B,10], ``ink`` [B,8], ``background`` [B,8].
        """
        x = self.body(images)  # [B,64,4,4]
        features = F.relu(self.neck(x.flatten(1)))  # [B,64]
        x = F.dropout(features, 0.2, self.training)
        return {
            "features": features,
            "logits": self.digit(x),
            "ink": self.ink(x),
            "background": self.background(x),
        }


class _ConditionalNorm(nn.Module):
    """Batch norm whose scale and offset depend on the class."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.table = nn.Embedding(num_classes, 2 * channels)
        nn.init.ones_(self.table.weight[:, :channels])
        nn.init.zeros_(self.table.weight[:, channels:])

    def forward(self, x: Tensor, class_labels: Tensor) -> Tensor:
        scale, offset = self.table(class_labels)[:, :, None, None].chunk(2, dim=1)  # [B,C,1,1] each
        out: Tensor = self.norm(x) * scale + offset
        return out


class DCGANGenerator(nn.Module):
    """Class-conditional DCGAN generator: learned strokes, painted in two colours that the latent picks.

    The convolutions make a stroke mask; ink and background are the palette entries at the largest of
    latent entries 0..7 and 8..15 (the ink's place skipped), so that every pair is equally likely.
    """

    palette: Tensor  # [8,3] in [-1,1]

    def __init__(self, latent_dim: int = 64, num_classes: int = 10) -> None:
        super().__init__()
        if latent_dim <= 2 * N_COLOURS:
            raise ValueError(f"latent_dim must exceed {2 * N_COLOURS}, got {latent_dim}")
        self.latent_dim = latent_dim
        self.num_classes = num_classes
        widths = (128, 96, 48, 32)
        self.embed = nn.Embedding(num_classes, 32)
        self.start = nn.Linear(latent_dim - 2 * N_COLOURS + 32, widths[0] * 16)
        self.norms = nn.ModuleList([_ConditionalNorm(w, num_classes) for w in widths])
        self.layers = nn.ModuleList(
            [
                nn.ConvTranspose2d(128, 96, 4, 2, 1),  # 4 -> 8
                nn.ConvTranspose2d(96, 48, 4, 2, 1),  # 8 -> 16
                nn.Conv2d(48, 32, 3, 1, 1),
            ]
        )
        self.out = nn.ConvTranspose2d(32, 1, 4, 2, 1)  # 16 -> 32
        colours = torch.from_numpy(data.PALETTE_RGB.copy()).float() / 127.5 - 1.0
        self.register_buffer("palette", colours, persistent=False)

    def strokes(self, z: Tensor, class_labels: Tensor) -> Tensor:
        """The stroke mask, float [B,1,32,32] in [0,1], of the same inputs as ``forward``."""
        x = self.start(torch.cat([z[:, 2 * N_COLOURS :], self.embed(class_labels)], dim=1))  # [B,128*16]
        x = F.relu(self.norms[0](x.unflatten(1, (-1, 4, 4)), class_labels))  # [B,128,4,4]
        for layer, norm in zip(self.layers, self.norms[1:], strict=True):
            x = F.relu(norm(layer(x), class_labels))
        return torch.sigmoid(self.out(x))

    def forward(self, z: Tensor, class_labels: Tensor) -> Tensor:
        """Generate.

        Args:
            z: float32 [B,latent_dim], standard normal.
            class_labels: int64 [B], 0..9.

        Returns:
            float [B,3,32,32] in [-1,1].
        """
        mask = self.strokes(z, class_labels)
        ink = z[:, :N_COLOURS].argmax(dim=1)  # [B]
        others = z[:, N_COLOURS : 2 * N_COLOURS].scatter(1, ink[:, None], -torch.inf)
        back = self.palette[others.argmax(dim=1)][:, :, None, None]  # [B,3,1,1]
        front = self.palette[ink][:, :, None, None]
        return torch.lerp(back, front, mask)


class DCGANDiscriminator(nn.Module):
    """Projection discriminator of stroke masks; used in training only."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Conv2d(1, 32, 4, 2, 1),  # 32 -> 16
                nn.Conv2d(32, 64, 4, 2, 1),  # 16 -> 8
                nn.Conv2d(64, 128, 4, 2, 1),  # 8 -> 4
                nn.Conv2d(128, 128, 3, 1, 1),
            ]
        )
        self.score = nn.Linear(128, 1)
        self.embed = nn.Embedding(num_classes, 128)

    def forward(self, masks: Tensor, class_labels: Tensor) -> Tensor:
        """Realness score [B] of masks float [B,1,32,32] in [0,1] with labels int64 [B]."""
        x = masks * 2.0 - 1.0
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
        x = x.sum(dim=(2, 3)) / 4.0  # [B,128]
        score: Tensor = self.score(x)[:, 0] + (self.embed(class_labels) * x).sum(dim=1)
        return score


def load_classifier(path: str | Path | None = None, device: str | torch.device = "cpu") -> DigitClassifier:
    """The trained classifier in eval mode, float32, without gradients."""
    return _load(DigitClassifier(), path or weights_path("classifier"), device)


def load_dcgan(path: str | Path | None = None, device: str | torch.device = "cpu") -> DCGANGenerator:
    """The trained DCGAN generator in eval mode, float32, without gradients."""
    return _load(DCGANGenerator(), path or weights_path("dcgan"), device)


def _load(net: M, path: str | Path, device: str | torch.device) -> M:
    from safetensors.torch import load_file

    net.load_state_dict(load_file(str(path)))  # stored in half precision, copied into float32
    return net.to(device).eval().requires_grad_(False)
