"""Backends: what computes a network, chosen by name; each is one file and imports its package when it is used."""

from manyhot.inference.backends import onnxruntime, openvino, torch
from manyhot.inference.backends.backend import Backend, Network, Trained, backends

__all__ = ["Backend", "Network", "Trained", "backends", "onnxruntime", "openvino", "torch"]
