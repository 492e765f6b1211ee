"""Decoding: what people see is what the network gets, and a damaged file says why."""

from __future__ import annotations

import pickle
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from manyhot.data.image_checks import check_images
from manyhot.data.images import DamagedImage, image_size, open_image

CORNER = (250, 10, 20)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MANYHOT_CACHE", str(folder))
    return folder


def blank(size: tuple[int, int] = (48, 32), colour: tuple[int, int, int] = (20, 120, 220)) -> Image.Image:
    return Image.new("RGB", size, colour)


def with_corner() -> Image.Image:
    """A blue picture, 48 by 32, whose upper left quarter is red."""
    picture = blank()
    picture.paste(CORNER, (0, 0, 24, 16))
    return picture


def noise(size: tuple[int, int] = (160, 120), seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100))


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def close(found: tuple[int, ...], wanted: tuple[int, ...], within: int = 6) -> bool:
    return all(abs(a - b) <= within for a, b in zip(found, wanted, strict=True))


# Where the upper left quarter of the displayed picture lies in the file, by EXIF orientation: what a camera held that
# way writes. Independent of Pillow: the table of the EXIF standard.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation_is_applied_to_pixels_and_size(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"turned.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(with_corner()))))
    stored.save(path, exif=exif, **({"quality": 95} if suffix in ("jpg", "webp") else {}))

    image = open_image(path)

    assert image.size == image_size(path) == (48, 32)
    assert close(pixel(image, 6, 5), CORNER)
    assert all(close(pixel(image, x, y), (20, 120, 220)) for x, y in [(42, 5), (6, 28), (42, 28)])


@pytest.mark.parametrize("value", [0, 9, 300])
def test_an_orientation_outside_one_to_eight_is_none(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    with_corner().save(tmp_path / "odd.jpg", exif=exif)
    assert open_image(tmp_path / "odd.jpg").size == (48, 32)


def test_broken_exif_does_not_damage_the_picture(tmp_path: Path) -> None:
    with_corner().save(tmp_path / "odd.jpg", exif=b"Exif\0\0MM\0\x2a\0\0\0\x08\xff\xff\x01\x12 nonsense")
    assert open_image(tmp_path / "odd.jpg").size == image_size(tmp_path / "odd.jpg") == (48, 32)


def test_cmyk_of_adobe_and_of_others(tmp_path: Path) -> None:
    cmyk = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    cmyk.save(tmp_path / "adobe.jpg", quality=95)
    assert close(pixel(open_image(tmp_path / "adobe.jpg"), 5, 5), (255, 0, 0))

    ImageChops.invert(cmyk).save(tmp_path / "plain.jpg", quality=95)
    data = (tmp_path / "plain.jpg").read_bytes()
    at = data.index(b"\xff\xee")
    assert data[at + 4 : at + 9] == b"Adobe"
    length = int.from_bytes(data[at + 2 : at + 4], "big")
    (tmp_path / "plain.jpg").write_bytes(data[:at] + data[at + 2 + length :])
    assert close(pixel(open_image(tmp_path / "plain.jpg"), 5, 5), (255, 0, 0))

    cmyk.save(tmp_path / "print.tif")
    assert pixel(open_image(tmp_path / "print.tif"), 5, 5) == (255, 0, 0)


@pytest.mark.parametrize(
    ("mode", "colour", "wanted"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 77, (77, 77, 77)),
        ("LA", (77, 0), (255, 255, 255)),
        ("LA", (77, 255), (77, 77, 77)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
    ],
)
def test_grey_and_transparency(tmp_path: Path, mode: str, colour: object, wanted: tuple[int, int, int]) -> None:
    Image.new(mode, (8, 8), colour).save(tmp_path / "a.png")  # type: ignore[arg-type]
    assert pixel(open_image(tmp_path / "a.png"), 3, 3) == wanted


def test_palette_with_transparency_lies_on_white(tmp_path: Path) -> None:
    palette = Image.new("P", (8, 8), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    palette.paste(1, (4, 0, 8, 8))
    palette.save(tmp_path / "one.png", transparency=0)
    palette.save(tmp_path / "one.gif", transparency=0)
    palette.save(tmp_path / "bytes.png", transparency=b"\x00\xff")
    for name in ("one.png", "one.gif", "bytes.png"):
        image = open_image(tmp_path / name)
        assert pixel(image, 1, 1) == (255, 255, 255)
        assert pixel(image, 6, 6) == (0, 200, 0)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_png_colour_that_stands_for_clear_becomes_white(tmp_path: Path, mode: str) -> None:
    clear: object = 77 if mode == "L" else (1, 2, 3)
    Image.new(mode, (8, 8), clear).save(tmp_path / "a.png", transparency=clear)  # type: ignore[arg-type]
    assert pixel(open_image(tmp_path / "a.png"), 3, 3) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"deep.{suffix}"
    values = np.array([[0, 257 * 100, 257 * 200, 65535]], dtype=np.uint16)
    if suffix == "pgm":
        path.write_bytes(b"P5 4 1 65535\n" + values.astype(">u2").tobytes())
    else:
        Image.fromarray(values).save(path)
    assert np.asarray(open_image(path))[0, :, 1].tolist() == [0, 100, 200, 255]


def test_16_bit_colour_png_is_scaled_not_clipped(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    values = np.array([[[0, 257 * 100, 65535]]], dtype=">u2")
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + values.tobytes())) + chunk(b"IEND", b"")
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    assert pixel(open_image(tmp_path / "deep.png"), 0, 0) == (0, 100, 255)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.0, 0.4, 1.0], [0, 102, 255]),
        ([0.0, 99.6, 200.0], [0, 100, 200]),
        ([0.0, 25700.0, 65535.0], [0, 100, 255]),
        ([-1.0, 0.0, 1.0], [0, 128, 255]),
        ([1e6, 2e6, 3e6], [0, 128, 255]),
        ([-7.0, -7.0, -7.0], [0, 0, 0]),
        ([0.0, float("nan"), float("inf")], [0, 0, 0]),
        ([float("nan"), 1.0, float("-inf")], [255, 255, 255]),
        ([float("nan"), float("nan"), float("nan")], [0, 0, 0]),
    ],
)
def test_float_tiff_follows_the_documented_rule(tmp_path: Path, values: list[float], wanted: list[int]) -> None:
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "f.tif")
    assert np.asarray(open_image(tmp_path / "f.tif"))[0, :, 0].tolist() == wanted


@pytest.mark.parametrize(
    ("values", "wanted"),
    [([0, 1], [0, 1]), ([0, 200], [0, 200]), ([0, 65535], [0, 255]), ([-100, 100], [0, 255]), ([0, 2**30], [0, 255])],
)
def test_32_bit_integers_follow_the_documented_rule(tmp_path: Path, values: list[int], wanted: list[int]) -> None:
    Image.fromarray(np.array([values], dtype=np.int32)).save(tmp_path / "i.tif")
    assert np.asarray(open_image(tmp_path / "i.tif"))[0, :, 0].tolist() == wanted


def test_the_first_frame_is_taken(tmp_path: Path) -> None:
    blank(colour=(255, 0, 0)).save(tmp_path / "a.gif", save_all=True, append_images=[blank(colour=(0, 0, 255))])
    assert pixel(open_image(tmp_path / "a.gif"), 0, 0) == (255, 0, 0)


def test_the_picture_outlives_its_file(tmp_path: Path) -> None:
    noise().save(tmp_path / "a.png")
    image = open_image(str(tmp_path / "a.png"))
    (tmp_path / "a.png").unlink()
    assert np.array_equal(np.asarray(image), np.asarray(noise()))
    assert type(image) is Image.Image


def test_empty_missing_and_foreign_files_say_so(tmp_path: Path) -> None:
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not a picture")
    for name, reason in [
        ("empty.jpg", "the file is empty"),
        ("text.jpg", "not an image of a known format"),
        ("gone.jpg", "there is no such file"),
        (".", "cannot be read"),
    ]:
        for use in (open_image, image_size):
            with pytest.raises(DamagedImage, match=reason) as caught:
                use(tmp_path / name)
            assert caught.value.path == tmp_path / name
            assert str(caught.value).startswith(f"{tmp_path / name}: ")


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_truncated_files_are_found(tmp_path: Path, suffix: str, kept: float) -> None:
    whole = tmp_path / f"whole.{suffix}"
    cut = tmp_path / f"cut.{suffix}"
    noise().save(whole)
    data = whole.read_bytes()
    cut.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DamagedImage, match="truncated" if suffix in ("jpg", "png", "gif", "bmp") else "damaged|trunc"):
        open_image(cut)
    assert [fault.path for fault in check_images([whole, cut])] == [cut]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif", "jp2", "pgm"])
def test_whatever_the_bytes_it_is_a_picture_or_a_damaged_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    noise((40, 30)).convert("L" if suffix == "pgm" else "RGB").save(path)
    whole = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    for seed in range(40):
        draw = np.random.default_rng(seed)
        data = whole.copy()
        at = draw.integers(0, min(len(data), 120 if seed % 2 else len(data)), size=4)
        data[at] = draw.integers(0, 256, size=4)
        path.write_bytes(data.tobytes())
        for use in (open_image, image_size):
            with suppress(DamagedImage):
                use(path)


def test_16_bit_png_with_a_clear_grey(tmp_path: Path) -> None:
    Image.fromarray(np.array([[257 * 7, 257 * 9]], dtype=np.uint16)).save(tmp_path / "a.png", transparency=257 * 7)
    assert np.asarray(open_image(tmp_path / "a.png"))[0, :, 0].tolist() == [255, 9]


def test_postscript_is_never_run(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    with pytest.raises(DamagedImage, match="not an image of a known format"):
        open_image(tmp_path / "a.jpg")


def test_a_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(png_header(30_000, 30_000))
    script = (
        "import resource, sys, time\n"
        "from manyhot.data.images import DamagedImage, image_size, open_image\n"
        "import PIL.Image; PIL.Image.init()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; start = time.perf_counter()\n"
        "for use in (open_image, image_size):\n"
        "    try: use(sys.argv[1])\n"
        "    except DamagedImage as error: print(error.reason)\n"
        "print(time.perf_counter() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, path], capture_output=True, text=True, check=True
    )
    *reasons, figures = run.stdout.splitlines()
    assert reasons == ["too large: 900 megapixels, the limit is 100"] * 2
    seconds, megabytes = map(float, figures.split())
    assert seconds < 0.5
    assert megabytes < 50


@pytest.mark.parametrize(("size", "megapixels"), [((12_000, 10_000), 120), ((11_000, 10_000), 110)])
def test_the_limit_holds_where_pillow_would_only_warn(tmp_path: Path, size: tuple[int, int], megapixels: int) -> None:
    (tmp_path / "large.png").write_bytes(png_header(*size))
    with pytest.raises(DamagedImage, match=f"too large: {megapixels} megapixels, the limit is 100"):
        open_image(tmp_path / "large.png")


def test_no_warning_gets_through_below_the_limit(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_header(9_900, 10_000))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        assert image_size(tmp_path / "large.png") == (9_900, 10_000)
    assert not seen


def test_many_threads_leave_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_header(9_900, 10_000))
    before = list(warnings.filters)
    threads = [
        threading.Thread(target=lambda: [image_size(tmp_path / "large.png") for _ in range(20)]) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(warnings.filters) == before


def test_a_damaged_image_crosses_processes() -> None:
    fault = pickle.loads(pickle.dumps(DamagedImage("a.jpg", "truncated")))  # noqa: S301
    assert (fault.path, fault.reason, str(fault)) == (Path("a.jpg"), "truncated", "a.jpg: truncated")


@pytest.mark.parametrize("orientation", [1, 6])
def test_enough_pixels_are_decoded_and_no_more(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient = np.add.outer(np.arange(900), np.arange(1600)).astype(np.float32) / 10
    Image.fromarray(gradient.astype(np.uint8)).convert("RGB").save(tmp_path / "a.jpg", quality=95, exif=exif)
    whole, reduced = open_image(tmp_path / "a.jpg"), open_image(tmp_path / "a.jpg", (200, 200))
    assert whole.size == ((1600, 900) if orientation == 1 else (900, 1600))
    assert reduced.size == tuple(length // 4 for length in whole.size)
    small = [np.asarray(image.resize((160, 90)), np.float32) for image in (whole, reduced)]
    assert np.abs(small[0] - small[1]).mean() < 1.5
