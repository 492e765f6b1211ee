"""Pascal VOC: a year folder with ImageSets/Main, Annotations and JPEGImages."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.parsers import expat

from manyhot.data.images import IMAGE_SUFFIXES, DamagedImage, image_size
from manyhot.data.manifest import Box, Manifest, Row
from manyhot.data.sources import Difficult, difficult_label, source
from manyhot.errors import UserError, nearest
from manyhot.progress import track

log = logging.getLogger("manyhot")

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The twenty classes of Pascal VOC in their official order."""

_SPLITS = ("train", "val", "test")
_Label = Literal[1, 0, "difficult", "unknown"]
"""Present, absent, only difficult objects, or nothing says so."""

_LIST_VALUES: dict[str, _Label] = {"1": 1, "-1": 0, "0": "difficult"}
"""What the numbers of a class list mean."""

_Lists = dict[str, dict[str, _Label]]
"""Labels of one split by class name and image id."""


@source("voc")
class Voc:
    """a Pascal VOC year folder (with ImageSets/Main), or a VOCdevkit that holds one year."""

    def recognises(self, text: str) -> bool:
        """Whether the folder, or a folder in it, has ImageSets/Main."""
        return bool(_year_folders(Path(text)))

    def read(self, text: str, *, difficult: Difficult) -> Manifest:
        """Read the lists of ImageSets/Main and the XML files of the listed pictures.

        Raises:
            UserError: a malformed or contradictory file (with its line), a missing picture, several years.
        """
        return _read_year(_one_year(Path(text)), difficult)


@dataclass
class _Object:
    """One <object> of an XML file: its 1-based line, and the corners of its box where it has one."""

    line: int
    name: str = ""
    difficult: bool = False
    corners: dict[str, float] = field(default_factory=dict)

    def box(self) -> Box:
        """0-based corners, the last exclusive; VOC counts from 1 and includes the last pixel."""
        at = self.corners
        return Box(self.name, at["xmin"] - 1, at["ymin"] - 1, at["xmax"], at["ymax"], self.difficult)


@dataclass
class _Annotation:
    """What is needed of one XML file; width and height are 0 where it does not say."""

    path: Path
    width: int = 0
    height: int = 0
    objects: list[_Object] = field(default_factory=list)

    def label(self, name: str) -> _Label:
        """Present where an object of the class is not difficult."""
        flags = [one.difficult for one in self.objects if one.name == name]
        return 0 if not flags else "difficult" if all(flags) else 1


def _read_year(root: Path, difficult: Difficult) -> Manifest:
    main = root / "ImageSets" / "Main"
    splits = _image_lists(main)
    lists = {split: _class_lists(main, split) for split in splits}
    pictures = _pictures(root, splits)
    annotations = _annotations(root, [id_ for ids in splits.values() for id_ in ids])
    classes = _classes(main, annotations.values())
    for annotation in annotations.values():
        _refuse_unknown_class(annotation, classes)

    unsure = difficult_label(difficult)
    rows: list[Row] = []
    conflicts: list[str] = []
    for split, ids in splits.items():
        _refuse_gaps(main, split, ids, lists[split], annotations)
        n_unknown = 0
        for id_ in ids:
            found = annotations.get(id_)
            labels = [_label(lists[split].get(name, {}), id_, found, name) for name in classes]
            conflicts += [
                f"{id_} ({name})"
                for name, label in zip(classes, labels, strict=True)
                if found and label != found.label(name)
            ]
            n_unknown += labels.count("unknown")
            values = [unsure if label == "difficult" else -1 if label == "unknown" else label for label in labels]
            width, height = _size(found, root / pictures[id_])
            boxes = [one.box() for one in found.objects if one.corners] if found else []
            rows.append(Row(id_, pictures[id_], split, values, width, height, boxes))
        if n_unknown:
            log.warning(
                "%s: %d labels of split '%s' stand in no list and no XML; they are ignored.", root, n_unknown, split
            )
    if conflicts:
        log.warning(
            "%s: lists and XML disagree on %d labels, the lists hold: %s%s.",
            root, len(conflicts), ", ".join(conflicts[:5]), ", …" if len(conflicts) > 5 else "",
        )  # fmt: skip
    origin = "ImageSets/Main" if any(lists.values()) else "XML"
    return Manifest.from_rows(root, classes, rows, label_rule=f"VOC {origin}, difficult: {difficult}")


def _label(listed: dict[str, _Label], id_: str, found: _Annotation | None, name: str) -> _Label:
    """What the class list says of a picture, else its XML, else nobody."""
    if id_ in listed:
        return listed[id_]
    return found.label(name) if found else "unknown"


def _year_folders(path: Path) -> list[Path]:
    try:
        if (path / "ImageSets" / "Main").is_dir():
            return [path]
        return sorted(child for child in path.iterdir() if (child / "ImageSets" / "Main").is_dir())
    except OSError:
        return []


def _one_year(path: Path) -> Path:
    years = _year_folders(path)
    if not years:
        raise UserError(
            "this is no Pascal VOC folder.",
            file=path,
            remedy="It needs ImageSets/Main with train.txt, val.txt, trainval.txt or test.txt.",
        )
    if len(years) > 1:
        raise UserError(
            f"there are several years: {', '.join(year.name for year in years)}.",
            file=path,
            remedy=f"Name one: {years[-1]}",
        )
    return years[0]


def _image_lists(main: Path) -> dict[str, list[str]]:
    """The ids of each split, in the order of the files."""
    splits = {split: _image_list(main / f"{split}.txt") for split in _SPLITS if (main / f"{split}.txt").is_file()}
    trainval = main / "trainval.txt"
    if trainval.is_file():
        whole = _image_list(trainval)
        if "train" not in splits and "val" not in splits:
            splits = {"trainval": whole, **splits}
        else:
            rest = set(whole).difference(*splits.values())
            if rest:
                log.warning(
                    "%s: %d pictures stand in no other list and are left out, such as %s.",
                    trainval, len(rest), min(rest),
                )  # fmt: skip
    if not splits:
        raise UserError(
            "there is no list of pictures.", file=main, remedy="Looked for train.txt, val.txt, trainval.txt, test.txt."
        )
    seen: dict[str, str] = {}
    for split, ids in splits.items():
        for id_ in ids:
            if id_ in seen:
                raise UserError(
                    f"'{id_}' is listed in {seen[id_]}.txt already.",
                    file=main / f"{split}.txt",
                    remedy="A picture belongs to one split, once: take it out of one list.",
                )
            seen[id_] = split
    return splits


def _image_list(path: Path) -> list[str]:
    ids = []
    for line, words in _lines(path):
        if len(words) != 1:
            raise UserError(f"expected one image id, found '{' '.join(words)}'.", file=path, line=line)
        ids.append(words[0])
    return ids


def _class_lists(main: Path, split: str) -> _Lists:
    lists: _Lists = {}
    for path in sorted(main.glob(f"*_{split}.txt")):
        lists[path.stem.removesuffix(f"_{split}")] = _class_list(path)
    return lists


def _class_list(path: Path) -> dict[str, _Label]:
    labels: dict[str, _Label] = {}
    for line, words in _lines(path):
        if len(words) != 2 or words[1] not in _LIST_VALUES:
            raise UserError(f"expected an image id and 1, -1 or 0, found '{' '.join(words)}'.", file=path, line=line)
        labels[words[0]] = _LIST_VALUES[words[1]]
    return labels


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """The words of every line that has some, with its 1-based number."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"this is not UTF-8 text ({error.reason}).", file=path) from None
    return [(number, words) for number, line in enumerate(text.split("\n"), 1) if (words := line.split())]


def _classes(main: Path, annotations: Iterable[_Annotation]) -> tuple[str, ...]:
    """The official twenty where all names belong to them, else the sorted names of the lists, else of the XML."""
    endings = tuple(f"_{split}" for split in (*_SPLITS, "trainval"))
    names = {path.stem.rpartition("_")[0] for path in main.glob("*_*.txt") if path.stem.endswith(endings)}
    if not names:
        names = {one.name for annotation in annotations for one in annotation.objects}
    if not names:
        raise UserError(
            "nothing names a class.",
            file=main,
            remedy="Looked for lists such as dog_train.txt here, and for objects in the XML of ../../Annotations.",
        )
    return VOC_CLASSES if names.issubset(VOC_CLASSES) else tuple(sorted(names))


def _refuse_gaps(
    main: Path, split: str, ids: Sequence[str], lists: _Lists, annotations: Mapping[str, _Annotation]
) -> None:
    """A list that names some pictures of its split must name all that have no XML."""
    for name, labels in lists.items():
        for id_ in ids:
            if id_ not in labels and id_ not in annotations:
                raise UserError(
                    f"picture '{id_}' of {split}.txt has no line here, and no XML.", file=main / f"{name}_{split}.txt"
                )


def _pictures(root: Path, splits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Path under `root` by image id."""
    folder = root / "JPEGImages"
    found = {path.stem: path.name for path in sorted(folder.glob("*"), reverse=True) if _is_image(path)}
    missing = [id_ for ids in splits.values() for id_ in ids if id_ not in found]
    if missing:
        raise UserError(
            f"{len(missing)} listed pictures are missing: {', '.join(f'{id_}.jpg' for id_ in missing[:5])}"
            + (", …." if len(missing) > 5 else "."),
            file=folder,
            remedy="Unpack the whole archive, or take them out of the lists in ImageSets/Main.",
        )
    return {id_: f"JPEGImages/{found[id_]}" for ids in splits.values() for id_ in ids}


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES


def _size(annotation: _Annotation | None, picture: Path) -> tuple[int | None, int | None]:
    if annotation and annotation.width > 0 and annotation.height > 0:
        return annotation.width, annotation.height
    try:
        return image_size(picture)
    except DamagedImage:
        return None, None  # the check of the pictures will name it


def _annotations(root: Path, ids: Sequence[str]) -> dict[str, _Annotation]:
    """The XML files of the listed pictures, as far as there are any."""
    folder = root / "Annotations"
    present = {path.stem for path in folder.glob("*.xml")}
    have = [id_ for id_ in ids if id_ in present]
    return {id_: _parse(folder / f"{id_}.xml") for id_ in track(have, len(have), "reading annotations")}


def _refuse_unknown_class(annotation: _Annotation, classes: Sequence[str]) -> None:
    for one in annotation.objects:
        if one.name not in classes:
            raise UserError(
                f"unknown class '{one.name}'.", file=annotation.path, line=one.line, remedy=nearest(one.name, classes)
            )


_OBJECT = ("annotation", "object")
_BOX = (*_OBJECT, "bndbox")
_CORNERS = {(*_BOX, key): key for key in ("xmin", "ymin", "xmax", "ymax")}
_SIZES = {("annotation", "size", "width"), ("annotation", "size", "height")}
_WANTED = {*_CORNERS, *_SIZES, (*_OBJECT, "name"), (*_OBJECT, "difficult")}


class _Reader:
    """Expat handlers; the path of open elements tells an object's name from that of its parts."""

    def __init__(self, path: Path) -> None:
        self.annotation = _Annotation(path)
        self._path: tuple[str, ...] = ()
        self._text: list[str] | None = None
        self._parser = expat.ParserCreate()
        self._parser.buffer_text = True
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._data
        self._parser.StartDoctypeDeclHandler = self._refuse_dtd

    def read(self) -> _Annotation:
        try:
            self._parser.Parse(self.annotation.path.read_bytes(), True)
        except expat.ExpatError as error:
            raise UserError(
                f"malformed XML ({expat.ErrorString(error.code)}).", file=self.annotation.path, line=error.lineno
            ) from None
        except (LookupError, ValueError) as error:
            raise self._fault(f"the encoding of this XML is not read ({error}).") from None
        return self.annotation

    def _fault(self, what: str, line: int | None = None) -> UserError:
        return UserError(what, file=self.annotation.path, line=line or self._parser.CurrentLineNumber)

    def _refuse_dtd(self, *_: Any) -> None:
        # Entities can blow a small file up to gigabytes; VOC has no use for a DTD.
        raise self._fault("a document type declaration is not read.")

    def _start(self, tag: str, _: Any) -> None:
        if not self._path and tag != "annotation":
            raise self._fault(f"this is no VOC annotation: it begins with <{tag}>.")
        self._path = (*self._path, tag)
        if self._path == _OBJECT:
            self.annotation.objects.append(_Object(self._parser.CurrentLineNumber))
        self._text = [] if self._path in _WANTED else None

    def _data(self, text: str) -> None:
        if self._text is not None:
            self._text.append(text)

    def _end(self, tag: str) -> None:
        path, self._path = self._path, self._path[:-1]
        if self._text is not None:
            self._value(path, tag, "".join(self._text).strip())
            self._text = None
        elif path == _BOX:
            self._check_box(self.annotation.objects[-1])
        elif path == _OBJECT and not self.annotation.objects[-1].name:
            raise self._fault("this object has no name.", self.annotation.objects[-1].line)

    def _value(self, path: tuple[str, ...], tag: str, text: str) -> None:
        if path in _SIZES:
            setattr(self.annotation, tag, round(self._number(tag, text)))
        elif path in _CORNERS:
            self.annotation.objects[-1].corners[tag] = self._number(tag, text)
        elif tag == "name":
            self.annotation.objects[-1].name = text
            self.annotation.objects[-1].line = self._parser.CurrentLineNumber
        elif text not in ("0", "1"):
            raise self._fault(f"difficult is 0 or 1, not '{text}'.")
        else:
            self.annotation.objects[-1].difficult = text == "1"

    def _number(self, tag: str, text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self._fault(f"{tag} is a number, not '{text}'.")
        return number

    def _check_box(self, one: _Object) -> None:
        corners = one.corners
        if missing := [key for key in _CORNERS.values() if key not in corners]:
            raise self._fault(f"the box lacks {', '.join(missing)}.")
        if corners["xmax"] < corners["xmin"] or corners["ymax"] < corners["ymin"]:
            raise self._fault("the box ends before it begins (xmax < xmin or ymax < ymin).")


def _parse(path: Path) -> _Annotation:
    return _Reader(path).read()
