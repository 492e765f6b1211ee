"""A trained detector at work: scores summed over scales and flips, then non-maximum suppression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import nms

from manyhot.data.images import DamagedImage, image_size, open_image
from manyhot.data.preprocessing import Preprocessing
from manyhot.data.proposals import Corners, Proposals
from manyhot.inference.regions import View, detection_views, place_boxes, see
from manyhot.models.detectors import WSDDN
from manyhot.models.wsddn import Packed, Wsddn
from manyhot.progress import progress


@dataclass(frozen=True, eq=False)
class BoxScores:
    """What the detector says of the proposals of a picture.

    Arguments:
        row: of the picture.
        boxes: float32 [R, 4].
        scores: float32 [R, C], summed over the views; 0 to the number of views.
        image: float32 [C], image scores, their mean over the views, 0…1.
    """

    row: int
    boxes: Corners
    scores: NDArray[np.float32]
    image: NDArray[np.float32]

    def best(self, c: int) -> Corners | None:
        """The corners [4] of the box that scores highest for a class, the first of equals; None without boxes."""
        return self.boxes[self.scores[:, c].argmax()] if len(self.boxes) else None

    def detections(self, c: int, min_score: float, overlap: float) -> list[tuple[float, Corners]]:
        """Score and corners of the boxes of a class that are left after suppression, best first.

        Arguments:
            c: the class.
            min_score: a box must score more.
            overlap: IoU above which a better box removes another.
        """
        rows = np.flatnonzero(self.scores[:, c] > min_score)
        own = torch.from_numpy(self.scores[rows, c])
        kept = rows[nms(torch.from_numpy(self.boxes[rows]), own, overlap).numpy()]
        return [(float(self.scores[row, c]), self.boxes[row]) for row in kept]


@torch.no_grad()
def score_boxes(
    network: Wsddn,
    part: WSDDN,
    preprocessing: Preprocessing,
    paths: Sequence[Path],
    proposals: Proposals,
    damaged: list[DamagedImage],
    views: Sequence[View] | None = None,
) -> Iterator[BoxScores]:
    """Scores of the proposals of N pictures, picture by picture.

    Source: Bilen and Vedaldi, CVPR 2016, section 4 (test-time sum over scales and flips).

    Arguments:
        network: on its device.
        part: the detector's settings.
        preprocessing: filter, mean and standard deviation.
        paths: N image files.
        proposals: of the N pictures, in their order.
        damaged: gets the pictures that cannot be read; they are left out.
        views: that are summed; None: those of the settings.
    """
    network.eval()
    device = next(network.parameters()).device
    with progress(len(paths), "looking for boxes") as bar:
        for row, path in enumerate(paths):
            try:
                image = open_image(path)
            except DamagedImage as fault:
                damaged.append(fault)
                bar.advance()
                continue
            boxes_R4 = proposals.boxes[row]
            given = proposals.scores[row] if part.box_scores and proposals.scores is not None else None
            totals, images = [], []
            for view in views or detection_views(part):
                pixels = torch.from_numpy(see(image, view, preprocessing)).permute(2, 0, 1)
                packed = Packed(
                    (preprocessing.normalize(pixels.to(device)),),
                    torch.from_numpy(place_boxes(boxes_R4, image.size, view)),
                    torch.zeros(len(boxes_R4), dtype=torch.int64),
                    None if given is None else torch.from_numpy(given),
                )
                found = network.scores(packed.to(device))
                totals.append(found.boxes)
                images.append(found.images[0])
            yield BoxScores(
                row,
                boxes_R4,
                torch.stack(totals).sum(dim=0).float().cpu().numpy(),
                torch.stack(images).mean(dim=0).float().cpu().numpy(),
            )
            bar.advance()


def sizes_of(paths: Sequence[Path]) -> NDArray[np.float64]:
    """Width and height of pictures, float64 [N, 2]."""
    return np.array([image_size(path) for path in paths], np.float64).reshape(-1, 2)
