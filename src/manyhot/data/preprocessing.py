"""From a decoded picture to the network's input: the preprocessing that the bundle keeps."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from PIL import Image
from pydantic import BaseModel, ConfigDict

from manyhot.data.crops import Crops, Frame, crops
from manyhot.recipe import Input

if TYPE_CHECKING:
    from torch import Tensor

_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


class Preprocessing(BaseModel):
    """How every picture becomes a tensor, in training (after augmentation), evaluation and prediction alike."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    fit: str
    resize: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crops: dict[str, Any] = {"name": "one"}

    @classmethod
    def from_recipe(
        cls, settings: Input, mean: tuple[float, float, float], std: tuple[float, float, float]
    ) -> Preprocessing:
        """The recipe's input section; `mean` and `std` fill what it leaves open."""
        return cls(
            size=settings.size,
            fit=settings.fit,
            resize=settings.resize or round(settings.size / 0.875),
            interpolation=settings.interpolation,
            mean=settings.mean or mean,
            std=settings.std or std,
            crops=settings.crops,
        )

    def with_crops(self, setting: dict[str, Any] | None) -> Preprocessing:
        """The same with other crops; None changes nothing."""
        return self if setting is None else Preprocessing(**{**self.model_dump(), "crops": setting})

    @cached_property
    def cropping(self) -> Crops:
        """The part that cuts.

        Raises:
            UserError: an unknown part, or a bad setting of it.
        """
        return crops.build(self.crops)

    @property
    def window(self) -> tuple[int, int] | None:
        """Side and step, in pixels, of the windows that the network's map is pooled by; None: all at once."""
        return self.cropping.window(self.size)

    def views(self, image: Image.Image) -> list[Image.Image]:
        """The crops of a picture, without augmentation."""
        return self.cropping.cut(self.cropping.canvas(image, self), self)

    def describe(self) -> str:
        """What of a picture is seen, in words: "centre crop 224 of shorter side 256"."""
        return self.cropping.describe(self)

    @property
    def filter(self) -> Image.Resampling:
        """Pillow's filter; all are antialiased."""
        return _FILTERS[self.interpolation]

    def kept(self, size: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left, top, right and bottom edge of the part that `fit_image` keeps of a picture of this width and height."""
        if self.fit == "squash":
            return 0.0, 0.0, float(size[0]), float(size[1])
        scale = max(self.resize, self.size) / min(size)
        width, height = (max(self.size, round(side * scale)) for side in size)
        left, top = (width - self.size) / 2, (height - self.size) / 2
        return (
            left * size[0] / width,
            top * size[1] / height,
            (left + self.size) * size[0] / width,
            (top + self.size) * size[1] / height,
        )

    def fit_image(self, image: Image.Image) -> Image.Image:
        """The picture as size x size pixels."""
        # Resizing only the part that is kept costs less than resizing all and cutting.
        return image.resize((self.size, self.size), self.filter, box=self.kept(image.size))

    def frames(self, size: tuple[int, int]) -> list[Frame]:
        """Where the crops that `views` cuts from a picture of this width and height lie in it."""
        return self.cropping.frames(size, self)

    def normalize(self, images: Tensor) -> Tensor:
        """Bytes [..., 3, H, W] in 0…255 to float32 of mean 0 and standard deviation 1, on the device where they lie.

        The result lies in memory as the bytes do.
        """
        import torch  # exported models are used without it

        scale, shift = self._scale_and_shift.to(images.device)
        if images.stride(-3) != 1:
            values = images.float()
            return torch.addcmul(shift.view(3, 1, 1), values, scale.view(3, 1, 1), out=values)
        # Channels last: three numbers repeated along whole rows take less than half the time of steps of three.
        width = images.shape[-1]
        rows = images.movedim(-3, -1).flatten(-2).float()
        torch.addcmul(shift.repeat(width), rows, scale.repeat(width), out=rows)
        return rows.view(*rows.shape[:-1], width, 3).movedim(-1, -3)

    @cached_property
    def _scale_and_shift(self) -> Tensor:
        """Bytes times the first row and plus the second are (bytes / 255 - mean) / std, float32 [2, 3].

        One pass over the values, where the subtraction and the two divisions would be three.
        """
        import torch

        mean, std = torch.tensor([self.mean, self.std], dtype=torch.float64)
        return torch.stack([1 / (255 * std), -mean / std]).float()
