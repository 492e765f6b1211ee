"""Bad input at the command line: one clear message, exit code 2, no traceback, nothing overwritten."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zlib
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from PIL import Image

from manyhot.cli import main


def manyhot(*arguments: object) -> subprocess.CompletedProcess[str]:
    """The command line in this process, for starting another takes seconds; test_missing_folder compares the two."""
    command = ["manyhot", *map(str, arguments)]
    out, err, code = io.StringIO(), io.StringIO(), 0
    log = logging.getLogger("manyhot")
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", command)
        patch.setattr(log, "handlers", [])
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return subprocess.CompletedProcess(command, code, out.getvalue(), err.getvalue())


def refused(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("error: ") == 1
    for word in words:
        assert word in result.stderr, result.stderr


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten sound pictures in two splits, and a table of them."""
    lines = ["image,split,labels"]
    for i in range(10):
        Image.new("RGB", (40, 40), (25 * i, 90, 30)).save(tmp_path / f"{i}.jpg", quality=95)
        lines.append(f"{i}.jpg,{'train' if i < 6 else 'val'},{'dark' if i % 2 else 'light'}")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def train(recipe: Path, data: object, out: Path, *extra: object) -> subprocess.CompletedProcess[str]:
    return manyhot("train", recipe, "--data", data, "--out", out, *extra)


def test_missing_folder(tiny_recipe: Path, tmp_path: Path) -> None:
    command = ["train", str(tiny_recipe), "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "run")]
    process = subprocess.run([sys.executable, "-m", "manyhot", *command], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (2, manyhot(*command).stderr)
    refused(train(tiny_recipe, tmp_path / "nowhere", tmp_path / "run"), "nowhere", "no file or folder")
    assert not (tmp_path / "run").exists()


def test_empty_split(tiny_recipe: Path, folder: Path) -> None:
    result = train(tiny_recipe, folder / "table.csv", folder / "run", "--set", "data.train_split=training")
    refused(result, "split 'training' holds no images", "'train', 'val'")
    assert not (folder / "run").exists()


def test_options_of_a_store_that_do_not_go_together(folder: Path) -> None:
    prepare = ("data", "prepare", folder / "table.csv", "--out", folder / "out")
    refused(manyhot(*prepare, "--as", "voc", "--jpeg", "--center-crop"), "leave out --center-crop, --jpeg")
    refused(manyhot(*prepare, "--exact", "9", "9", "--keep-size"), "contradict")
    refused(manyhot(*prepare, "--keep-size", "--center-crop"), "a centre crop goes with a shorter side")
    refused(manyhot(*prepare, "--val-fraction", "0.5"), "a split 'val' already")
    refused(manyhot("data", "inspect", folder / "table.csv", "--verify"), "no pixel store", "decoded without --verify")
    assert not (folder / "out").exists()


def test_a_store_with_a_flipped_byte(folder: Path) -> None:
    assert manyhot("data", "prepare", folder / "table.csv", "--out", folder / "out").returncode == 0
    shard = folder / "out" / "pixels-00000.bin"
    pixels = bytearray(shard.read_bytes())
    pixels[len(pixels) // 2] ^= 4
    shard.write_bytes(pixels)
    refused(manyhot("data", "inspect", folder / "out", "--verify"), "pixels.parquet/5: its pixels do not match")


def test_unknown_class_in_xml(tiny_recipe: Path, tmp_path: Path) -> None:
    refused(manyhot("data", "prepare", "nothing", "--out", tmp_path / "voc"), "no source of that name")
    voc = tmp_path / "VOC2012"
    (voc / "ImageSets" / "Main").mkdir(parents=True)
    (voc / "Annotations").mkdir()
    (voc / "JPEGImages").mkdir()
    Image.new("RGB", (40, 30)).save(voc / "JPEGImages" / "a.jpg")
    (voc / "ImageSets" / "Main" / "train.txt").write_text("a\n")
    (voc / "ImageSets" / "Main" / "cat_train.txt").write_text("a  1\n")
    (voc / "Annotations" / "a.xml").write_text(
        "<annotation>\n<size><width>40</width><height>30</height><depth>3</depth></size>\n"
        "<object>\n<name>kat</name>\n<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>\n"
        "</object>\n</annotation>\n"
    )
    refused(train(tiny_recipe, voc, tmp_path / "run"), "a.xml, line 4", "kat")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("image,split,labels,colour\n0.jpg,train,dark,teal\n", ["table.csv", "colour"]),
        ("image,id,labels\n0.jpg,a,dark\n1.jpg,b,dark\n2.jpg,a,light\n", ["table.csv, line 4", "'a'"]),
        ("image,dark,light\n0.jpg,1,0\n1.jpg,0,0\n2.jpg,2,1\n", ["table.csv, line 4", "2"]),
    ],
    ids=["unknown column", "duplicate id", "bad value"],
)
def test_faulty_tables(tiny_recipe: Path, folder: Path, table: str, words: list[str]) -> None:
    (folder / "table.csv").write_text(table)
    refused(train(tiny_recipe, folder / "table.csv", folder / "run"), *words)


def test_damaged_pictures_are_all_listed(tiny_recipe: Path, folder: Path) -> None:
    (folder / "1.jpg").write_bytes(b"")
    whole = (folder / "7.jpg").read_bytes()
    (folder / "7.jpg").write_bytes(whole[: len(whole) // 2])
    result = train(tiny_recipe, folder / "table.csv", folder / "run")
    refused(result, "1.jpg", "empty", "7.jpg", "truncated", "--on-error skip")
    assert not (folder / "run").exists()


def test_damaged_pictures_can_be_left_out(tiny_recipe: Path, folder: Path) -> None:
    (folder / "1.jpg").write_bytes(b"")
    extra = ("--on-error", "skip", "--set", "training.epochs=1", "--set", "training.freeze_epochs=0")
    result = train(tiny_recipe, folder / "table.csv", folder / "run", *extra)
    assert result.returncode == 0, result.stderr
    assert "1.jpg" in result.stderr
    assert "training on 5 pictures" in result.stderr
    result = manyhot("evaluate", folder / "run", "--split", "train")
    assert result.returncode == 0, result.stderr
    assert "left out as damaged: 1" in result.stdout
    assert json.loads((folder / "run" / "evaluation" / "train" / "metrics.json").read_text())["n_images"] == 5


def test_a_bomb_is_refused_from_its_header(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    bomb = tmp_path / "bomb.png"
    bomb.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    code = (
        "import sys, resource\n"
        "from manyhot.data.image_checks import check_images\n"
        "from manyhot.data.images import DamagedImage, open_image\n"
        "from pathlib import Path\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: open_image(sys.argv[1])\n"
        "except DamagedImage as damage: print(damage)\n"
        "print(*check_images([Path(sys.argv[1])]))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    result = subprocess.run([sys.executable, "-c", code, str(bomb)], capture_output=True, text=True, check=True)
    opened, checked, grown = result.stdout.splitlines()
    assert "900 megapixels" in opened
    assert "900 megapixels" in checked
    assert int(grown) < 50 * 1024 * (1024 if sys.platform == "darwin" else 1)


def test_weights_of_another_architecture(tiny_recipe: Path, folder: Path) -> None:
    torch.save({"features.0.weight": torch.zeros(8, 3, 3, 3), "features.0.bias": torch.zeros(8)}, folder / "other.pth")
    result = train(tiny_recipe, folder / "table.csv", folder / "run", "--set", f"model.weights={folder / 'other.pth'}")
    refused(result, "other.pth", "features.0.weight")
    assert not (folder / "run").exists()


def test_a_pickle_that_runs_code_is_not_run(tiny_recipe: Path, folder: Path) -> None:
    trace = folder / "it_ran"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(trace),)

    torch.save({"weight": Evil()}, folder / "evil.pth")
    (folder / "plain.pth").write_bytes(pickle.dumps(Evil()))
    for name in ("evil.pth", "plain.pth"):
        result = train(tiny_recipe, folder / "table.csv", folder / "run", "--set", f"model.weights={folder / name}")
        refused(result, name)
        assert not trace.exists()


def test_misspelt_recipe_key(folder: Path) -> None:
    (folder / "mine.yaml").write_text("name: mine\nmodel: {backbone: resnet18}\ntraining: {epoch: 3}\n")
    refused(train(folder / "mine.yaml", folder / "table.csv", folder / "run"), "training.epoch", "'epochs'")
    refused(train(folder / "mine.yaml", folder / "table.csv", folder / "run", "--set", "training.epochs"), "key=value")
    refused(train(Path("digits-smal"), folder / "table.csv", folder / "run"), "'digits-small'")


@pytest.fixture(scope="module")
def finished(tiny_recipe: Path, tiny_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    result = train(tiny_recipe, tiny_table, out, "--set", "training.epochs=1", "--set", "training.freeze_epochs=0")
    assert result.returncode == 0, result.stderr
    return out


def test_out_that_holds_another_run(finished: Path, tiny_recipe: Path, tiny_table: Path, folder: Path) -> None:
    before = contents(finished)
    settings = ("--set", "training.epochs=1", "--set", "training.freeze_epochs=0")
    refused(train(tiny_recipe, tiny_table, finished, "--no-resume", *settings), "holds a run already", "--no-resume")
    result = train(tiny_recipe, tiny_table, finished, "--set", "training.epochs=2", *settings[2:])
    refused(result, "another recipe", "training.epochs was 1, is 2")
    refused(train(tiny_recipe, folder / "table.csv", folder), "not empty")
    assert contents(finished) == before


def test_flipped_byte_in_a_checkpoint(finished: Path, tiny_recipe: Path, tiny_table: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    for name in ("checkpoints/last.pt", "model/weights.safetensors"):
        content = bytearray((run / name).read_bytes())
        content[len(content) // 2] ^= 1
        (run / name).write_bytes(content)
    before = {name: (run / name).read_bytes() for name in ("checkpoints/last.pt", "history.jsonl")}
    refused(manyhot("evaluate", run), "weights.safetensors", "SHA-256")
    settings = ("--set", "training.epochs=1", "--set", "training.freeze_epochs=0")
    refused(train(tiny_recipe, tiny_table, run, "--resume", *settings), "last.pt", "damaged")
    assert {name: (run / name).read_bytes() for name in before} == before


def test_predict_refuses_in_words(finished: Path, folder: Path) -> None:
    refused(manyhot("predict", finished, folder / "0.jpg", "--out", folder / "scores.txt"), ".parquet, .csv or .json")
    refused(manyhot("predict", finished, folder / "none.jpg", "--out", folder / "scores.csv"), "none.jpg")
    (folder / "1.jpg").write_bytes(b"")
    refused(manyhot("predict", finished, folder, "--out", folder / "scores.csv"), "1.jpg", "empty")
    assert not (folder / "scores.csv").exists()
    refused(manyhot("predict", folder, folder / "0.jpg", "--out", folder / "scores.csv"), "no trained model")
    refused(manyhot("evaluate", folder), "holds no run")
    refused(manyhot("evaluate", finished, "--set", "training.epochs=3"), "evaluation.*")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--augment", "4"], "--augment needs --recipe and --out"),
        (["--augment", "4", "--recipe", "digits-small"], "--augment needs --recipe and --out"),
        (["--recipe", "digits-small"], "--recipe needs --augment"),
        (["--set", "seed=1"], "--set needs both"),
        (["--augment", "0", "--recipe", "digits-small", "--out", "OUT.png"], "0 augmented pictures cannot be drawn"),
        (["--augment", "2", "--recipe", "voc-resnet18-frozen", "--out", "OUT.png"], "has no input.augment"),
        (["--augment", "2", "--recipe", "digits-small", "--out", "OUT.tiff"], "are written as .png, .jpg or .webp"),
    ],
)
def test_sheets_that_cannot_be_drawn(folder: Path, options: list[str], words: str) -> None:
    before = contents(folder)
    filled = [str(folder / one) if one.startswith("OUT") else one for one in options]
    refused(manyhot("data", "show", folder / "table.csv", "0", *filled), words)
    assert contents(folder) == before


def test_a_search_for_a_rate_that_cannot_be_made(folder: Path) -> None:
    table, before = folder / "table.csv", contents(folder)
    start = ("find-lr", "digits-small", "--data", table, "--out")
    refused(manyhot(*start, folder / "a.png"), "a.png", "written as .svg")
    refused(manyhot(*start, folder / "a.svg", "--lowest", "2", "--highest", "1"), "from a rate above 0 to a higher one")
    refused(manyhot("recipes", "--summary"), "--summary needs the name of a recipe")
    assert contents(folder) == before


def test_browse_refuses_what_is_not_there_and_open_doors(tmp_path: Path) -> None:
    refused(manyhot("browse", tmp_path / "none"), "none", "no such run folder")
    refused(manyhot("browse", tmp_path / "none.parquet"), "none.parquet", "no such file")
    (tmp_path / "scores.csv").write_text("id,cat\na,0.5\n")
    refused(manyhot("browse", tmp_path / "scores.csv", "--host", "0.0.0.0", "--port", "0"), "--token")  # noqa: S104
