"""Where the weights of a backbone come from: the library's download, a file, or nowhere."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from manyhot.errors import UserError

# Heads of published networks, under the names that torchvision and timm give them: a backbone has no use for them.
_HEADS = (
    "fc.",
    "classifier.",
    "head.",
    "heads.",
    "head_dist.",
    "fc_norm.",
    "attn_pool.",
    "conv_head.",
    "norm_head.",
    "last_linear.",
    "pre_logits.",
)
_OURS = "backbone.body."
# torchvision's DenseNet files carry the names of 2017: "denselayer1.norm.1.weight" is now "denselayer1.norm1.weight".
_OLD_DENSENET = re.compile(r"^(.*denselayer\d+\.(?:norm|conv))\.([12]\.)")


@dataclass(frozen=True)
class Weights:
    """What `model.weights` of a recipe asks for.

    Arguments:
        source: `imagenet`: the library's download; `none`: random values; `file`: a local file.
        tag: which of the library's downloads, None for the plain one.
        path: the file.
    """

    source: Literal["imagenet", "none", "file"]
    tag: str | None = None
    path: Path | None = None


def parse_weights(spec: str) -> Weights:
    """Read `imagenet`, `imagenet:TAG`, `none` or the path of a file.

    Raises:
        UserError: a tag without letters, or a file that does not exist.
    """
    if spec == "none":
        return Weights("none")
    source, colon, tag = spec.partition(":")
    if source == "imagenet":
        if colon and not tag:
            raise UserError(f"model.weights '{spec}' names no weights after the colon.", remedy="Write imagenet alone.")
        return Weights("imagenet", tag=tag or None)
    path = Path(spec).expanduser()
    if not path.is_file():
        raise UserError(
            "there is no such weights file.",
            file=spec,
            remedy="model.weights is `imagenet`, `imagenet:TAG`, `none` or the path of a .pth, .pt or "
            ".safetensors file.",
        )
    return Weights("file", path=path)


@contextmanager
def downloading(what: str) -> Iterator[None]:
    """Turns whatever a library raises when it cannot fetch its weights into one `UserError` that names them."""
    try:
        yield
    except Exception as error:  # torch.hub, urllib, httpx and huggingface_hub share no base class
        reason = next(iter(str(error).strip().splitlines()), "no reason given")
        raise UserError(
            f"the weights {what} could not be fetched ({type(error).__name__}: {reason}).",
            remedy="Without a network, pass a local copy: --set model.weights=FILE (.pth, .pt or .safetensors); "
            "--set model.weights=none starts from random weights.",
        ) from error


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file, or of a `torch.save` file, by name.

    Code inside a file is never run: `torch.load` is called with `weights_only=True`. A state dict inside
    `{"state_dict": …}` or `{"model": …}` is unwrapped, and the prefix `module.` of a data-parallel network removed.
    Of a bundle's `weights.safetensors` the backbone is taken, so that one run can start from another.

    Raises:
        UserError: a missing or damaged file, a pickle that wants to run code, or no state dict inside.
    """
    if not path.is_file():
        raise UserError("there is no such weights file.", file=path)
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not (isinstance(content, Mapping) and content and all(isinstance(value, Tensor) for value in content.values())):
        raise UserError(
            "holds no state dict (a mapping of names to tensors).",
            file=path,
            remedy="Save it with torch.save(network.state_dict(), FILE).",
        )
    state = {str(name): tensor for name, tensor in content.items()}
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    if ours := {name.removeprefix(_OURS): tensor for name, tensor in state.items() if name.startswith(_OURS)}:
        return ours
    return state


def _read_safetensors(path: Path) -> object:
    try:
        return safetensors.torch.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise UserError(f"is damaged, or no safetensors file ({error}).", file=path) from None


def _read_pickle(path: Path) -> object:
    try:
        _check_sums(path)
        # A Namespace, which holds only data, comes with the state dicts of many training scripts. The warning is about
        # pickles of protocol 4, which are either read or refused.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings(action="ignore"):
            content: object = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL\s+`?([\w.]+)|(Unsupported operand)", str(error))
        if wanted is None:
            raise UserError(_DAMAGED, file=path) from None
        raise UserError(
            f"holds Python code besides tensors{f' ({wanted[1]})' if wanted[1] else ''}; "
            "it was not run, and the file not loaded.",
            file=path,
            remedy="Ask its author for a plain state dict, or for safetensors.",
        ) from None
    except Exception:  # noqa: BLE001 - garbage may raise anything that an unpickler or a zip reader can
        raise UserError(_DAMAGED, file=path) from None
    return content


def _check_sums(path: Path) -> None:
    """Raises BadZipFile where a checksum inside a `torch.save` file is wrong; torch.load passes over them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is not None:
            raise zipfile.BadZipFile(damaged)


_DAMAGED = "is damaged, or not a file that torch.save wrote."


def load_weights(network: nn.Module, state: Mapping[str, Tensor], *, origin: str, name: str) -> None:
    """Copy a state dict into a network without its classifier.

    Entries of a classifier are passed over, and BatchNorm's `num_batches_tracked` may be missing (files of 2017).

    Arguments:
        network: takes the weights, in place.
        state: tensors by name, under the names of torchvision or timm.
        origin: where they come from, for messages.
        name: what the network is called, for messages.

    Raises:
        UserError: names or shapes differ: the weights of another architecture.
    """
    expected = network.state_dict()
    given = {key if key in expected else _OLD_DENSENET.sub(r"\1\2", key): value for key, value in state.items()}
    given = {key: value for key, value in given.items() if key in expected or not key.startswith(_HEADS)}
    missing = [key for key in expected if key not in given and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in given if key not in expected]
    misshapen = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in given and given[key].shape != expected[key].shape
    ]
    if missing or unexpected or misshapen:
        faults = (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen))
        listing = "; ".join(f"{len(keys)} {kind}: {_some(keys)}" for kind, keys in faults if keys)
        raise UserError(
            f"these are the weights of another network than {name}: {len(given)} tensors besides the classifier, "
            f"{len(expected)} expected; {listing}.",
            file=origin,
        )
    network.load_state_dict(given, strict=False)


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + (", …" if len(keys) > 3 else "")
