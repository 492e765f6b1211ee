"""Augmentation of whole batches, on the device where they lie.

The draws are those of the part itself, picture by picture, so a batch shows what single pictures would have shown; the
values differ by the rounding of other kernels, a level of 255 or two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from manyhot.data.preprocessing import Preprocessing
from manyhot.data.transforms.augmentation import Augmentation, mean_colour
from manyhot.data.transforms.colour import BrightnessContrast, ColorJitter, Equalize
from manyhot.data.transforms.cropping import Box
from manyhot.data.transforms.place import HorizontalFlip, ShiftScaleRotate

Kernel = Callable[[Tensor, Sequence[Any], Preprocessing], Tensor]
"""From uint8 [B, 3, H, W] and what a part drew for each of them to the changed pictures, uint8."""

kernels: dict[type[Augmentation], Kernel] = {}
"""Of the parts that batches can do and that leave the pictures' size as it is."""


def _of(part: type[Augmentation]) -> Callable[[Kernel], Kernel]:
    def register(kernel: Kernel) -> Kernel:
        kernels[part] = kernel
        return kernel

    return register


def resized_parts(canvas_BHW3: Tensor, boxes: Sequence[Box], limits: Sequence[Box], size: int) -> Tensor:
    """A part of each picture, resized with an antialiased bilinear filter.

    Each axis is one matrix product: row i of a picture's matrix holds the triangle around the centre of output pixel i,
    as wide as an output pixel where the part shrinks (Pillow's and torch's filter), cut at the limits.

    Arguments:
        canvas_BHW3: uint8; pictures may be smaller than the canvas, as nothing outside the limits counts.
        boxes: B parts.
        limits: what may count for each of them: the part alone (torch cuts first), or the picture (as Pillow does, and
            pixels beside the part then count for its edge).
        size: side of the result, pixels.

    Returns:
        uint8 [B, 3, size, size], channels last in memory.
    """
    b, h, w, _ = canvas_BHW3.shape
    edges_4B, limits_4B = torch.tensor([boxes, limits], dtype=torch.float32, device=canvas_BHW3.device).mT.unbind()
    rows_BSH = _weights(edges_4B[1::2], limits_4B[1::2], h, size)
    columns_BSW = _weights(edges_4B[::2], limits_4B[::2], w, size)
    lines_BSX = torch.bmm(rows_BSH, canvas_BHW3.flatten(2).float())
    found_BSS3 = torch.matmul(columns_BSW.unsqueeze(1), lines_BSX.view(b, size, w, 3))
    return found_BSS3.round_().clamp_(0, 255).to(torch.uint8).permute(0, 3, 1, 2)


def _weights(edges_2B: Tensor, limits_2B: Tensor, length: int, size: int) -> Tensor:
    """What each of `length` pixels counts in each of `size` that lie between the edges: [B, size, length]."""
    low_B11, high_B11 = edges_2B.reshape(2, -1, 1, 1).unbind()
    step_B11 = (high_B11 - low_B11) / size
    places_L = torch.arange(length, device=edges_2B.device) + 0.5
    centres_BS1 = low_B11 + (torch.arange(size, device=edges_2B.device).view(1, -1, 1) + 0.5) * step_B11
    triangle_BSL = (1 - (places_L - centres_BS1).abs() / step_B11.clamp(min=1)).clamp_(min=0)
    first_B11, last_B11 = limits_2B.reshape(2, -1, 1, 1).unbind()
    inside_BSL = (places_L > first_B11) & (places_L < last_B11)
    counts_BSL = triangle_BSL * inside_BSL
    return counts_BSL / counts_BSL.sum(dim=2, keepdim=True)


@_of(HorizontalFlip)
def flip(pixels_B3HW: Tensor, drawn: Sequence[bool], preprocessing: Preprocessing) -> Tensor:  # noqa: ARG001
    """Mirror those for which it was drawn."""
    flipped_B111 = torch.tensor(drawn, device=pixels_B3HW.device).view(-1, 1, 1, 1)
    return torch.where(flipped_B111, pixels_B3HW.flip(3), pixels_B3HW)


@_of(BrightnessContrast)
def brightness_contrast(
    pixels_B3HW: Tensor,
    drawn: Sequence[tuple[float, float]],
    preprocessing: Preprocessing,  # noqa: ARG001
) -> Tensor:
    """Every value v becomes a·v + b."""
    a_B111, b_B111 = torch.tensor(drawn, device=pixels_B3HW.device).T.reshape(2, -1, 1, 1, 1).unbind()
    return (pixels_B3HW * a_B111 + b_B111).round_().clamp_(0, 255).to(torch.uint8)


@_of(ColorJitter)
def color_jitter(
    pixels_B3HW: Tensor,
    drawn: Sequence[tuple[float, float, float]],
    preprocessing: Preprocessing,  # noqa: ARG001
) -> Tensor:
    """Away from black, from the mean grey and from the picture in grey, or towards them; as Pillow's ImageEnhance."""
    factors_3B111 = torch.tensor(drawn, device=pixels_B3HW.device).T.reshape(3, -1, 1, 1, 1)
    values = (pixels_B3HW * factors_3B111[0]).clamp_(0, 255)
    mean_B111 = _grey(values).mean(dim=(1, 2, 3), keepdim=True).add_(0.5).floor_()
    values = torch.lerp(mean_B111, values, factors_3B111[1]).clamp_(0, 255)
    values = torch.lerp(_grey(values).expand_as(values), values, factors_3B111[2])
    return values.clamp_(0, 255).to(torch.uint8)


@_of(Equalize)
def equalize(pixels_B3HW: Tensor, drawn: Sequence[bool], preprocessing: Preprocessing) -> Tensor:  # noqa: ARG001
    """torchvision's, which is Pillow's to the bit."""
    rows = [row for row, chosen in enumerate(drawn) if chosen]
    if not rows:
        return pixels_B3HW
    found_B3HW = pixels_B3HW.clone()
    found_B3HW[rows] = functional.equalize(pixels_B3HW[rows])
    return found_B3HW


@_of(ShiftScaleRotate)
def shift_scale_rotate(
    pixels_B3HW: Tensor, drawn: Sequence[tuple[float, ...] | None], preprocessing: Preprocessing
) -> Tensor:
    """Bilinear; what comes from outside the picture gets the mean colour."""
    device, (h, w) = pixels_B3HW.device, pixels_B3HW.shape[2:]
    same = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    a, b, c, d, e, f = torch.tensor([one or same for one in drawn], device=device).T.reshape(6, -1, 1, 1).unbind()
    x, y = torch.arange(w, device=device) + 0.5, torch.arange(h, device=device).view(-1, 1) + 0.5
    from_x_BHW, from_y_BHW = a * x + b * y + c, d * x + e * y + f
    grid_BHW2 = torch.stack([2 * from_x_BHW / w - 1, 2 * from_y_BHW / h - 1], dim=3)
    found_B3HW = torch.nn.functional.grid_sample(
        pixels_B3HW.float(), grid_BHW2, padding_mode="border", align_corners=False
    )
    outside_B1HW = ((from_x_BHW < 0) | (from_x_BHW >= w) | (from_y_BHW < 0) | (from_y_BHW >= h)).unsqueeze(1)
    fill_311 = torch.tensor(mean_colour(preprocessing), device=device, dtype=torch.float32).view(3, 1, 1)
    return torch.where(outside_B1HW, fill_311, found_B3HW).round_().clamp_(0, 255).to(torch.uint8)


def _grey(values_B3HW: Tensor) -> Tensor:
    """ITU-R 601 luma, [B, 1, H, W], as Pillow's mode L."""
    luma_311 = torch.tensor([0.299, 0.587, 0.114], device=values_B3HW.device).view(3, 1, 1)
    return (values_B3HW * luma_311).sum(dim=1, keepdim=True)
