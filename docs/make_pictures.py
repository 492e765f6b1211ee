"""Take the pictures of README and docs from a real report, and draw those that are computed.

Run `python docs/make_pictures.py demo/evaluation/test/report.html` after `make demo`. Needs Chromium and playwright
(the `dev` extra). `python docs/make_pictures.py --drawn` only draws.
"""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from PIL import Image
from playwright.sync_api import sync_playwright
from torch import Tensor, nn
from torchvision import models

from manyhot.models.weight_standardization import standardize_weights

WIDTH, HEIGHT = 1280, 860
CHROMIUM = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update --disable-sync"


def main() -> None:
    """Pictures that are drawn, then those of the report named by the first argument."""
    folder = Path(__file__).parent / "images"
    folder.mkdir(exist_ok=True)
    draw_weight_standardization(folder / "weight-standardization.png")
    if sys.argv[1:] != ["--drawn"]:
        take_report(Path(sys.argv[1]).resolve(), folder)


def take_report(report: Path, folder: Path) -> None:
    """The report's head in light and dark, with few colours to keep the files small, and its pictures with all."""
    executable = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM.split())
        for scheme, name, section in (
            ("light", "report", None),
            ("dark", "report-dark", None),
            ("light", "report-pictures", "#pictures"),
            ("light", "report-calibration", "#calibration"),
        ):
            page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme=scheme)
            page.goto(report.as_uri())
            if section:
                page.locator(section).scroll_into_view_if_needed()
                page.evaluate("section => document.querySelector(section).scrollIntoView()", section)
            page.screenshot(path=folder / f"{name}.png")
            page.close()
            with Image.open(folder / f"{name}.png") as image:
                rgb = image.convert("RGB")
            (rgb if section == "#pictures" else rgb.quantize(256)).save(folder / f"{name}.png", optimize=True)
        browser.close()


def draw_weight_standardization(path: Path) -> None:
    """How far each channel behind each BatchNorm of a ResNet-18 with dead filters is from its source."""
    model, pictures = _resnet_with_dead_filters(0.05)
    wanted = _norm_outputs(model, pictures)
    figure, axes = plt.subplots(figsize=(9, 4.2), layout="constrained")
    places = torch.arange(1, len(wanted) + 1).numpy()
    for mode, colour, shift in (("naive", "#b3261e", -0.2), ("alpha", "#1a5fb4", 0.2)):
        found = _norm_outputs(standardize_weights(model, mode)[0], pictures)
        channels = [
            ((one - other).abs().amax(dim=(0, 2, 3)) / other.abs().max()).clamp_min(1e-18).numpy()
            for one, other in zip(found.values(), wanted.values(), strict=True)
        ]
        drawn = axes.boxplot(channels, positions=places + shift, widths=0.34, whis=(0, 100), patch_artist=True)
        for line in itertools.chain.from_iterable(drawn.values()):
            line.set(color=colour, linewidth=1.4)
        for box in drawn["boxes"]:
            box.set_facecolor(colour)
        axes.plot([], [], color=colour, linewidth=6, label=mode)
    axes.set_yscale("log")
    axes.set_xticks(places, list(wanted), rotation=60, ha="right", fontsize=8)
    axes.set_ylabel("difference / largest output of the layer")
    axes.set_title("ResNet-18, random weights, 5 % dead filters, float64: channels behind each BatchNorm", fontsize=10)
    axes.grid(axis="y", color="#dddddd")
    axes.set_axisbelow(True)
    axes.legend(loc="center right", frameon=False)
    figure.savefig(path, dpi=110)
    plt.close(figure)


@torch.no_grad()
def _resnet_with_dead_filters(share: float) -> tuple[nn.Module, Tensor]:
    """A random ResNet-18 in float64, its BatchNorms' statistics those of the pictures that come with it."""
    torch.manual_seed(0)
    model, pictures = models.resnet18().double(), torch.randn(16, 3, 96, 96, dtype=torch.float64)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight[torch.rand(layer.out_channels) < share] *= 1e-6
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
            layer.bias.normal_(0, 0.1)
    model(pictures)
    return model.eval(), pictures


@torch.no_grad()
def _norm_outputs(model: nn.Module, pictures: Tensor) -> dict[str, Tensor]:
    """What each BatchNorm gives, by its name."""
    found: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda _layer, _inputs, output, name=name: found.update({name: output.clone()}))
        for name, layer in model.named_modules()
        if isinstance(layer, nn.BatchNorm2d)
    ]
    model(pictures)
    for handle in handles:
        handle.remove()
    return found


if __name__ == "__main__":
    main()
