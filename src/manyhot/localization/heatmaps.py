"""Heat maps of classes, on the cells of the network's last map: the ways that `--heatmap` can name."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from manyhot.localization.views import Views
from manyhot.models.geometry import Geometry
from manyhot.registry import Part, Registry


class HeatMap(Part):
    """A way to say which cells speak for a class.

    `in_logits` says that the values are on the scale of logits, so that their sigmoid means something by itself.
    """

    in_logits: ClassVar[bool] = False

    @abstractmethod
    def cells(self, views: Views, classes: Sequence[int]) -> list[Tensor]:
        """Float maps [N, V, K, h, w] of K classes for each stack of `views`, high where a cell speaks for the class."""

    def geometry(self, network: Geometry) -> Geometry:
        """Where the cells lie in a view, given where those of the network's map do."""
        return network


heat_maps: Registry[HeatMap] = Registry("heat map", "--heatmap")


@heat_maps.register("cam")
class CAM(HeatMap):
    """Class activation map: what the head would say of a view that were nothing but this cell.

    With average pooling this is the map of Zhou et al. (Learning Deep Features for Discriminative Localization, CVPR
    2016, equation 2) with the head's bias and standardisation kept: the mean over the cells is the view's logit. With
    max pooling it is the score of each cell, and with `average+max` the sum of both. Where the head joins the views,
    the other views stay as they are.
    """

    in_logits: ClassVar[bool] = True

    def cells(self, views: Views, classes: Sequence[int]) -> list[Tensor]:
        """Logits [N, V, K, h, w] of single cells."""
        weight_KF, bias_K = (one.to(views.maps[0].device) for one in views.model.head.affine(classes))
        vectors = views.vectors(views.maps)
        own = views.view_logits(vectors)
        found = []
        first = 0
        for map_NVDHW, vectors_NVPF, logits_NVC in zip(views.maps, vectors, own, strict=True):
            # A map of one cell pools to the same vector by every rule: that cell, or a copy of it a part.
            copies = vectors_NVPF.shape[-1] // map_NVDHW.shape[2]
            if not views.joined:
                cells = torch.einsum("kd,nvdhw->nvkhw", _per_channel(weight_KF, copies), map_NVDHW)
                found.append(cells + bias_K[:, None, None])
                continue
            count = vectors_NVPF.shape[1] * vectors_NVPF.shape[-1]
            weight_KVF = weight_KF[:, first : first + count].reshape(len(classes), -1, vectors_NVPF.shape[-1])
            first += count
            said_NVK = torch.einsum("kvf,nvf->nvk", weight_KVF, vectors_NVPF[:, :, 0])
            cells = torch.einsum("kvd,nvdhw->nvkhw", _per_channel(weight_KVF, copies), map_NVDHW)
            found.append(cells + (logits_NVC[..., list(classes)] - said_NVK)[..., None, None])
        return found


@heat_maps.register("contributions")
class Contributions(HeatMap):
    """What every cell adds to the view's logit: the mean over the cells is the logit, whatever the pooling.

    The gradient of the logit by the map, times the map, summed over channels and multiplied by the number of cells;
    what that leaves over (bias, standardisation, the curvature of `lse`) is spread evenly. With average pooling it is
    `cam`; with max pooling only the cell that won in a channel gets what the channel adds.

    Source: Draelos and Carin, Use HiResCAM instead of Grad-CAM, 2020, section 3.3.
    """

    in_logits: ClassVar[bool] = True

    def cells(self, views: Views, classes: Sequence[int]) -> list[Tensor]:
        """Logits [N, V, K, h, w] whose mean over h and w, and over V where the views are joined, is the logit."""
        found: list[list[Tensor]] = [[] for _ in views.maps]
        n_views = sum(one.shape[1] for one in views.maps)
        for class_ in classes:
            logits, gradients = views.gradients(class_)
            added = [
                (gradient * one).sum(dim=2) for gradient, one in zip(gradients, views.maps, strict=True)
            ]  # [N, V, h, w] each
            everywhere_N = torch.cat([one.sum(dim=(-2, -1)) for one in added], dim=1).sum(dim=1)
            for place, (one, logits_NV) in enumerate(zip(added, logits, strict=True)):
                explained_NV = everywhere_N[:, None] if views.joined else one.sum(dim=(-2, -1))
                share = one * (one.shape[-2] * one.shape[-1] * (n_views if views.joined else 1))
                found[place].append(share + (logits_NV - explained_NV)[..., None, None])
        return [torch.stack(one, dim=2) for one in found]


@heat_maps.register("gradcam")
class GradCAM(HeatMap):
    """Channels weighted by the mean gradient of the logit, summed; what is below 0 becomes 0.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2.
    """

    def cells(self, views: Views, classes: Sequence[int]) -> list[Tensor]:
        """Float [N, V, K, h, w], 0 or more."""
        return _by_gradient(views, classes, per_cell=False)


@heat_maps.register("layercam")
class LayerCAM(HeatMap):
    """Every cell of every channel weighted by its own gradient where that is positive, summed.

    Source: Jiang et al., LayerCAM, IEEE TIP 2021, equations 4 and 5.
    """

    def cells(self, views: Views, classes: Sequence[int]) -> list[Tensor]:
        """Float [N, V, K, h, w], 0 or more."""
        return _by_gradient(views, classes, per_cell=True)


@heat_maps.register("occlusion")
class Occlusion(HeatMap):
    """How far the view's logit falls when a square of it is painted in the mean colour: slow, and it assumes nothing.

    Source: Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, section 4.2.
    """

    step: int = Field(16, ge=1, description="pixels of the view between squares")
    reach: int = Field(1, ge=0, description="steps by which a square reaches beyond its own on every side")
    batch: int = Field(32, ge=1, description="painted views that go through the network together")

    def geometry(self, network: Geometry) -> Geometry:  # noqa: ARG002
        """Squares tile the view, whatever the network's map."""
        return Geometry(self.step, (self.step - 1) / 2)

    @torch.no_grad()
    def cells(self, views: Views, classes: Sequence[int]) -> list[Tensor]:
        """Falls of the logit, float [N, V, K, h, w]."""
        picked = list(classes)
        vectors = views.vectors(views.maps)
        plain = [one[..., picked] for one in views.view_logits(vectors)]
        return [
            torch.stack(
                [self._falls(views, vectors, plain, stack, view, picked) for view in range(pictures.shape[1])], 1
            )
            for stack, pictures in enumerate(views.stacks)
        ]

    def _falls(
        self, views: Views, vectors: list[Tensor], plain: list[Tensor], stack: int, view: int, picked: list[int]
    ) -> Tensor:
        """Of one view of every picture, float [N, K, h, w]."""
        pictures_N3HW = views.stacks[stack][:, view]
        height, width = pictures_N3HW.shape[-2:]
        rows, columns = -(-height // self.step), -(-width // self.step)
        falls = []
        for square in range(rows * columns):
            painted = pictures_N3HW.clone()
            y, x = (square // columns - self.reach) * self.step, (square % columns - self.reach) * self.step
            side = (2 * self.reach + 1) * self.step
            painted[..., max(0, y) : y + side, max(0, x) : x + side] = 0  # the mean: pictures are standardised
            falls.append(painted)
        logits = []
        for start in range(0, len(falls), max(1, self.batch // len(pictures_N3HW))):
            some = falls[start : start + max(1, self.batch // len(pictures_N3HW))]
            maps = views.model.maps(torch.cat(some)).float()
            for changed in torch.split(views.model.pool(maps, views.window), len(pictures_N3HW)):
                others = [one.clone() for one in vectors]
                others[stack][:, view] = changed
                logits.append(views.view_logits(others)[stack][:, view][:, picked])
        heat_NKL = plain[stack][:, view, :, None] - torch.stack(logits, dim=-1)
        return heat_NKL.reshape(*heat_NKL.shape[:2], rows, columns)


@heat_maps.register("saliency")
class Saliency(HeatMap):
    """How much the view's logit would change with each pixel: the gradient, its largest channel, blurred.

    It is as fine as the view, needs no geometry, and covers what the class is told by: strokes and outlines rather
    than the cell that won. The sign of a gradient says only whether brighter or darker would be better.

    Source: Simonyan, Vedaldi and Zisserman, Deep Inside Convolutional Networks, ICLR workshop 2014, section 3.1.
    """

    sigma: float = Field(1.0, ge=0, description="standard deviation of the blur, pixels of the view; 0: none")

    def geometry(self, network: Geometry) -> Geometry:  # noqa: ARG002
        """A cell is a pixel."""
        return Geometry()

    def cells(self, views: Views, classes: Sequence[int]) -> list[Tensor]:
        """Float [N, V, K, H, W], 0 or more: change of the logit by a unit of the normalised picture."""
        found: list[list[Tensor]] = [[] for _ in views.stacks]
        for gradients in views.pixel_gradients(classes):
            for place, one in enumerate(gradients):
                found[place].append(_blurred(one.abs().amax(dim=2), self.sigma))
        return [torch.stack(one, dim=2) for one in found]


def _blurred(maps_NVHW: Tensor, sigma: float) -> Tensor:
    """Maps under a normal distribution cut off at four standard deviations; beyond the edges they go on as they end."""
    if not sigma:
        return maps_NVHW
    reach = max(1, round(4 * sigma))
    steps = torch.arange(-reach, reach + 1, device=maps_NVHW.device)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(maps_NVHW.dtype)
    flat = maps_NVHW.reshape(-1, 1, *maps_NVHW.shape[-2:])
    padded = functional.pad(flat, (reach, reach, reach, reach), mode="replicate")
    blurred = functional.conv2d(functional.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return blurred.reshape(maps_NVHW.shape)


def _by_gradient(views: Views, classes: Sequence[int], *, per_cell: bool) -> list[Tensor]:
    found: list[list[Tensor]] = [[] for _ in views.maps]
    for class_ in classes:
        _, gradients = views.gradients(class_)
        for place, (gradient, one) in enumerate(zip(gradients, views.maps, strict=True)):
            weight = gradient.clamp_min(0) if per_cell else gradient.mean(dim=(-2, -1), keepdim=True)
            found[place].append((weight * one).sum(dim=2).clamp_min(0))
    return [torch.stack(one, dim=2) for one in found]


def _per_channel(weight: Tensor, copies: int) -> Tensor:
    """Weights [..., copies · D] of a vector made of copies of D channels, summed to [..., D]."""
    return weight.reshape(*weight.shape[:-1], copies, -1).sum(dim=-2)
