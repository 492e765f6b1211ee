import torch

from manyhot.models.classifier import create_classifier
from manyhot.models.layers import render, summarize, totals
from manyhot.recipe import Model


def test_rows_count_every_parameter_once_and_leave_the_model_alone():
    model = create_classifier(Model(backbone="resnet18", weights="none", frozen=True, feature_norm=True), 7).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [layer.training for layer in model.modules()]
    rows = summarize(model, (64, 96))
    by_name = {row.name: row for row in rows}
    conv1 = by_name["backbone.body.conv1"]
    assert (conv1.kind, conv1.output, conv1.parameters, conv1.trainable) == ("Conv2d", (1, 64, 32, 48), 64 * 3 * 49, 0)
    assert by_name["backbone.body.layer4.1.bn2"].output == (1, 512, 2, 3)
    linear = by_name["head.linear"]
    assert (linear.output, linear.parameters, linear.trainable) == ((1, 7), 7 * 513, 7 * 513)
    assert totals(rows) == (sum(p.numel() for p in model.parameters()), 7 * 513)
    assert [layer.training for layer in model.modules()] == modes
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_frozen_backbone_does_not_remember_the_summary():
    backbone = create_classifier(Model(backbone="test_resnet", weights="none", frozen=True), 2).train().backbone
    summarize(backbone, 64)
    backbone.unfreeze()
    assert backbone.training


def test_parameters_outside_of_layers_are_counted_too():
    model = create_classifier(Model(backbone="test_vit", weights="none"), 3)
    rows = summarize(model, 64)
    assert totals(rows)[0] == sum(p.numel() for p in model.parameters())
    body = next(row for row in rows if row.name == "backbone.body")
    assert body.parameters == model.backbone.body.pos_embed.numel() + model.backbone.body.cls_token.numel()


def test_the_text_is_aligned_and_ends_with_the_totals():
    model = create_classifier(Model(backbone="squeezenet1_1", weights="none"), 3)
    lines = render(summarize(model, 64)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split() == ["layer", "type", "output", "parameters", "trainable"]
    assert lines[1].split() == ["backbone.body.features.0", "Conv2d", "1×64×31×31", "1,792", "1,792"]
    total = f"{sum(p.numel() for p in model.parameters()):,}"
    assert lines[-1].split() == ["total", total, total]
