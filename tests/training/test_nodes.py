"""The command that the docs give for two machines: here two launchers on one, which know nothing of each other."""

from __future__ import annotations

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file
from torch.testing import assert_close

import manyhot
from manyhot.recipe import load_recipe

DOCS = Path(__file__).parents[2] / "docs" / "distributed.md"
QUICK = ["training.epochs=1", "training.freeze_epochs=0", "optimizer={name: sgd, lr: 0.01}"]


def documented(section: str) -> list[str]:
    """The first command of a section of docs/distributed.md, in words."""
    text = DOCS.read_text(encoding="utf-8").partition(f"\n## {section}\n")[2]
    block = re.search(r"```\n(.+?)```", text, re.DOTALL)
    assert block is not None
    return shlex.split(block[1].replace("\\\n", " "))


def test_the_command_for_two_machines(tiny_table: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    here = {
        "FIRST:29500": f"127.0.0.1:{port}", "4": "1", "voc-resnet18-sgd": str(tiny_recipe),
        "VOCdevkit/VOC2012": str(tiny_table), "RUN": str(tmp_path / "run"),
    }  # fmt: skip
    words = documented("Two machines")
    assert words[0] == "torchrun"
    assert here.keys() <= set(words)
    command = [sys.executable, "-m", "torch.distributed.run", *(here.get(word, word) for word in words[1:])]
    command[3:3] = ["--local-addr", "127.0.0.1"]  # the machine's own name may lead nowhere here
    changes = [word for change in QUICK for word in ("--set", change)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    machines = [
        subprocess.Popen(
            [*command, *changes], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
            start_new_session=True,
        )
        for _ in range(2)
    ]  # fmt: skip
    try:
        manyhot.train(load_recipe(str(tiny_recipe), QUICK), manyhot.open_source(str(tiny_table)), tmp_path / "one")
        said = [machine.communicate(timeout=180)[0] for machine in machines]
    finally:
        for machine in machines:
            if machine.poll() is None:
                os.killpg(machine.pid, signal.SIGKILL)
    assert [machine.returncode for machine in machines] == [0, 0], said
    one, two = (load_file(tmp_path / name / "model" / "weights.safetensors") for name in ("one", "run"))
    for key, wanted in one.items():
        assert_close(two[key], wanted, atol=1e-5, rtol=1e-5)
    assert sum("epoch 1" in text for text in said) == 1, "one of the two speaks"
