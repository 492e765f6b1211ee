"""Checking whole folders of pictures: every damaged file is named, and sound ones are remembered."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from manyhot.data import image_checks, images
from manyhot.data.image_checks import check_images, sound_rows
from manyhot.data.images import DamagedImage
from manyhot.data.manifest import Manifest, Row
from manyhot.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("MANYHOT_CACHE", str(folder))
    return folder


def noise(size: tuple[int, int] = (160, 120), seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_checking_remembers_sound_files_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / f"{i}.jpg" for i in range(5)]
    for i, path in enumerate(paths):
        noise(seed=i).save(path)
    paths[3].write_bytes(paths[3].read_bytes()[:2000])
    decoded: list[Path] = []
    fault_of = image_checks.find_damage

    def counting(path: Path) -> DamagedImage | None:
        decoded.append(path)
        return fault_of(path)

    monkeypatch.setattr(image_checks, "find_damage", counting)
    assert [fault.path for fault in check_images(paths)] == [paths[3]]
    assert sorted(decoded) == paths

    decoded.clear()
    assert [fault.path for fault in check_images(paths, workers=1)] == [paths[3]]
    assert decoded == [paths[3]]

    decoded.clear()
    time.sleep(0.01)
    noise(seed=7).save(paths[0])  # same size or not, its time has changed
    noise(seed=3).save(paths[3])
    assert check_images(paths) == []
    assert sorted(decoded) == [paths[0], paths[3]]


def test_a_broken_or_unwritable_cache_costs_time_only(
    tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise().save(tmp_path / "a.png")
    (cache / "sound-images").write_bytes(b"rubbish")
    assert check_images([tmp_path / "a.png"]) == []
    assert len((cache / "sound-images").read_bytes()) == 16

    (tmp_path / "file").touch()
    monkeypatch.setenv("MANYHOT_CACHE", str(tmp_path / "file"))
    assert check_images([tmp_path / "a.png"]) == []
    assert "cannot be remembered" in caplog.text


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MANYHOT_CACHE", "own")
    monkeypatch.setenv("XDG_CACHE_HOME", "shared")
    assert images.cache_folder() == Path("own")
    monkeypatch.delenv("MANYHOT_CACHE")
    assert images.cache_folder() == Path("shared/manyhot")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert images.cache_folder() == Path.home() / ".cache" / "manyhot"


def manifest_of(folder: Path, names: list[str]) -> Manifest:
    rows = [Row(name, name, "train", [1, 0]) for name in names]
    return Manifest.from_rows(folder, ["a", "b"], rows, label_rule="test")


def test_stop_lists_every_damaged_file_and_skip_leaves_them_out(tmp_path: Path) -> None:
    names = [f"{i}.jpg" for i in range(4)]
    for name in names:
        noise().save(tmp_path / name)
    (tmp_path / "1.jpg").write_bytes((tmp_path / "1.jpg").read_bytes()[:3000])
    (tmp_path / "2.jpg").write_bytes(b"")
    manifest = manifest_of(tmp_path, names)

    with pytest.raises(UserError) as caught:
        sound_rows(manifest)
    assert str(caught.value) == (
        "2 of 4 pictures cannot be read:\n"
        f"  {tmp_path / '1.jpg'}: truncated\n"
        f"  {tmp_path / '2.jpg'}: the file is empty\n"
        "Mend or remove them, or pass --on-error skip to go on without them."
    )

    left, damaged = sound_rows(manifest, "skip")
    assert left.ids == ["0.jpg", "3.jpg"]
    assert [fault.reason for fault in damaged] == ["truncated", "the file is empty"]

    with pytest.raises(UserError, match="No picture is left"):
        sound_rows(manifest.rows([False, True, True, False]), "skip")

    whole, none = sound_rows(manifest.rows([True, False, False, True]))
    assert len(whole) == 2
    assert none == []
