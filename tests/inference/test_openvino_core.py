"""Networks of OpenVINO come and go in any order and thread, and signals still reach the program, which lives."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from manyhot.inference.exported import metadata
from manyhot.inference.graph import write_onnx, write_openvino

OPENED = """
import gc, signal, sys, threading
from pathlib import Path
from manyhot.inference.openvino_core import signal_stack_kept
from manyhot.inference.predict import Predictor

file = Path(sys.argv[1])

def used():
    predictor = Predictor.load(file, backend="openvino", threads=1)
    predictor.predict([Path(sys.argv[2])])
    return predictor

def signalled(*_):
    print("signalled")

signal.signal(signal.SIGTERM, signalled)
"""
OTHERS = """
import numpy
from openvino import Core, Model, opset13

def other():
    given = opset13.parameter([1, 3], numpy.float32)
    return Core().compile_model(Model([opset13.relu(given)], [given]), "CPU")

"""
FIRST_ENDS_FIRST = "while networks:\n    del networks[0]\n    gc.collect()\n"
OTHERS_OPENED = OTHERS + "with signal_stack_kept():\n    networks = [other(), other()]\n"
ENDINGS = {
    "the first ends first": "networks = [used(), used()]\n" + FIRST_ENDS_FIRST,
    "in another thread": (
        "networks = [used()]\nthread = threading.Thread(target=networks.clear)\nthread.start()\nthread.join()\n"
    ),
    "Cores of others, within": OTHERS_OPENED + textwrap.indent(FIRST_ENDS_FIRST, "    "),
    "Cores of others, later": OTHERS_OPENED + FIRST_ENDS_FIRST,
}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_signal_after_their_end_is_handled(ending, make_bundle, photographs, tmp_path: Path) -> None:
    bundle, path = make_bundle(), tmp_path / "model.onnx"
    about = metadata(bundle.config, "float32", "0")
    write_onnx(path, bundle.model, bundle.config.preprocessing, about)
    write_openvino(path.with_suffix(".xml"), path, about)
    script = OPENED + ENDINGS[ending] + "signal.raise_signal(signal.SIGTERM)\nprint('alive')\n"
    command = [sys.executable, "-c", script, str(path.with_suffix(".xml")), str(photographs[0])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, "signalled\nalive\n"), done.stderr
