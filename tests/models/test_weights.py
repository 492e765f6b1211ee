import pickle
import subprocess
import urllib.error
from pathlib import Path

import pytest
import safetensors.torch
import torch

from manyhot.errors import UserError
from manyhot.models.backbones import create_backbone
from manyhot.models.weights import load_weights, parse_weights, read_state_dict


@pytest.fixture(scope="module")
def resnet18_state():
    """torchvision's own state dict of a ResNet-18, classifier included."""
    from torchvision import models

    network = models.resnet18(weights=None)
    torch.nn.init.normal_(network.bn1.running_mean)
    return network.state_dict()


def equal(backbone, state) -> bool:
    loaded = backbone.body.state_dict()
    return all(torch.equal(value, state[key]) for key, value in loaded.items())


@pytest.mark.parametrize("library", ["torchvision", "timm"])
@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model", "module.", "safetensors"])
def test_a_file_loads_into_either_library(tmp_path, resnet18_state, library, wrap):
    path = tmp_path / ("w.safetensors" if wrap == "safetensors" else "w.pth")
    if wrap == "safetensors":
        safetensors.torch.save_file(resnet18_state, path)
    elif wrap == "module.":
        torch.save({"state_dict": {f"module.{key}": value for key, value in resnet18_state.items()}}, path)
    elif wrap == "plain":
        torch.save(resnet18_state, path)
    else:
        torch.save({wrap: resnet18_state, "epoch": 3}, path)
    assert equal(create_backbone(f"{library}/resnet18", str(path)), resnet18_state)


def test_a_timm_named_file_loads_into_torchvision(tmp_path):
    import timm

    state = timm.create_model("resnet18", pretrained=False).state_dict()
    torch.save(state, tmp_path / "w.pt")
    assert equal(create_backbone("torchvision/resnet18", str(tmp_path / "w.pt")), state)


def test_classifier_and_batch_counts_may_be_missing(tmp_path, resnet18_state):
    old = {k: v for k, v in resnet18_state.items() if not k.startswith("fc.") and not k.endswith("num_batches_tracked")}
    torch.save(old, tmp_path / "w.pth")
    loaded = create_backbone("resnet18", str(tmp_path / "w.pth")).body.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in old.items())


def test_old_densenet_names_load(tmp_path):
    backbone = create_backbone("densenet121", "none")
    state = backbone.body.state_dict()
    old = {
        key.replace("norm1.", "norm.1.")
        .replace("norm2.", "norm.2.")
        .replace("conv1.", "conv.1.")
        .replace("conv2.", "conv.2.")
        if "denselayer" in key
        else key: value
        for key, value in state.items()
    }
    assert old.keys() != state.keys()
    torch.save(old, tmp_path / "w.pth")
    assert equal(create_backbone("densenet121", str(tmp_path / "w.pth")), state)


def test_another_architecture_is_refused_with_the_differences(tmp_path, resnet18_state):
    torch.save(resnet18_state, tmp_path / "w.pth")
    with pytest.raises(UserError, match="another network") as caught:
        create_backbone("resnet34", str(tmp_path / "w.pth"))
    message = str(caught.value)
    assert "w.pth" in message
    assert "torchvision/resnet34" in message
    assert "120 tensors besides the classifier, 216 expected" in message
    assert "80 missing: layer1.2.conv1.weight" in message


def test_another_shape_is_refused_and_nothing_is_copied(resnet18_state):
    backbone = create_backbone("resnet18", "none")
    before = {key: value.clone() for key, value in backbone.body.state_dict().items()}
    state = {**resnet18_state, "conv1.weight": torch.zeros(64, 3, 3, 3)}
    with pytest.raises(UserError, match=r"1 of another shape: conv1.weight \(64, 3, 3, 3\) instead of \(64, 3, 7, 7\)"):
        load_weights(backbone.body, state, origin="memory", name="resnet18")
    assert equal(backbone, before)


class Evil:
    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return subprocess.call, (["touch", str(self.trace)],)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_code_in_a_pickle_is_never_run(tmp_path, resnet18_state, how):
    trace, path = tmp_path / "trace", tmp_path / "w.pth"
    content = {**resnet18_state, "evil": Evil(trace)}
    if how == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps({"evil": Evil(trace)}, protocol=2))
    with pytest.raises(UserError, match=r"Python code besides tensors \(\w+.call\); it was not run"):
        create_backbone("resnet18", str(path))
    assert not trace.exists()
    pickle.loads(pickle.dumps(Evil(trace)))  # noqa: S301 - the trap itself works
    assert trace.exists()


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "flipped"])
def test_damaged_files_are_named(tmp_path, resnet18_state, suffix, damage):
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save(resnet18_state, path)
    else:
        safetensors.torch.save_file(resnet18_state, path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    if damage == "flipped" and suffix == ".safetensors":
        content[9:12] = b"\x00\x00\x00"  # its data carry no checksum; its header can be told
    elif damage == "flipped":
        content[middle] ^= 0xFF
    path.write_bytes({"empty": b"", "cut": content[:middle], "garbage": b"no weights" * 99}.get(damage, content))
    with pytest.raises(UserError, match="damaged") as caught:
        create_backbone("resnet18", str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, torch.zeros(3)])
def test_a_file_without_a_state_dict_is_named(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="holds no state dict"):
        read_state_dict(tmp_path / "w.pth")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.pth: there is no such weights file"):
        create_backbone("resnet18", str(tmp_path / "nowhere.pth"))
    with pytest.raises(UserError, match=r"imagnet: there is no such weights file. model.weights is `imagenet`"):
        parse_weights("imagnet")


def test_plain_imagenet_is_torchvisions_first_weights(monkeypatch, resnet18_state):
    asked = []

    def fetch(url, **options):
        asked.append((url.rpartition("/")[2], options["weights_only"], options["check_hash"]))
        return resnet18_state

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    assert equal(create_backbone("resnet18"), resnet18_state)
    assert asked == [("resnet18-f37072fd.pth", True, True)]


def test_a_network_failure_says_which_weights_and_what_to_do(monkeypatch):
    def offline(*_arguments, **_options):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", offline)
    with pytest.raises(UserError, match=r"ResNet50_Weights.IMAGENET1K_V2 .* no route .* --set model.weights=FILE"):
        create_backbone("resnet50", "imagenet:IMAGENET1K_V2")
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", offline)
    with pytest.raises(UserError, match=r"test_resnet.r160_in1k of timm .* no route"):
        create_backbone("test_resnet", "imagenet:r160_in1k")


def test_a_backbone_starts_from_the_bundle_of_another_run(tmp_path):
    from safetensors.torch import save_file

    from manyhot.models.classifier import create_classifier
    from manyhot.recipe import Model

    torch.manual_seed(0)
    model = Model(backbone="preact_resnet", stages=((8, 1),), weights="none")
    former = create_classifier(model, 3)
    save_file(former.state_dict(), tmp_path / "weights.safetensors")
    again = create_classifier(model.model_copy(update={"weights": str(tmp_path / "weights.safetensors")}), 5)
    for name, tensor in former.backbone.state_dict().items():
        assert torch.equal(tensor, again.backbone.state_dict()[name]), name
