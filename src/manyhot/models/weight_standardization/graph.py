"""Which BatchNorm reads a convolution: found in the traced graph, never by the order of definition."""

from __future__ import annotations

import contextlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.fx import Graph, Node, Tracer
from torch.nn.modules.batchnorm import _BatchNorm

from manyhot.models.weight_standardization.layers import WeightStandardizedConv2d

# BatchNorms whose forward is torch's own, but for an activation behind it.
_NORMS = {"torch.nn.modules.batchnorm.BatchNorm2d", "timm.layers.norm_act.BatchNormAct2d"}


@dataclass(frozen=True)
class Wiring:
    """What is known of the convolutions of a network.

    Arguments:
        norms: the BatchNorm of each convolution whose only reader it is, and which reads nothing else.
        reasons: of the other convolutions, why there is none.
        left: 2D convolutions that are not plain `nn.Conv2d`, and why they stay as they are.
        untraced: why the network could not be traced; None: it was.
    """

    norms: dict[nn.Conv2d, nn.BatchNorm2d]
    reasons: dict[nn.Conv2d, str]
    left: dict[nn.Conv2d, str]
    untraced: str | None


def read_wiring(model: nn.Module) -> Wiring:
    """Trace a network, in eval mode and, where that works, in train mode, and look behind each convolution.

    A module whose `forward` cannot be traced may have a method `traceable`, which calls the same layers.
    """
    left = {conv: reason for conv in _convs(model) if (reason := _stays(conv))}
    convs = [conv for conv in _convs(model) if conv not in left]
    try:
        graphs = [_trace(model, training=False)]
    except Exception as error:  # noqa: BLE001 - tracing runs the network's own code on proxies: anything may come
        why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
        return Wiring({}, dict.fromkeys(convs, "the network cannot be traced"), left, why)
    with contextlib.suppress(Exception):  # branches for training alone are often not traceable
        graphs.append(_trace(model, training=True))
    modules = dict(model.named_modules())
    tied = _tied(model)
    norms: dict[nn.Conv2d, nn.BatchNorm2d] = {}
    reasons: dict[nn.Conv2d, str] = {}
    for conv in convs:
        reader = _only_reader([_reader(graph, conv, modules) for graph in graphs])
        if isinstance(reader, nn.BatchNorm2d) and not {conv, reader} & tied:
            norms[conv] = reader
        else:
            shared = "its parameters, or those of its BatchNorm, belong to another layer too"
            reasons[conv] = reader if isinstance(reader, str) else shared
    return Wiring(norms, reasons, left, None)


def _only_reader(readers: list[nn.BatchNorm2d | str | None]) -> nn.BatchNorm2d | str:
    """What the graphs agree on; one in which the convolution is not called says nothing."""
    found = dict.fromkeys(reader for reader in readers if reader is not None)
    reason = next((reader for reader in found if isinstance(reader, str)), None)
    if reason is None and len(found) > 1:
        reason = "it has other readers in training than in evaluation"
    return reason or next(iter(found), "it is not in the traced graph")


def _convs(model: nn.Module) -> list[nn.Conv2d]:
    return [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]


def _stays(conv: nn.Conv2d) -> str | None:
    if isinstance(conv, WeightStandardizedConv2d):
        return "it is weight-standardised already"
    if type(conv) is not nn.Conv2d:
        return f"it is a {type(conv).__name__}, with a forward pass of its own"
    return "it has hooks" if _has_hooks(conv) else None


def _has_hooks(layer: nn.Module) -> bool:
    return bool(layer._forward_hooks or layer._forward_pre_hooks)


def _tied(model: nn.Module) -> set[nn.Module]:
    """Layers that hold a parameter or a buffer which another layer holds too."""
    holders: dict[int, set[nn.Module]] = {}
    for layer in model.modules():
        for tensor in (*layer._parameters.values(), *layer._buffers.values()):
            if tensor is not None:
                holders.setdefault(id(tensor), set()).add(layer)
    return {layer for layers in holders.values() if len(layers) > 1 for layer in layers}


class _LayerTracer(Tracer):
    """Sees convolutions and BatchNorms, and does not look into what holds none of them."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - torch's names
        seen = (nn.Conv2d, _BatchNorm)
        return isinstance(m, seen) or not any(isinstance(layer, seen) for layer in m.modules())


def _trace(model: nn.Module, *, training: bool) -> Graph:
    tracer = _LayerTracer()
    tracer.traced_func_name = "traceable" if hasattr(model, "traceable") else "forward"
    function: Callable[..., Any] = getattr(model, tracer.traced_func_name)
    defaults = {
        name: parameter.default
        for name, parameter in list(inspect.signature(function).parameters.items())[1:]
        if parameter.default is not inspect.Parameter.empty
    }
    with set_mode(model, training=training):
        return tracer.trace(model, concrete_args=defaults or None)


@contextlib.contextmanager
def set_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """All layers in train or eval mode for a while; not by `model.train()`, which a frozen backbone would remember."""
    modes = {layer: layer.training for layer in model.modules()}
    try:
        for layer in modes:
            layer.training = training
        yield
    finally:
        for layer, mode in modes.items():
            layer.training = mode


def _reader(graph: Graph, conv: nn.Conv2d, modules: dict[str, nn.Module]) -> nn.BatchNorm2d | str | None:
    """The BatchNorm that alone reads a convolution in one graph, or why there is none; None: it is not called there."""
    calls = [node for node in graph.nodes if node.op == "call_module" and modules.get(str(node.target)) is conv]
    if not calls:
        return None
    if len(calls) > 1:
        return f"it is called {len(calls)} times"
    if len(calls[0].users) != 1:
        return f"{len(calls[0].users)} layers read it"
    user = next(iter(calls[0].users))
    norm = modules.get(str(user.target)) if user.op == "call_module" else None
    if norm is None or not isinstance(norm, nn.BatchNorm2d):
        return f"{_describe(user, norm)} reads it"
    if f"{type(norm).__module__}.{type(norm).__qualname__}" not in _NORMS or _has_hooks(norm):
        return f"a {type(norm).__name__} reads it, with a forward pass or hooks of its own"
    readings = Counter(modules.get(str(node.target)) for node in graph.nodes if node.op == "call_module")
    if readings[norm] > 1:
        return "its BatchNorm reads other layers too"
    if any(_belongs(node, norm, modules) for node in graph.nodes):
        return "the numbers of its BatchNorm are used elsewhere too"
    return norm


def _describe(user: Node, layer: nn.Module | None) -> str:
    if layer is not None:
        return f"a {type(layer).__name__}"
    if user.op == "output":
        return "nothing but the caller"
    return f"the operation {getattr(user.target, '__name__', user.target)}"


def _belongs(node: Node, norm: nn.Module, modules: dict[str, Any]) -> bool:
    return node.op == "get_attr" and modules.get(str(node.target).rpartition(".")[0]) is norm
