"""Exported models: files that run without torch, and what they say of themselves."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, Self

from pydantic import ValidationError

from manyhot.errors import UserError
from manyhot.inference.openvino_core import openvino_core
from manyhot.models.bundle_config import BundleConfig
from manyhot.registry import explain

SUFFIXES = {"onnx": ".onnx", "openvino": ".xml"}
"""Formats, and how their files end; beside an .xml lies a .bin of the same name."""

PREFIX = "manyhot."
Precision = Literal["float32", "int8"]

_AGAIN = "Export the model again."
_METADATA_PROPS = 14  # field of ModelProto in onnx.proto; of its entries 1 is the key, 2 the value
_LENGTH_DELIMITED = 2


@dataclass(frozen=True)
class ExportedModel:
    """A file that `manyhot export` wrote.

    The network takes `crops`, uint8 [M, H, W, 3] RGB, and gives `logits`, float32 [M, C] of each crop; where the head
    joins the crops of a picture, [M / crops, C]. `score_maps`, where it has them, are float32 [M, C, h, w].

    Arguments:
        path: the .onnx or .xml file.
        config: the bundle's config.json.
        precision: of the network.
        manyhot: version that exported it.
    """

    path: Path
    config: BundleConfig
    precision: Precision
    manyhot: str

    @property
    def sha256(self) -> str:
        """Digest of the weights of the bundle that was exported."""
        return self.config.weights_sha256

    @classmethod
    def read(cls, path: Path) -> Self:
        """What a file says of itself.

        Raises:
            UserError: no such file, or one that `manyhot export` did not write, or damaged.
        """
        if not path.is_file():
            raise UserError("there is no such file.", file=path)
        try:
            known = dict(_onnx_metadata(path)) if path.suffix == ".onnx" else _openvino_metadata(path)
            config = BundleConfig.model_validate(json.loads(known["config"]))
            return cls(path, config, _precision(known["precision"]), known["manyhot"])
        except ValidationError as error:
            raise UserError(explain(error, BundleConfig), file=path, remedy=_AGAIN) from None
        except (KeyError, ValueError, RuntimeError) as error:
            reason = f"it says nothing of {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
            raise UserError(
                f"this is not a model that manyhot exported ({reason}).", file=path, remedy=_AGAIN
            ) from None


def metadata(config: BundleConfig, precision: Precision, version: str) -> dict[str, str]:
    """What an exported file says of itself, by names without the prefix."""
    return {"config": config.model_dump_json(), "precision": precision, "manyhot": version}


def is_exported(path: Path) -> bool:
    """Whether a path is, by its ending, an exported file and no folder of a run or a bundle."""
    return path.suffix in SUFFIXES.values() and not path.is_dir()


def _precision(text: str) -> Precision:
    if text == "float32":
        return "float32"
    if text == "int8":
        return "int8"
    raise ValueError(f"precision '{text}' is not known")


def _openvino_metadata(path: Path) -> Mapping[str, str]:
    info = openvino_core().read_model(path).get_rt_info()
    if "manyhot" not in info:
        raise KeyError("manyhot")
    return {name: str(getattr(value, "value", value)) for name, value in dict(info["manyhot"]).items()}


def _onnx_metadata(path: Path) -> Iterator[tuple[str, str]]:
    """The entries of `metadata_props` that are ours, read without any package: the weights are passed over.

    Source: Protocol Buffers, Encoding; onnx.proto, message ModelProto.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        for field, content in _fields(file, size, _METADATA_PROPS):
            if field == _METADATA_PROPS:
                pair = dict(_pairs(content))
                if (name := pair.get(1, "")).startswith(PREFIX):
                    yield name.removeprefix(PREFIX), pair.get(2, "")


def _fields(file: IO[bytes], size: int, wanted: int) -> Iterator[tuple[int, bytes]]:
    """The top-level fields of a message: number and, of the wanted one, content."""
    while (tag := _varint(file)) is not None:
        field, wire = tag >> 3, tag & 7
        if wire == 0:
            _varint(file)
            continue
        if wire not in {1, 2, 5}:
            raise ValueError("this is no ONNX file")
        length = {1: 8, 5: 4}.get(wire) or _varint(file) or 0
        if file.tell() + length > size:
            raise ValueError("the file is cut short")
        if field == wanted and wire == _LENGTH_DELIMITED:
            yield field, file.read(length)
        else:
            file.seek(length, 1)


def _pairs(content: bytes) -> Iterator[tuple[int, str]]:
    import io

    file = io.BytesIO(content)
    while (tag := _varint(file)) is not None:
        length = _varint(file) or 0
        yield tag >> 3, file.read(length).decode()


def _varint(file: IO[bytes]) -> int | None:
    """The next number, seven bits a byte, the lowest first; None at the end of the file."""
    number = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            if shift:
                raise ValueError("the file is cut short")
            return None
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return number
    raise ValueError("this is no ONNX file")
