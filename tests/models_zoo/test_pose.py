"""The pose network: keys, outputs, refused options."""

from __future__ import annotations

import pytest
import torch

import models_zoo


def test_keys_are_those_of_published_weights():
    with torch.device("meta"):
        state = models_zoo.create("pose", enc_name="resnet18", pretrained=False).state_dict()
    assert state["encoder.conv1.weight"].shape == (64, 6, 7, 7)
    heads = ["squeeze.0", "decoder.0.0", "decoder.1.0", "decoder.2"]
    assert [key for key in state if not key.startswith("encoder.")] == [
        f"{head}.{part}" for head in heads for part in ("weight", "bias")
    ]


@pytest.mark.parametrize("enc_name", ["test_resnet", "test_convnext", "test_vit"])
def test_every_encoder_predicts_small_motions_and_learns(enc_name: str):
    net = models_zoo.create("pose", enc_name=enc_name)
    out = net(torch.rand(3, 6, 64, 96))
    assert {key: tuple(value.shape) for key, value in out.items()} == {"R": (3, 2, 3), "t": (3, 2, 3)}
    assert max(value.abs().max().item() for value in out.values()) < 0.1
    (out["R"].square().sum() + out["t"].square().sum()).backward()
    assert [key for key, p in net.named_parameters() if p.grad is None] == []


def test_the_last_bias_is_the_motion_in_hundredths_rotation_first():
    net = models_zoo.create("pose", enc_name="test_resnet").eval()
    torch.nn.init.zeros_(net.decoder[2].weight)
    net.decoder[2].bias.data = torch.arange(12.0)
    out = net(torch.rand(1, 6, 64, 96))
    assert torch.allclose(out["R"], torch.tensor([[[0.0, 0.01, 0.02], [0.06, 0.07, 0.08]]]))
    assert torch.allclose(out["t"], torch.tensor([[[0.03, 0.04, 0.05], [0.09, 0.10, 0.11]]]))


def test_both_frames_are_standardised_alike():
    net = models_zoo.create("pose", enc_name="test_resnet", mean=(0.1, 0.2, 0.3), std=(1, 2, 4))
    pair = torch.rand(1, 3, 64, 96).repeat(1, 2, 1, 1)
    first, second = net.standardise(pair).chunk(2, dim=1)
    assert torch.equal(first, second)
    assert torch.allclose(first[0, 2], (pair[0, 2] - 0.3) / 4)


def test_autocast_gives_a_float32_motion():
    net = models_zoo.create("pose", enc_name="test_resnet")
    with torch.autocast("cpu", torch.bfloat16):
        out = net(torch.rand(2, 6, 64, 96))
    assert {value.dtype for value in out.values()} == {torch.float32}


def test_a_single_image_is_refused():
    with pytest.raises(ValueError, match=r"\(b, 6, h, w\) images, not \(1, 3, 64, 96\)"):
        models_zoo.create("pose", enc_name="test_resnet")(torch.rand(1, 3, 64, 96))


def test_the_validator_and_the_constructor_refuse_the_same():
    options = {"enc_name": "resnet81", "std": [1, 1, -1]}
    problems = models_zoo.NETWORKS.get("pose").validate_config(options)
    assert len(problems) == 2
    with pytest.raises(ValueError, match="resnet81") as refusal:
        models_zoo.create("pose", **options)
    assert all(problem in str(refusal.value) for problem in problems)
    assert models_zoo.NETWORKS.get("pose").validate_config({}) == []


def seeded(**options) -> torch.nn.Module:
    torch.manual_seed(3)
    return models_zoo.create("pose", enc_name="test_resnet", **options).eval()


@pytest.fixture(scope="module")
def pairs() -> torch.Tensor:
    return torch.rand(2, 6, 64, 96)


def test_learning_the_camera_changes_nothing_else(pairs):
    plain, learning = seeded(), seeded(learn_K=True)
    shared = learning.state_dict()
    assert all(torch.equal(value, shared[key]) for key, value in plain.state_dict().items())
    assert {key.partition(".")[0] for key in shared.keys() - plain.state_dict().keys()} == {"focal", "centre"}
    out = learning(pairs)
    assert all(torch.equal(value, out[key]) for key, value in plain(pairs).items())
    assert {key: tuple(out[key].shape) for key in ("focal", "centre")} == {"focal": (2, 2), "centre": (2, 2)}
    (out["focal"].sum() + out["centre"].sum()).backward()
    idle = [key for key, p in learning.named_parameters() if p.grad is None]
    assert {key.partition(".")[0] for key in idle} == {"decoder"}


def test_focal_is_a_softplus_and_centre_a_sigmoid_of_the_mean(pairs):
    net = seeded(learn_K=True)
    for branch in (net.focal, net.centre):
        torch.nn.init.zeros_(branch[2].weight)
        branch[2].bias.data = torch.tensor([0.0, 2.0])
    out = net(pairs)
    assert out["focal"][0].tolist() == pytest.approx([0.6931, 2.1269], abs=1e-4)  # ln(1 + e^x)
    assert out["centre"][0].tolist() == pytest.approx([0.5, 0.8808], abs=1e-4)  # 1 / (1 + e^-x)


def test_a_new_network_predicts_the_camera_it_was_given(pairs):
    net = seeded(learn_K=True, K_init=[0.58, 1.92, 0.45, 0.5])
    with torch.autocast("cpu", torch.bfloat16):
        out = net(pairs)
    assert {out[key].dtype for key in ("focal", "centre")} == {torch.float32}
    assert out["focal"].tolist() == [pytest.approx([0.58, 1.92], rel=1e-6)] * 2
    assert out["centre"].tolist() == [pytest.approx([0.45, 0.5], rel=1e-6)] * 2
    out["focal"].sum().backward()
    assert net.focal[2].weight.grad.abs().sum() > 0  # so that the second step reaches every layer


def test_one_focal_length_alone(pairs):
    net = seeded(learn_K="focal", K_init=[0.58])
    out = net(pairs)
    assert out.keys() == {"R", "t", "focal"}
    assert out["focal"].tolist() == [pytest.approx([0.58], rel=1e-6)] * 2
    assert set(net.state_dict()) - set(seeded().state_dict()) == {"focal_length"}
    out["focal"].sum().backward()
    assert net.focal_length.grad.item() == pytest.approx(2 * 0.58)  # of the logarithm
    assert seeded(learn_K="focal")(pairs)["focal"].tolist() == [pytest.approx([0.69])] * 2


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"K_init": [0.6, 0.6, 0.5, 0.5]}, "set learn_K: true"),
        ({"learn_K": True, "K_init": [368, 1.92, 0.5, 0.5]}, "pixels are divided by width"),
        ({"learn_K": True, "K_init": [0.6, 0.6, 0.5, 1.0]}, "cx, cy (0 to 1)"),
        ({"learn_K": True, "K_init": [0.6, 0.6]}, "not [0.6, 0.6]"),
        ({"learn_K": "focal", "K_init": [0.6, 0.6, 0.5, 0.5]}, "must be [fx], one number"),
        ({"learn_K": "focal", "K_init": [60]}, "pixels are divided by width"),
    ],
)
def test_a_start_that_is_no_camera_is_refused(options, told):
    assert told in " ".join(models_zoo.NETWORKS.get("pose").validate_config(options))
