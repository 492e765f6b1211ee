"""Pictures with their boxes drawn in, readable on any background."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from PIL import Image, ImageDraw, ImageFont

from manyhot.data.manifest import Box

Colour: TypeAlias = tuple[int, int, int]

# Okabe and Ito, "Color Universal Design" (2008), without black: people with any colour vision tell them apart.
COLOURS: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (213, 94, 0), (204, 121, 167), (0, 114, 178),
)  # fmt: skip

MIN_SIDE = 448
"""A picture whose longer side has fewer pixels is enlarged by the least whole factor that reaches it."""

_DARK: Colour = (20, 20, 20)
_WHITE: Colour = (255, 255, 255)


def draw_boxes(image: Image.Image, boxes: Sequence[Box], title: str | None = None) -> Image.Image:
    """The picture with outlined boxes and a tag with the class name at each.

    Classes get their colours in the order of their names, so a picture always looks the same; with more than seven
    classes in one picture colours come again. The outline of a difficult object is dashed. Small pictures are
    enlarged.

    Arguments:
        image: any mode and size; left as it is.
        boxes: in the pixels of `image`, 0-based, x1 and y1 exclusive; what reaches over the edge is drawn up to it.
        title: a line of text above the picture.

    Returns:
        A new RGB picture.
    """
    factor = max(1, -(-MIN_SIDE // max(image.size)))
    canvas = image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    font = ImageFont.load_default(size=max(13, round(max(canvas.size) / 40)))
    stroke = max(2, round(max(canvas.size) / 250))
    draw = ImageDraw.Draw(canvas)
    names = sorted({box.name for box in boxes})
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    large_first = sorted(boxes, key=lambda box: (box.x0 - box.x1) * (box.y1 - box.y0))
    corners = [_corners(box, factor, canvas.size) for box in large_first]
    for box, at in zip(large_first, corners, strict=True):
        _outline(draw, at, colours[box.name], stroke, dashed=box.difficult)
    taken: list[tuple[int, int, int, int]] = []
    for box, at in zip(large_first, corners, strict=True):  # after all outlines, so that none runs through a name
        taken.append(_tag(draw, at, box.name, colours[box.name], font, canvas.size, taken))
    return canvas if title is None else _titled(canvas, title, font)


def draw_outlines(image: Image.Image, corners: Sequence[Sequence[float]]) -> Image.Image:
    """The picture with thin outlines of many boxes, in colours that come again, large boxes first.

    Arguments:
        image: any mode and size; left as it is. Small pictures are enlarged, as by `draw_boxes`.
        corners: x0, y0, x1, y1 of each box in the pixels of `image`, 0-based, x1 and y1 exclusive.

    Returns:
        A new RGB picture.
    """
    factor = max(1, -(-MIN_SIDE // max(image.size)))
    canvas = image.convert("RGB").resize((image.width * factor, image.height * factor), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas)
    boxes = sorted(
        (Box("", own[0], own[1], own[2], own[3]) for own in corners),
        key=lambda box: (box.x0 - box.x1) * (box.y1 - box.y0),
    )
    for number, box in enumerate(boxes):
        draw.rectangle(_corners(box, factor, canvas.size), outline=COLOURS[number % len(COLOURS)])
    return canvas


def contact_sheet(pictures: Sequence[tuple[str, Image.Image]], side: int = 224) -> Image.Image:
    """Pictures in rows on white, about as wide as high, each with its caption below.

    Arguments:
        pictures: captions and RGB pictures, at least one; larger ones are shrunk to `side` pixels, small ones enlarged
            by whole factors.
        side: of a tile.
    """
    font, gap = ImageFont.load_default(size=14), 8
    line = 22
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + line + gap) + gap), _WHITE)
    draw = ImageDraw.Draw(sheet)
    for place, (caption, picture) in enumerate(pictures):
        left, top = gap + place % columns * (side + gap), gap + place // columns * (side + line + gap)
        longest = max(picture.size)
        factor = side // longest if longest <= side else side / longest
        width, height = (max(1, round(length * factor)) for length in picture.size)
        tile = picture.resize((width, height), Image.Resampling.LANCZOS if factor < 1 else Image.Resampling.NEAREST)
        sheet.paste(tile, (left + (side - width) // 2, top + (side - height) // 2))
        draw.text((left + side / 2, top + side + 3), caption, font=font, fill=_DARK, anchor="mt")
    return sheet


def _corners(box: Box, factor: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """First and last pixel of a box on the enlarged picture, both inside it."""
    width, height = size
    x0, y0 = (round(corner * factor) for corner in (box.x0, box.y0))
    x1, y1 = (round(corner * factor) - 1 for corner in (box.x1, box.y1))
    x0, y0 = min(max(x0, 0), width - 1), min(max(y0, 0), height - 1)
    return x0, y0, min(max(x1, x0), width - 1), min(max(y1, y0), height - 1)


def _outline(
    draw: ImageDraw.ImageDraw, at: tuple[int, int, int, int], colour: Colour, stroke: int, *, dashed: bool
) -> None:
    """A frame just inside the box, between two dark lines that set it off from any background."""
    x0, y0, x1, y1 = at
    halo = max(1, stroke // 2)
    bands = (
        (x0, y0, x1, y0 + stroke - 1), (x0, y1 - stroke + 1, x1, y1),
        (x0, y0, x0 + stroke - 1, y1), (x1 - stroke + 1, y0, x1, y1),
    )  # fmt: skip
    for left, top, right, bottom in bands:
        if left <= right and top <= bottom:
            draw.rectangle((left - halo, top - halo, right + halo, bottom + halo), fill=_DARK)
    for left, top, right, bottom in bands:
        if left <= right and top <= bottom:
            for dash in _dashes(left, top, right, bottom, 4 * stroke) if dashed else [(left, top, right, bottom)]:
                draw.rectangle(dash, fill=colour)


def _dashes(left: int, top: int, right: int, bottom: int, length: int) -> list[tuple[int, int, int, int]]:
    """A band cut into dashes with gaps of their length along its longer side."""
    if right - left >= bottom - top:
        return [(x, top, min(x + length - 1, right), bottom) for x in range(left, right + 1, 2 * length)]
    return [(left, y, right, min(y + length - 1, bottom)) for y in range(top, bottom + 1, 2 * length)]


def _tag(
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int, int, int],
    name: str,
    colour: Colour,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
    taken: Sequence[tuple[int, int, int, int]],
) -> tuple[int, int, int, int]:
    """Draw the name on a filled tag at the first free place round the box, and return the place."""
    left, top, right, bottom = (round(edge) for edge in draw.textbbox((0, 0), name, font=font))
    pad = 3
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x0, y0, x1, y1 = at
    places = [
        (x0, y0 - height), (x0, y1 + 1), (x0, y0), (x1 + 1 - width, y0 - height), (x1 + 1 - width, y1 + 1),
        (x0, y1 + 1 - height), (x1 + 1 - width, y0), (x1 + 1 - width, y1 + 1 - height),
    ]  # fmt: skip
    tags = []
    for x, y in places:
        x, y = max(0, min(x, size[0] - width)), max(0, min(y, size[1] - height))
        tags.append((x, y, x + width - 1, y + height - 1))
    tag = next((tag for tag in tags if not any(_meet(tag, other) for other in taken)), tags[0])
    draw.rectangle(tag, fill=colour, outline=_DARK)
    draw.text((tag[0] + pad - left, tag[1] + pad - top), name, font=font, fill=_text_on(colour))
    return tag


def _meet(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> bool:
    return a[0] <= b[2] and b[0] <= a[2] and a[1] <= b[3] and b[1] <= a[3]


def _text_on(colour: Colour) -> Colour:
    """Black or white, whichever stands out from `colour` (WCAG 2.2, relative luminance)."""
    linear = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return _DARK if (luminance + 0.05) ** 2 > 0.05 * 1.05 else _WHITE


def _titled(picture: Image.Image, title: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """The picture under a white strip with one line of text, which is cut with an ellipsis where it is too long."""
    pad = 6
    text = title
    while font.getlength(text) > picture.width - 2 * pad and len(title) > 1:
        title = title[:-1]
        text = title.rstrip() + "…"
    _, top, _, bottom = (round(edge) for edge in font.getbbox("Ágy"))
    result = Image.new("RGB", (picture.width, picture.height + bottom - top + 2 * pad), _WHITE)
    ImageDraw.Draw(result).text((pad, pad - top), text, font=font, fill=_DARK)
    result.paste(picture, (0, bottom - top + 2 * pad))
    return result
