from __future__ import annotations

import pytest
import torch
from torch import nn

from embae_plugin.models.timm_nets import from_tf_slim, is_tf_slim
from embae_plugin.models.weight_files import load_exactly


def test_tf_slims_names_are_recognised_and_turned_into_timms():
    slim = {"features.0.0.weight": 0, "features.0.1.bias": 1, "features.1.3.weight": 2}
    assert is_tf_slim(slim)
    # torchvision's MobileNet V2 begins alike.
    assert not is_tf_slim({"features.0.0.weight": 0, "features.1.conv.0.0.weight": 1})
    more = {
        "features.2.0.weight": 3,
        "features.3.1.running_var": 4,
        "features.13.4.weight": 5,
        "features.14.0.weight": 6,
        "classifier.weight": 7,
    }
    assert from_tf_slim({**slim, **more}) == {
        "conv_stem.weight": 0,
        "bn1.bias": 1,
        "blocks.0.0.conv_pw.weight": 2,
        "blocks.1.0.conv_dw.weight": 3,
        "blocks.1.1.bn1.running_var": 4,
        "blocks.4.1.bn2.weight": 5,
        "features.14.0.weight": 6,
        "classifier.weight": 7,
    }


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(4, 2))


def test_weights_that_fit_are_loaded_without_classifier_and_counters():
    source, target = net(), net()
    state = {k: v for k, v in source.state_dict().items() if "tracked" not in k}
    state["classifier.weight"] = torch.zeros(3)
    load_exactly(target, state, ("classifier",), "t", "w.pth")
    assert all(torch.equal(target.state_dict()[k], v) for k, v in source.state_dict().items())


def test_weights_of_another_network_are_described_and_change_nothing():
    target = net()
    before = {key: value.clone() for key, value in target.state_dict().items()}
    state = {**net().state_dict(), "9.weight": torch.zeros(1), "0.weight": torch.zeros(4, 5, 1, 1)}
    del state["2.bias"], state["1.running_mean"]
    with pytest.raises(ValueError) as caught:
        load_exactly(target, state, ("classifier",), "mobilenetv1", "some/w.pth")
    assert str(caught.value) == (
        "the weights in some/w.pth do not fit the trunk 'mobilenetv1': 2 missing "
        "(1.running_mean, 2.bias); 1 unexpected (9.weight); 1 of another shape (0.weight "
        "(4, 5, 1, 1) instead of (4, 3, 1, 1)). Choose the trunk they belong to with embae.trunk, "
        "or another file with embae.trunk_weights"
    )
    assert all(torch.equal(target.state_dict()[key], value) for key, value in before.items())


def test_a_long_list_of_names_is_cut():
    state = {f"x{i}": torch.zeros(1) for i in range(50)}
    with pytest.raises(ValueError, match=r"50 unexpected \(x0, x1, x2, x3, …\)"):
        load_exactly(net(), {**net().state_dict(), **state}, (), "t", "w.pth")
