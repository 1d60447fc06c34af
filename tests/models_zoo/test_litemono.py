"""Lite-Mono and RA-Depth's decoder: published sizes and names, and what their layers do, by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.encoders import ENCODERS
from models_zoo.encoders.build import build_encoder, encode, feature_spec
from models_zoo.encoders.litemono import ChannelAttention, GlobalBlock, PositionCode, waves
from tests.models_zoo.layouts import State, fill
from tests.models_zoo.litemono_files import VARIANTS, decoder_layout, encoder_layout, msf_layout

TINY = "litemono_tiny"
LARGE = {"dilation": "large"}
SIZES = {  # encoder, of which dead, decoder; tensors of the encoder
    "litemono": (2_848_120, 3_072, 226_627, 263),
    "litemono_small": (2_250_232, 2_304, 226_627, 224),
    "litemono_tiny": (1_955_192, 2_112, 192_467, 224),
    "litemono_8m": (8_139_960, 5_184, 635_891, 263),
}


def depth(enc_name: str = TINY, **options: Any) -> nn.Module:
    settings = {"dec_name": "litemono", "out_scales": [0, 1, 2], "pretrained": False, **options}
    return models_zoo.create("depth", enc_name=enc_name, **settings)


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_sizes_and_maps_are_the_published_ones(variant: str) -> None:
    """Dead layer norms are parameters that do not learn."""
    with torch.device("meta"):
        net: Any = depth(variant)
        out = net(torch.rand(2, 3, 192, 640))
    encoder, dead, decoder, tensors = SIZES[variant]
    counts = [sum(p.numel() for p in part.parameters()) for part in (net.encoder, net.decoders)]
    assert counts == [encoder, decoder]
    assert sum(p.numel() for p in net.parameters() if not p.requires_grad) == dead
    assert shapes_of(net.encoder) == encoder_layout(variant)
    assert shapes_of(net.decoders["disp"]) == decoder_layout(variant)
    assert (len(net.encoder.state_dict()), len(net.decoders.state_dict())) == (tensors, 18)
    assert {s: tuple(d.shape) for s, d in out["disp"].items()} == {s: (2, 1, 192 >> s, 640 >> s) for s in (0, 1, 2)}
    dims = VARIANTS[variant][0]
    assert [tuple(f.shape) for f in out["depth_feats"]] == [(2, c, 48 >> i, 160 >> i) for i, c in enumerate(dims)]


@pytest.mark.parametrize(
    ("variant", "dilation", "expected"),
    [
        ("litemono", "small", [[1, 2, 3], [1, 2, 3], [1, 2, 3, 1, 2, 3, 2, 4, 6]]),
        ("litemono", "large", [[1, 2, 5], [1, 2, 5], [1, 2, 5, 1, 2, 5, 2, 4, 10]]),
        ("litemono_small", "small", [[1, 2, 3], [1, 2, 3], [1, 2, 3, 2, 4, 6]]),
        ("litemono_tiny", "large", [[1, 2, 5], [1, 2, 5], [1, 2, 5, 2, 4, 10]]),
        ("litemono_8m", "large", [[1, 2, 3], [1, 2, 3], [1, 2, 3, 1, 2, 3, 2, 4, 6]]),
    ],
)
def test_dilations_are_the_published_ones(variant: str, dilation: str, expected: list[list[int]]) -> None:
    with torch.device("meta"):
        encoder: Any = build_encoder(variant, False, options={"dilation": dilation})
    convs = [[block.ddwconv.conv for block in list(stage)[:-1]] for stage in encoder.stages]
    assert [[conv.dilation[0] for conv in stage] for stage in convs] == expected
    assert all(conv.padding == conv.dilation for stage in convs for conv in stage)


def test_every_live_parameter_learns() -> None:
    net = depth(enc_options={"drop_path": 0})
    sum(disp.square().sum() for disp in net(torch.rand(2, 3, 64, 96))["disp"].values()).backward()
    without = {name for name, p in net.named_parameters() if p.grad is None or not p.grad.count_nonzero()}
    assert without == {name for name, p in net.named_parameters() if not p.requires_grad}
    assert {name.split(".")[-2] for name in without} == {"norm"}


def test_disparity_under_autocast_is_float32_and_close() -> None:
    net = depth().eval()
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        plain = net(images)["disp"]
        with torch.autocast("cpu", torch.bfloat16):
            disp = net(images)["disp"]
    assert {d.dtype for d in disp.values()} == {torch.float32}
    assert all(torch.allclose(disp[s], plain[s], atol=0.01) for s in plain)


def test_blocks_are_left_out_with_probabilities_that_rise_and_draws_that_a_seed_repeats() -> None:
    net: Any = depth()
    rates = [block.drop_path.drop_prob for stage in net.encoder.stages for block in stage]
    assert rates == pytest.approx([0.2 * k / 14 for k in range(15)])
    images, results = torch.rand(2, 3, 64, 64), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nn.init.ones_(net.encoder.stages[2][-1].gamma)
        results.append(net.encoder(images)[-1])
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_pose_networks_take_pairs() -> None:
    out = models_zoo.create("pose", enc_name=TINY, enc_options=LARGE)(torch.rand(2, 6, 64, 64))
    assert out["t"].shape == (2, 2, 3)


@pytest.mark.parametrize("enc_name", ENCODERS.names())
def test_weights_that_are_only_a_file_say_where_it_is(enc_name: str) -> None:
    with torch.device("meta"), pytest.raises(models_zoo.PretrainedUnavailable) as refusal:
        depth(enc_name, pretrained=True)
    for part in (enc_name, "github.com/noahzn/Lite-Mono", "trainer.load_ckpt=<file>", "pretrained: false"):
        assert part in str(refusal.value)


# Layers, by hand.


def test_the_image_is_shrunk_by_means_over_nine_pixels_whatever_the_border() -> None:
    """An image of ones: a corner sees four of nine ones, an edge six, and so does the next smaller image."""
    encoder, seen = build_encoder(TINY, False).eval(), {}
    for name in ("stem2", "downsample_layers.1", "downsample_layers.2"):
        layer = encoder.get_submodule(name)
        layer.register_forward_pre_hook(lambda _, inputs, name=name: seen.update({name: inputs[0][0, -3:]}))
    with torch.no_grad():
        encoder(torch.ones(1, 3, 64, 64))
    half, quarter, eighth = seen.values()
    assert [x.shape for x in seen.values()] == [(3, 32, 32), (3, 16, 16), (3, 8, 8)]
    ninth = torch.tensor([4, 6, 6]) / 9
    assert torch.allclose(half[0, 0, :3], ninth)
    assert half[0, 1:, 1:].min() == half[0, 1:, 1:].max() == 1
    assert quarter[0, 0, 0] == pytest.approx((4 + 6 + 6 + 9) / 81)
    assert eighth[0, 5, 5] == pytest.approx(1)


def test_positions_are_waves_that_end_with_a_period() -> None:
    """Places pi and 2 pi; the second frequency is slower by 10000 ** (1 / 16)."""
    code = waves(2, torch.device("cpu"))
    assert code.shape == (2, 32)
    slow = math.pi / 10000 ** (1 / 16)
    assert code[0, :4].tolist() == pytest.approx([0, -1, math.sin(slow), math.cos(slow)], abs=1e-5)
    assert code[1, :2].tolist() == pytest.approx([0, 1], abs=1e-5)


def test_rows_are_coded_before_columns() -> None:
    layer = PositionCode(64)
    layer.token_projection.weight.data = torch.eye(64)[:, :, None, None]
    nn.init.zeros_(layer.token_projection.bias)
    code = layer(torch.rand(1, 64, 3, 5)).detach()
    assert code.shape == (1, 64, 3, 5)
    assert torch.equal(code[0, :32, :, 0].T, waves(3, code.device))
    assert torch.equal(code[0, 32:, 0].T, waves(5, code.device))
    assert torch.equal(code[0, :32, :, 0], code[0, :32, :, 4])
    assert torch.equal(code[0, 32:, 0], code[0, 32:, 2])


def test_channels_attend_to_the_channels_of_their_head() -> None:
    """Temperature 0: all alike, so every channel becomes the mean of its head. Very high: itself alone."""
    layer = ChannelAttention(16)  # 8 heads of two channels
    nn.init.zeros_(layer.qkv.bias)
    nn.init.zeros_(layer.proj.bias)
    layer.proj.weight.data = torch.eye(16)
    layer.qkv.weight.data = torch.eye(16).repeat(3, 1)  # query = key = value
    tokens = torch.rand(1, 6, 16)
    with torch.no_grad():
        layer.temperature.zero_()
        means = tokens.unflatten(2, (8, 2)).mean(3, keepdim=True).expand(-1, -1, -1, 2).flatten(2)
        assert torch.allclose(layer(tokens), means, atol=1e-6)
        layer.temperature.fill_(1e6)
        assert torch.allclose(layer(tokens), tokens)
        layer.temperature.fill_(1)  # cosine of two channels over all positions
        a, b = tokens[0, :, 0], tokens[0, :, 1]
        own, other = math.e, math.exp(F.cosine_similarity(a, b, dim=0))
        assert torch.allclose(layer(tokens)[0, :, 0], (own * a + other * b) / (own + other))


def test_a_global_block_adds_to_its_input_without_position_and_attention() -> None:
    block, x = GlobalBlock(16, 0.0, has_position=True), torch.rand(1, 16, 4, 6)
    nn.init.ones_(block.gamma_xca)
    nn.init.zeros_(block.gamma)
    assert torch.equal(block(x), x)
    nn.init.ones_(block.gamma)
    nn.init.zeros_(block.pwconv2.weight)
    assert torch.allclose(block(x), x + block.pwconv2.bias[:, None, None])


# Second implementations of the decoders, from the tables of names.


def convolved(state: State, n: int, x: Tensor) -> Tensor:
    """Convolve with layer n: reflect padding if it is 3x3, ELU unless it is an output."""
    name = f"decoder.{n}.conv.conv" if f"decoder.{n}.conv.conv.weight" in state else f"decoder.{n}.conv"
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    x = F.conv2d(F.pad(x, (1,) * 4, mode="reflect") if weight.shape[-1] == 3 else x, weight, bias)
    return F.elu(x) if name.endswith("conv.conv") else x


def bilinear(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def litemono_by_hand(state: State, feats: list[Tensor], activation: Any) -> dict[int, Tensor]:
    x, out = feats[2], {}
    for i in (2, 1, 0):
        x = bilinear(convolved(state, 2 * (2 - i), x))
        x = convolved(state, 2 * (2 - i) + 1, torch.cat([x, feats[i - 1]], 1) if i else x)
        out[i] = activation(bilinear(convolved(state, 6 + i, x)))
    return dict(sorted(out.items()))


def msf_by_hand(state: State, feats: list[Tensor]) -> Tensor:
    def repeated(x: Tensor, factor: int) -> Tensor:
        return x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    maps, n = list(feats), 0
    for deepest in (4, 3, 2):
        for k in range(1, deepest + 1):
            maps[k], n = convolved(state, n, maps[k]), n + 1
        sums = list(maps)
        for m in range(2, deepest + 1):
            for k in reversed(range(1, m)):
                sums[k], n = sums[k] + convolved(state, n, repeated(maps[m], 2 ** (m - k))), n + 1
        maps = sums
    first, second = convolved(state, 19, maps[0]), convolved(state, 20, maps[1])
    x = convolved(state, 22, first + convolved(state, 21, repeated(second, 2)))
    return torch.sigmoid(convolved(state, 24, convolved(state, 23, repeated(x, 2))))


@pytest.mark.parametrize("activation", ["sigmoid", "relu"])
def test_the_decoder_of_litemono_equals_its_second_implementation(activation: str) -> None:
    state = fill(decoder_layout(TINY), torch.Generator().manual_seed(0))
    options = {"channels": VARIANTS[TINY][0], "reductions": (4, 8, 16), "out_scales": [0, 1, 2]}
    decoder = DECODERS.create("litemono", activation=activation, **options)
    decoder.load_state_dict(state)
    feats = [torch.randn(1, c, 16 >> i, 24 >> i) for i, c in enumerate(options["channels"])]
    expected = litemono_by_hand(state, feats, getattr(torch, activation))
    with torch.no_grad():
        out = decoder(feats)
    assert list(out) == list(expected)
    assert all(torch.allclose(out[s], expected[s], atol=1e-5) for s in out)
    assert all(d.max() > 0 for d in out.values())


@pytest.mark.parametrize("channels", [(64, 18, 36, 72, 144), (8, 12, 16, 20, 24)])
def test_the_decoder_of_ra_depth_equals_its_second_implementation(channels: tuple[int, ...]) -> None:
    state = fill(msf_layout(channels), torch.Generator().manual_seed(0))
    decoder = DECODERS.create("msf", channels=channels, reductions=(2, 4, 8, 16, 32), out_scales=[0])
    decoder.load_state_dict(state)
    feats = [torch.randn(1, c, 32 >> i, 32 >> i) for i, c in enumerate(channels)]
    with torch.no_grad():
        out = decoder(feats)
    assert list(out) == [0]
    assert out[0].shape == (1, 1, 64, 64)
    assert torch.allclose(out[0], msf_by_hand(state, feats), atol=1e-5)


def test_a_new_decoder_starts_with_small_weights_and_no_biases() -> None:
    decoder = DECODERS.create("litemono", channels=(48, 80, 128), reductions=(4, 8, 16), out_scales=[0, 1, 2])
    for name, parameter in decoder.named_parameters():
        assert parameter.count_nonzero() == 0 if name.endswith("bias") else 0.01 < parameter.std() < 0.03


def test_stride_2_of_an_encoder_is_not_read() -> None:
    decoder = DECODERS.create("litemono", channels=(4, 8, 12, 16), reductions=(2, 4, 8, 16), out_scales=[0])
    feats = [torch.randn(1, c, 32 >> i, 32 >> i) for i, c in enumerate((4, 8, 12, 16))]
    assert torch.equal(decoder(feats)[0], decoder([torch.zeros_like(feats[0]), *feats[1:]])[0])


def test_features_have_the_strides_that_they_state() -> None:
    encoder = build_encoder(TINY, False).eval()
    assert feature_spec(encoder) == ((32, 64, 128), (4, 8, 16))
    with torch.no_grad():
        assert [tuple(f.shape[2:]) for f in encode(encoder, torch.rand(1, 3, 64, 96))] == [(16, 24), (8, 12), (4, 6)]
