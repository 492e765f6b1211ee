from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from manyhot.errors import UserError
from manyhot.models.backbones import create_backbone
from manyhot.models.detectors import WSDDN, create_detector
from manyhot.models.geometry import Geometry
from manyhot.models.receptive import _symmetric
from manyhot.models.region_pooling import Bins, pool_regions
from manyhot.models.wsddn import (
    LEAST_SCORE,
    Packed,
    RoiScores,
    Wsddn,
    WsddnHead,
    segment_softmax,
    segment_sum,
)
from manyhot.models.wsddn_terms import refinement_loss, spatial_regulariser
from manyhot.recipe import Model

C, D, SIDE = 4, 3, 2
GEOMETRY = Geometry(stride=4.0, offset=2.5)


def make_head(refinements: int = 0, temperature: float = 2.0, mode: str = "average") -> WsddnHead:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(D * SIDE**2, 7), nn.ReLU())
    pooling = Bins(GEOMETRY, SIDE, mode)  # type: ignore[arg-type]
    head = WsddnHead(pooling, body, 7, C, temperature=temperature, refinements=refinements).double()
    for layer in (head.classification, head.detection, *head.refinements):
        nn.init.normal_(layer.weight, std=1.5)
    return head


def make_packed(counts: tuple[int, ...] = (5, 12, 0, 1), *, scored: bool = False, seed: int = 1) -> Packed:
    generator = torch.Generator().manual_seed(seed)
    maps, boxes = [], []
    for i, count in enumerate(counts):
        maps.append(torch.randn(D, 6 + i, 9 - i, generator=generator, dtype=torch.float64))
        low = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 8
        boxes.append(torch.cat([low, low + 6 + 10 * torch.rand(count, 2, generator=generator, dtype=torch.float64)], 1))
    segments = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    scores = torch.rand(sum(counts), generator=generator, dtype=torch.float64) if scored else None
    return Packed(tuple(maps), torch.cat(boxes), segments, scores)


def slow_regions(map_DHW: Tensor, box: list[float]) -> np.ndarray:
    """Two by two bins of two by two bilinear samples, in plain Python."""
    cells = map_DHW.numpy()
    found = np.zeros((D, SIDE, SIDE))
    for by in range(SIDE):
        for bx in range(SIDE):
            for sy in range(2):
                for sx in range(2):
                    x = box[0] + (bx + (sx + 0.5) / 2) / SIDE * (box[2] - box[0])
                    y = box[1] + (by + (sy + 0.5) / 2) / SIDE * (box[3] - box[1])
                    # continuous pixel coordinate -> cell index: pixel index p is centred on p + 1/2
                    u, v = ((value - 0.5 - GEOMETRY.offset) / GEOMETRY.stride for value in (x, y))
                    height, width = cells.shape[1:]
                    if not (-1 <= u <= width and -1 <= v <= height):
                        continue
                    u, v = min(max(u, 0), width - 1), min(max(v, 0), height - 1)
                    u0, v0 = int(u), int(v)
                    u1, v1 = min(u0 + 1, width - 1), min(v0 + 1, height - 1)
                    du, dv = u - u0, v - v0
                    found[:, by, bx] += (
                        cells[:, v0, u0] * (1 - du) * (1 - dv)
                        + cells[:, v0, u1] * du * (1 - dv)
                        + cells[:, v1, u0] * (1 - du) * dv
                        + cells[:, v1, u1] * du * dv
                    ) / 4
    return found


def linear(layer: nn.Linear, x: np.ndarray) -> np.ndarray:
    return layer.weight.detach().numpy() @ x + layer.bias.detach().numpy()


def softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def slow_scores(head: WsddnHead, packed: Packed) -> tuple[list[np.ndarray], np.ndarray, list[list[np.ndarray]]]:
    """Products [R, C] of each picture, image scores [N, C] and refined softmax [R, C + 1], picture by picture."""
    products, images, refined = [], [], []
    for n, map_DHW in enumerate(packed.inputs):
        rows = [r for r in range(len(packed.boxes)) if packed.segments[r] == n]
        features = []
        for r in rows:
            pooled = slow_regions(map_DHW, packed.boxes[r].tolist())
            if packed.scores is not None:
                pooled = pooled * (1 + 10 * float(packed.scores[r]))
            features.append(np.maximum(linear(head.body[1], pooled.ravel()), 0))  # type: ignore[arg-type, index]
        phi_c = np.array([softmax(linear(head.classification, f)) for f in features]).reshape(-1, C)
        raw = np.array([linear(head.detection, f) for f in features]).reshape(-1, C) / head.temperature
        phi_d = np.array([softmax(raw[:, c]) for c in range(C)]).T.reshape(-1, C) if rows else raw
        products.append(phi_c * phi_d)
        images.append((phi_c * phi_d).sum(axis=0).clip(LEAST_SCORE, 1 - LEAST_SCORE))
        refined.append([np.array([softmax(linear(k, f)) for f in features]) for k in head.refinements])  # type: ignore[arg-type]
    return products, np.array(images), refined


def slow_iou(a: np.ndarray, b: np.ndarray) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


@pytest.mark.parametrize("scored", [False, True])
def test_the_forward_pass_is_that_of_a_slow_one(scored: bool) -> None:
    head, packed = make_head(refinements=2), make_packed(scored=scored)
    found = head.scores(packed)
    products, images, refined = slow_scores(head, packed)
    np.testing.assert_allclose(found.products.detach(), np.concatenate(products), atol=1e-12)
    np.testing.assert_allclose(found.images.detach(), images, atol=1e-12)
    np.testing.assert_allclose(head(packed).sigmoid().detach(), images, atol=1e-12)
    mean = np.concatenate([np.mean(own, axis=0)[:, :C] for own in refined if len(own[0])])
    np.testing.assert_allclose(found.boxes.detach(), mean, atol=1e-12)
    head.joined = True
    both = np.sqrt(mean * np.concatenate(products))
    np.testing.assert_allclose(head.scores(packed).boxes.detach(), both, atol=1e-12)
    assert (found.images[2] == LEAST_SCORE).all()  # a picture without a box


def test_the_summed_loss_is_that_of_a_slow_one() -> None:
    from manyhot.training.losses import losses

    head, packed = make_head(), make_packed()
    targets = torch.tensor([[1, 0, 0, 1], [0, 1, -1, 0], [1, 0, 0, 0], [0, 0, 1, 0]])
    _, images, _ = slow_scores(head, packed)
    slow = 0.0
    for n in range(4):
        for c in range(C):
            if targets[n, c] >= 0:
                slow -= math.log(images[n, c] if targets[n, c] == 1 else 1 - images[n, c])
    found = losses.build({"name": "bce", "reduction": "sum"}).compute(head(packed), targets)
    assert float(found.detach()) == pytest.approx(slow / 4, abs=1e-9)


def test_the_regulariser_is_that_of_a_slow_one() -> None:
    head, packed = make_head(), make_packed((5, 120, 0, 1))
    targets = torch.tensor([[1, 0, 0, 1], [1, 1, -1, 0], [1, 0, 0, 0], [0, 0, 1, 0]])
    found = head.scores(packed)
    boxes, features = packed.boxes.numpy(), found.features.detach().numpy()
    products = found.products.detach().numpy()
    slow, pairs = 0.0, 0
    for n in range(4):
        rows = np.flatnonzero(packed.segments.numpy() == n)
        for c in range(C):
            if targets[n, c] != 1 or not len(rows):
                continue
            ranked = sorted(rows, key=lambda r: -products[r, c])
            best = ranked[0]
            for r in ranked[1:10]:
                if slow_iou(boxes[r], boxes[best]) > 0.6:
                    slow += 0.5 * sum((products[best, c] * (features[r] - features[best])) ** 2)
                    pairs += 1
    assert pairs > 3
    assert float(spatial_regulariser(found, targets).detach()) == pytest.approx(slow / 4, rel=1e-9)


def test_refinement_is_that_of_a_slow_one() -> None:
    head, packed = make_head(refinements=3), make_packed((5, 30, 0, 1))
    targets = torch.tensor([[1, 0, 0, 1], [1, 1, -1, 0], [1, 0, 0, 0], [0, 0, 0, 0]])
    products, _, refined = slow_scores(head, packed)
    boxes, slow, labelled = packed.boxes.numpy(), 0.0, set()
    for n in range(4):
        own = boxes[packed.segments.numpy() == n]
        classes = [c for c in range(C) if targets[n, c] == 1]
        teacher = products[n]
        for k in range(3):
            if not len(own) or not classes:
                continue
            total = 0.0
            for r in range(len(own)):
                best_overlap, label, weight = -1.0, C, 0.0
                for c in classes:
                    top = int(teacher[:, c].argmax())
                    overlap = slow_iou(own[r], own[top])
                    if overlap > best_overlap:
                        best_overlap, weight = overlap, teacher[top, c]
                        label = c if overlap >= 0.5 else C
                labelled.add(label)
                total -= weight * math.log(refined[n][k][r, label])
            slow += total / len(own)
            teacher = refined[n][k][:, :C]
    assert labelled >= {0, 1, C}
    assert float(refinement_loss(head.scores(packed), targets).detach()) == pytest.approx(slow / 4, rel=1e-9)


def test_teachers_learn_nothing_from_their_pupils() -> None:
    head = make_head(refinements=2)
    refinement_loss(head.scores(make_packed()), torch.ones(4, C)).backward()
    assert head.classification.weight.grad is None
    assert head.detection.weight.grad is None
    assert head.refinements[1].weight.grad is not None


rows = st.lists(st.floats(-30, 30), min_size=0, max_size=6)


@given(st.lists(rows, min_size=1, max_size=4), st.floats(0.3, 4))
def test_softmax_of_segments(segments: list[list[float]], temperature: float) -> None:
    values = torch.tensor([value for own in segments for value in own], dtype=torch.float64)[:, None].repeat(1, 2)
    index = torch.tensor([i for i, own in enumerate(segments) for _ in own], dtype=torch.int64)
    found = segment_softmax(values, index, len(segments), temperature)
    expected = [torch.softmax(torch.tensor(own, dtype=torch.float64) / temperature, 0) for own in segments]
    torch.testing.assert_close(found[:, 0], torch.cat(expected) if len(values) else values[:, 0])
    sums = segment_sum(found, index, len(segments))[:, 0]
    torch.testing.assert_close(sums, torch.tensor([float(bool(own)) for own in segments], dtype=torch.float64))


@settings(max_examples=20)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 99))
def test_packed_pictures_say_what_they_say_alone(counts: list[int], seed: int) -> None:
    head, packed = make_head(mode="max"), make_packed(tuple(counts), seed=seed)
    together = head.scores(packed)
    for n, map_DHW in enumerate(packed.inputs):
        mine = packed.segments == n
        alone = head.scores(Packed((map_DHW,), packed.boxes[mine], torch.zeros(int(mine.sum()), dtype=torch.int64)))
        torch.testing.assert_close(alone.products, together.products[mine])
        torch.testing.assert_close(alone.images[0], together.images[n])


@pytest.mark.parametrize("name", ["alexnet", "squeezenet1_0", "resnet18"])
@pytest.mark.parametrize("mode", ["max", "average"])
def test_the_pooled_centre_of_a_ramp_is_the_centre_of_the_box(name: str, mode: str) -> None:
    backbone = create_backbone(name, "none")
    network = _symmetric(backbone)  # even kernels, so that a ramp stays one
    side = 416
    ramp = torch.arange(side, dtype=torch.float64)[None, None, None, :].expand(1, 3, 64, side) * 1e-6
    with torch.no_grad():
        positions = network(ramp) / network(torch.full_like(ramp, 1e-6))  # of every cell, pixels; declared nowhere
    map_DHW = positions.nanmean(dim=1)
    boxes = torch.tensor([[160.0, 20, 224, 40], [171, 20, 254, 40], [190, 16, 203, 48]], dtype=torch.float64)
    pooled = pool_regions(map_DHW, boxes, backbone.geometry, 6, mode)  # type: ignore[arg-type]
    if mode == "max":  # of two samples side by side the right one, a quarter of a bin beyond its middle
        pooled = pooled - (boxes[:, 2] - boxes[:, 0])[:, None, None, None] / 24
    centres = pooled.mean(dim=(1, 2, 3))
    torch.testing.assert_close(centres, (boxes[:, 0] + boxes[:, 2] - 1) / 2, atol=0.5, rtol=0)


def test_no_box_at_all() -> None:
    head = make_head()
    head.train()
    logits = head(make_packed((0, 0)))
    assert (logits.sigmoid() < 2 * LEAST_SCORE).all()
    assert head.latest is not None
    assert float(spatial_regulariser(head.latest, torch.ones(2, C))) == 0


def model(**settings: object) -> Model:
    return Model(backbone="alexnet", weights="none", detector={"name": "wsddn", **settings})


def test_the_detector_of_a_recipe() -> None:
    torch.manual_seed(0)
    network = create_detector(model(width=8, squeeze=5, side=3, refinements=2, temperature=2), 4).eval()
    assert isinstance(network, Wsddn)
    assert len(network.head.refinements) == 2
    boxes = torch.tensor([[0.0, 0, 60, 60], [10, 10, 90, 90], [0, 0, 50, 50]])
    images = (torch.randn(3, 96, 96), torch.randn(3, 80, 112))
    logits = network(Packed(images, boxes, torch.tensor([0, 0, 1])))
    assert logits.shape == (2, 4)
    assert len(network.backbone_parameters()) == 10
    whole = create_detector(Model(backbone="alexnet", weights="none", frozen=True, detector={"name": "wsddn"}), 4)
    assert whole.backbone.frozen


def test_fc6_and_fc7_start_from_published_weights(tmp_path) -> None:
    from torchvision.models import alexnet

    torch.manual_seed(0)
    published = alexnet(weights=None)
    file = tmp_path / "alexnet.pth"
    torch.save(published.state_dict(), file)
    settings = {"backbone": "alexnet", "weights": str(file)}
    network = create_detector(Model(**settings, detector={"name": "wsddn", "head": "alexnet"}), 20)
    torch.testing.assert_close(network.head.body[1].weight, published.classifier[1].weight)  # type: ignore[index]
    torch.testing.assert_close(network.head.body[4].bias, published.classifier[4].bias)  # type: ignore[index]
    with pytest.raises(UserError, match="needs the backbone alexnet"):
        create_detector(Model(backbone="resnet18", weights="none", detector={"name": "wsddn", "head": "alexnet"}), 2)
    torch.save({k: v for k, v in published.state_dict().items() if "classifier.4" not in k}, file)
    with pytest.raises(UserError, match=r"no classifier\.4 of AlexNet"):
        create_detector(Model(**settings, detector={"name": "wsddn", "head": "alexnet"}), 20)


def test_the_auxiliary_loss_joins_the_terms_asked_for() -> None:
    head = make_head(refinements=1)
    head.train()
    head(make_packed())
    targets = torch.ones(4, C)
    assert isinstance(head.latest, RoiScores)
    plain, both = WSDDN(regulariser=0.5), WSDDN(regulariser=0.5, refinements=1)
    term = 0.5 * spatial_regulariser(head.latest, targets)
    found = plain.auxiliary_loss(head, targets)
    assert found is not None
    torch.testing.assert_close(found, term)
    joined = both.auxiliary_loss(head, targets)
    assert joined is not None
    torch.testing.assert_close(joined, term + refinement_loss(head.latest, targets))
    assert WSDDN(regulariser=0).auxiliary_loss(head, targets) is None
