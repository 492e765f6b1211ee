"""Deep descriptor transforming: what the cells of all pictures of a class have in common, as a heat map.

Source: Wei, Zhang, Wu, Shen and Zhou, Unsupervised Object Discovery and Co-Localization by Deep Descriptor
Transforming, Pattern Recognition 88, 2019, section 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from pydantic import Field, PrivateAttr
from torch import Tensor
from torch.nn import functional

from manyhot.localization.heatmaps import GradCAM, HeatMap, heat_maps
from manyhot.localization.views import Views


class Axes(NamedTuple):
    """Of each class, the line through its descriptors along which they differ most.

    Arguments:
        means: float32 [C, D], the mean descriptor of the pictures of each class.
        axes: float32 [C, D], of length 1, pointing to where Grad-CAM is hot; zeros for a class without pictures.
    """

    means: Tensor
    axes: Tensor


@heat_maps.register("ddt")
class DescriptorTransform(HeatMap):
    """How far a cell's descriptor lies from the mean of its class along the class's first principal component.

    The descriptor of a cell is the vector of its channels, each raised to `power` (Perronnin, Sánchez and Mensink,
    ECCV 2010, section 3.2) and averaged over the cells beside it. What lies below the mean becomes 0. The map is
    multiplied by 1 + `attention` times Grad-CAM, whose maximum in the view counts as 1: the component says how far the
    object reaches, Grad-CAM where its class is seen best. A class without an axis has the map of Grad-CAM alone.

    The axes are fitted to pictures whose classes are known (`AxesFit`); boxes are not needed.
    """

    power: float = Field(0.25, gt=0, le=1, description="of the channels: less evens out the strong ones")
    reach: int = Field(1, ge=0, description="cells on every side over which descriptors are averaged")
    attention: float = Field(2.0, ge=0, description="weight of Grad-CAM; 0: the component alone")
    _axes: Axes | None = PrivateAttr(None)

    def fitted(self, axes: Axes) -> DescriptorTransform:
        """The same heat map with these axes."""
        copy = self.model_copy()
        copy._axes = axes
        return copy

    def descriptors(self, maps_NVDHW: Tensor) -> Tensor:
        """What is compared, float [N, V, D, h, w]."""
        flat = maps_NVDHW.flatten(0, 1)
        raised = flat.sign() * flat.abs() ** self.power
        if self.reach:
            padded = functional.pad(raised, (self.reach,) * 4, mode="replicate")
            raised = functional.avg_pool2d(padded, 2 * self.reach + 1, stride=1)
        return raised.reshape(maps_NVDHW.shape)

    def cells(self, views: Views, classes: Sequence[int]) -> list[Tensor]:
        """Float [N, V, K, h, w], 0 or more.

        Raises:
            ValueError: the axes are not fitted.
        """
        if self._axes is None:
            raise ValueError("the axes of this heat map are not fitted")
        found = []
        for heat_NVKHW, map_NVDHW in zip(attention(views, classes), views.maps, strict=True):
            picked = torch.tensor(list(classes), dtype=torch.long)
            axes_KD, means_KD = (one[picked].to(map_NVDHW.device) for one in (self._axes.axes, self._axes.means))
            along_NVKHW = torch.einsum("kd,nvdhw->nvkhw", axes_KD, self.descriptors(map_NVDHW))
            beyond_NVKHW = (along_NVKHW - (axes_KD * means_KD).sum(dim=1)[:, None, None]).clamp_min(0)
            known_K11 = axes_KD.any(dim=1)[:, None, None]
            found.append(torch.where(known_K11, beyond_NVKHW * (1 + self.attention * heat_NVKHW), heat_NVKHW))
        return found


class AxesFit:
    """Collects the descriptors of pictures of known classes.

    It keeps a matrix [D, D] of float64 a class: 42 MB for 20 classes of 512 channels.

    Arguments:
        heat_map: whose axes are wanted.
        n_classes: C.
    """

    def __init__(self, heat_map: DescriptorTransform, n_classes: int) -> None:
        self.heat_map, self.n_classes = heat_map, n_classes
        self._sums: dict[int, _Sums] = {}

    def take(self, views: Views, classes: Sequence[Sequence[int]]) -> None:
        """The views of N pictures, and the classes that each shows."""
        union = sorted({c for some in classes for c in some})
        if not union:
            return
        for heat_NVKHW, map_NVDHW in zip(attention(views, union), views.maps, strict=True):
            descriptors_NVDHW = self.heat_map.descriptors(map_NVDHW)
            for picture, own in enumerate(classes):
                if not own:
                    continue
                rows_LD = descriptors_NVDHW[picture].movedim(1, -1).flatten(0, 2)
                products_DD = (rows_LD.T @ rows_LD).double().cpu()
                sum_D = rows_LD.sum(dim=0).double().cpu()
                for c in own:
                    heat_L = heat_NVKHW[picture][:, union.index(c)].flatten()
                    sums = self._sums.setdefault(c, _Sums(rows_LD.shape[1]))
                    sums.count += len(rows_LD)
                    sums.heat += float(heat_L.sum())
                    sums.values_D += sum_D
                    sums.products_DD += products_DD
                    sums.heated_D += (heat_L @ rows_LD).double().cpu()

    def axes(self) -> Axes:
        """The mean and the first principal component of each class, which points to where its Grad-CAM is hot."""
        width = max((len(sums.values_D) for sums in self._sums.values()), default=0)
        means_CD, axes_CD = torch.zeros(self.n_classes, width), torch.zeros(self.n_classes, width)
        for c, sums in self._sums.items():
            mean_D = sums.values_D / sums.count
            covariance_DD = sums.products_DD / sums.count - torch.outer(mean_D, mean_D)
            first_D = torch.linalg.eigh(covariance_DD).eigenvectors[:, -1]
            with_heat = first_D @ (sums.heated_D / sums.count - mean_D * (sums.heat / sums.count))
            means_CD[c], axes_CD[c] = mean_D.float(), (first_D if with_heat >= 0 else -first_D).float()
        return Axes(means_CD, axes_CD)


class _Sums:
    """Over the descriptors of one class."""

    def __init__(self, width: int) -> None:
        self.count, self.heat = 0, 0.0
        self.values_D, self.heated_D = torch.zeros(2, width, dtype=torch.float64)
        self.products_DD = torch.zeros(width, width, dtype=torch.float64)


def attention(views: Views, classes: Sequence[int]) -> list[Tensor]:
    """Grad-CAM [N, V, K, h, w] of each stack in 0…1: every map by its own maximum; a map of zeros stays one."""
    heats = GradCAM().cells(views, classes)
    return [heat / heat.amax(dim=(-2, -1), keepdim=True).clamp_min(torch.finfo(heat.dtype).tiny) for heat in heats]
