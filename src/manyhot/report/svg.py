"""From a matplotlib figure to SVG twice: inline, in the page's colours and font, and as a file that stands alone."""

from __future__ import annotations

import io
import re
import unicodedata
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib.style
from matplotlib.figure import Figure

INK, SOFT, LINE, SURFACE, FIRST, SECOND = "#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05", "#0a0b06"
"""Stand-in colours to draw with; `render` replaces them."""

_COLOURS = {
    INK: ("var(--ink)", "#1b2126"),
    SOFT: ("var(--soft)", "#5a646d"),
    LINE: ("var(--line)", "#d9dee2"),
    SURFACE: ("var(--card)", "#ffffff"),
    FIRST: ("var(--first)", "#0b62a8"),
    SECOND: ("var(--second)", "#b8530a"),
}

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "manyhot",
    "text.parse_math": False,
    "font.family": ["DejaVu Sans"],
    "font.size": 11.0,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.titlesize": 12.0,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 1.0,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "xtick.major.size": 0.0,
    "ytick.major.size": 0.0,
    "lines.linewidth": 1.8,
    "lines.solid_joinstyle": "round",
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "figure.dpi": 72.0,
}

_SPACE = "http://www.w3.org/2000/svg"
_NUMBER = re.compile(r"-?\d+\.\d+")
_REFERENCE = re.compile(r"url\(#([^)]+)\)")


@dataclass(frozen=True)
class Plot:
    """One plot.

    Arguments:
        name: file stem, unique within a report.
        alt: what the plot shows, in words.
        width: pixels, unscaled.
        inline: `<svg>` for a page that defines the colours as CSS variables; it carries `alt` and no outside address.
        file: a complete SVG document on white.
    """

    name: str
    alt: str
    width: int
    inline: str
    file: str


@contextmanager
def plot_style() -> Iterator[None]:
    """Draw by the report's rules, whatever the user's matplotlibrc says."""
    with matplotlib.style.context(["default", _STYLE]), warnings.catch_warnings():
        # The browser picks the font, so a glyph that matplotlib's own font lacks is not missing.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def blank(width: int, height: int) -> Figure:
    """An empty figure of `width` x `height` pixels."""
    return Figure(figsize=(width / 72, height / 72))


def printable(text: str) -> str:
    """`text` with control characters and lone surrogates, which neither XML nor UTF-8 can carry, replaced."""
    return "".join("\N{REPLACEMENT CHARACTER}" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def shortened(text: str, length: int) -> str:
    """`text`, cut to `length` characters with an ellipsis where it is longer."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def render(figure: Figure, *, name: str, alt: str) -> Plot:
    """Write `figure` as SVG; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    root = ET.fromstring(buffer.getvalue())  # noqa: S314 - matplotlib has just written it
    styles = _tidy(root, prefix=name)
    _, _, width, height = root.attrib["viewBox"].split()

    def in_colours(column: int) -> None:
        for element, style in styles:
            for stand_in, colours in _COLOURS.items():
                style = style.replace(stand_in, colours[column])
            element.set("style", style)

    shape = "stroke-linejoin:round;stroke-linecap:butt"
    root.attrib = {"class": "plot", "viewBox": root.attrib["viewBox"], "role": "img", "aria-label": alt, "style": shape}
    in_colours(0)
    inline = ET.tostring(root, encoding="unicode")
    root.attrib = {
        "xmlns": _SPACE,
        "width": width,
        "height": height,
        "viewBox": root.attrib["viewBox"],
        "style": f"{shape};font-family:system-ui,'DejaVu Sans',sans-serif",
    }
    in_colours(1)
    title = ET.Element("title")
    title.text = alt
    root[:0] = [title, ET.Element("rect", width="100%", height="100%", fill="#ffffff")]
    return Plot(name, alt, round(float(width)), inline, ET.tostring(root, encoding="unicode") + "\n")


def _tidy(root: ET.Element, prefix: str) -> list[tuple[ET.Element, str]]:
    """Make ids unique in a page, keep no rule that reaches beyond the drawing; return the elements with a style."""
    used = {ref for element in root.iter() for ref in _references(element)}
    styles = []
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{{{_SPACE}}}style":
                parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SPACE}}}")
        if element.tag != "text":
            element.text = None
        element.tail = None
        attributes = {}
        for key, value in element.attrib.items():
            key = key.rpartition("}")[2]
            if key == "id":
                if value not in used:
                    continue
                value = f"{prefix}-{value}"
            elif key == "href":
                value = f"#{prefix}-{value[1:]}"
            elif key == "clip-path":
                value = _REFERENCE.sub(rf"url(#{prefix}-\1)", value)
            elif key == "style":
                value = re.sub(r"font-family: [^;]*;? ?", "", value)
            elif key == "transform" and value.startswith("rotate(-0 "):
                continue
            elif key in ("d", "x", "y", "transform"):
                value = _NUMBER.sub(lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), value)
                value = " ".join(value.split())
            attributes[key] = value
        element.attrib = attributes
        if "style" in attributes:
            styles.append((element, attributes["style"]))
    return styles


def _references(element: ET.Element) -> list[str]:
    found = []
    for key, value in element.attrib.items():
        if key.endswith("href"):
            found.append(value.removeprefix("#"))
        elif key == "clip-path":
            found += _REFERENCE.findall(value)
    return found
