"""The hrdepth decoder: against a re-implementation, its keys and size, and the encoders it takes and refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.layers import SqueezeExcite
from tests.models_zoo.test_decoders import FIVE, FOUR, features, reflect_conv

SCALES = [[0, 1, 2, 3], [3, 0], [2, 0, 1]]
RESNET50 = {"channels": (64, 256, 512, 1024, 2048), "reductions": (2, 4, 8, 16, 32)}
EFFICIENTNET = {"channels": (16, 24, 40, 112, 320), "reductions": (2, 4, 8, 16, 32)}  # nothing doubles
ENCODERS = ["efficientnet_b0", "mobilenetv3_small_050", "convnext_tiny", "hrnet_w18", "resnet50"]


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def up(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x)


def elu_conv(state: dict[str, Tensor], key: str, x: Tensor) -> Tensor:
    x = reflect_conv(x, state[f"{key}.conv.weight"], state[f"{key}.conv.bias"])
    return torch.where(x > 0, x, torch.expm1(x))


def sigmoid_conv(state: dict[str, Tensor], key: str, x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-reflect_conv(x, state[f"{key}.weight"], state[f"{key}.bias"])))


def squeeze_excite(state: dict[str, Tensor], key: str, x: Tensor) -> Tensor:
    hidden = torch.einsum("oc,bchw->bo", state[f"{key}.0.weight"], x) / (x.shape[2] * x.shape[3])
    gate = torch.einsum("co,bo->bc", state[f"{key}.2.weight"], hidden.clamp(min=0))
    return x / (1 + torch.exp(-gate))[:, :, None, None]


def hrdepth_by_hand(state: dict[str, Tensor], feats: list[Tensor], scales: list[int]) -> dict[int, Tensor]:
    """The grid node by node, from the state dict alone."""
    if len(feats) == 4:
        feats = [up(feats[0]), *feats]
    nodes = {f"{row}0": feat for row, feat in enumerate(feats)}

    def gather(source: str, left: str) -> Tensor:
        raised = up(elu_conv(state, f"convs.{source}_conv_0", nodes[source]))
        return torch.cat([raised, *(nodes[name] for name in left.split())], 1)

    def plain(source: str, left: str) -> Tensor:
        return elu_conv(state, f"convs.{source}_conv_1", gather(source, left))

    def narrow(name: str, source: str, left: str) -> Tensor:
        mixed = pointwise(gather(source, left), state[f"convs.{name}_down.weight"])
        return elu_conv(state, f"convs.{source}_conv_1", mixed)

    def gated(name: str, source: str, left: str) -> Tensor:
        z = squeeze_excite(state, f"convs.{name}_att.se", gather(source, left))
        key = f"convs.{name}_att.conv.0"
        return (pointwise(z, state[f"{key}.weight"]) + state[f"{key}.bias"].view(1, -1, 1, 1)).clamp(min=0)

    nodes["01"] = plain("10", "00")
    nodes["11"] = plain("20", "10")
    nodes["21"] = plain("30", "20")
    nodes["31"] = gated("31", "40", "30")
    nodes["02"] = narrow("02", "11", "00 01")
    nodes["12"] = narrow("12", "21", "10 11")
    nodes["22"] = gated("22", "31", "20 21")
    nodes["03"] = narrow("03", "12", "00 01 02")
    nodes["13"] = gated("13", "22", "10 11 12")
    nodes["04"] = gated("04", "13", "00 01 02 03")
    full = elu_conv(state, "convs.04_conv_1", up(elu_conv(state, "convs.04_conv_0", nodes["04"])))
    maps = {0: full, 1: nodes["04"], 2: nodes["13"], 3: nodes["22"]}
    return {s: sigmoid_conv(state, f"convs.outconv_{s}.0", maps[s]) for s in scales}


@pytest.mark.parametrize("scales", SCALES, ids=str)
@pytest.mark.parametrize("pyramid", [FIVE, FOUR, EFFICIENTNET], ids=["five", "four", "not doubling"])
def test_hrdepth_equals_a_second_implementation_read_from_its_keys(pyramid: dict, scales: list[int]):
    decoder, feats = DECODERS.create("hrdepth", out_scales=scales, **pyramid), features(**pyramid)
    with torch.no_grad():
        out = decoder(feats)
        expected = hrdepth_by_hand(decoder.state_dict(), feats, scales)
    assert out.keys() == expected.keys()
    assert max((out[s] - expected[s]).abs().max().item() for s in out) <= 1e-6


def with_bias(shapes: dict[str, tuple]) -> dict[str, tuple]:
    """Add the bias to every 3x3 convolution (key, (out, in))."""
    both = {f"{key}.weight": (*shape, 3, 3) for key, shape in shapes.items()}
    return both | {f"{key}.bias": shape[:1] for key, shape in shapes.items()}


def gate(key: str, channels: int, out_ch: int) -> dict[str, tuple]:
    return {
        f"{key}.se.0.weight": (channels // 16, channels),
        f"{key}.se.2.weight": (channels, channels // 16),
        f"{key}.conv.0.weight": (out_ch, channels, 1, 1),
        f"{key}.conv.0.bias": (out_ch,),
    }


def test_hrdepth_keys_are_those_of_published_weights():
    """Those of resnet18, of which the benchmark holds four more, 00/01/02/03_conv_0, that nothing uses."""
    elu = {
        "10_conv_0": (32, 64), "20_conv_0": (64, 128), "30_conv_0": (128, 256), "40_conv_0": (256, 512),
        "11_conv_0": (32, 64), "21_conv_0": (64, 128), "31_conv_0": (128, 256),
        "12_conv_0": (32, 64), "22_conv_0": (64, 128), "13_conv_0": (32, 64),
        "04_conv_0": (16, 32), "04_conv_1": (16, 16),
        "10_conv_1": (32, 96), "20_conv_1": (64, 128), "30_conv_1": (128, 256),
        "11_conv_1": (32, 64), "21_conv_1": (64, 128), "12_conv_1": (32, 64),
    }  # fmt: skip
    expected = with_bias({f"convs.{name}.conv": shape for name, shape in elu.items()})
    expected |= with_bias({f"convs.outconv_{s}.0": (1, c) for s, c in enumerate((16, 32, 64, 128))})
    expected |= {
        "convs.02_down.weight": (64, 128, 1, 1),
        "convs.12_down.weight": (128, 192, 1, 1),
        "convs.03_down.weight": (64, 160, 1, 1),
    }
    for name, channels, out_ch in (("31", 512, 256), ("22", 384, 128), ("13", 256, 64), ("04", 192, 32)):
        expected |= gate(f"convs.{name}_att", channels, out_ch)
    state = DECODERS.create("hrdepth", **FIVE).state_dict()
    assert {key: tuple(tensor.shape) for key, tensor in state.items()} == expected


def test_hrdepth_has_output_convolutions_for_its_scales_only():
    state = DECODERS.create("hrdepth", out_scales=[3, 0], **FIVE).state_dict()
    heads = {key.split(".")[1] for key in state if "outconv" in key}
    assert heads == {"outconv_0", "outconv_3"}


@pytest.mark.parametrize(
    ("pyramid", "published", "unused"),
    [(FIVE, 2_924_132, 32_336), (FOUR, 6_576_340, 72_696), (RESNET50, 45_878_420, 32_336)],
    ids=["resnet18", "convnext_tiny", "resnet50"],
)
def test_hrdepth_has_the_size_of_the_benchmark_less_what_it_never_used(
    pyramid: dict, published: int, unused: int
):
    assert count(DECODERS.create("hrdepth", **pyramid)) == published - unused


def test_a_network_with_hrdepth_has_the_size_of_the_benchmark():
    net = models_zoo.create("depth", pretrained=False, dec_name="hrdepth")
    assert count(net) == 14_068_308
    masks = {"mask_name": "explainability", "num_ch_mask": 2}
    masked = models_zoo.create("depth", pretrained=False, dec_name="hrdepth", **masks)
    assert count(masked) == 17_026_940 - 2 * 32_336


@pytest.mark.parametrize("enc_name", ENCODERS)
def test_hrdepth_takes_encoders_of_every_family(enc_name: str):
    net = models_zoo.create("depth", pretrained=False, enc_name=enc_name, dec_name="hrdepth").eval()
    with torch.no_grad():
        disp = net(torch.rand(1, 3, 64, 96))["disp"]
    assert [tuple(d.shape) for d in disp.values()] == [(1, 1, 64 >> s, 96 >> s) for s in range(4)]


def test_hrdepth_takes_the_levels_of_strides_2_to_32_from_a_longer_pyramid():
    longer = {"channels": (24, *FIVE["channels"]), "reductions": (1, *FIVE["reductions"])}
    decoder, other = DECODERS.create("hrdepth", **longer), DECODERS.create("hrdepth", **FIVE)
    other.load_state_dict(decoder.state_dict())
    feats = features(**longer)
    assert torch.equal(decoder(feats)[0], other(feats[1:])[0])


@pytest.mark.parametrize(
    ("reductions", "missing"),
    [((2, 4, 8, 32), r"without \[16\]"), ((8, 16, 32), r"without \[4\]"), ((2, 16, 32), r"without \[4, 8\]")],
    ids=str,
)
def test_hrdepth_names_the_strides_it_misses(reductions: tuple[int, ...], missing: str):
    with pytest.raises(ValueError, match=rf"strides \[2, 4, 8, 16, 32\].*{missing}"):
        DECODERS.create("hrdepth", channels=(64,) * len(reductions), reductions=reductions)


def test_hrdepth_refuses_to_go_without_skips():
    with pytest.raises(ValueError, match="hrdepth needs use_skip=True"):
        DECODERS.create("hrdepth", use_skip=False, **FIVE)


@pytest.mark.parametrize("pyramid", [FIVE, FOUR], ids=["five levels", "four levels"])
@pytest.mark.parametrize("name", ["hrdepth", "diffnet", "cadepth"])
def test_gates_see_one_image_at_a_time(name: str, pyramid: dict):
    decoder, feats = DECODERS.create(name, **pyramid).eval(), features(**pyramid, batch=2)
    with torch.no_grad():
        both, first = decoder(feats), decoder([feat[:1] for feat in feats])
    assert all(torch.allclose(both[s][:1], first[s], atol=1e-6) for s in both)


def test_a_gate_without_weights_halves_every_channel():
    block = SqueezeExcite(32)
    torch.nn.init.zeros_(block[2].weight)
    x = torch.randn(1, 32, 2, 3)
    assert torch.equal(block(x), x / 2)


def test_a_gate_of_few_channels_keeps_one_to_squeeze_them_into():
    assert SqueezeExcite(8)(torch.randn(1, 8, 2, 2)).shape == (1, 8, 2, 2)


@pytest.mark.parametrize("name", ["hrdepth", "diffnet", "cadepth"])
def test_a_start_value_is_what_zero_weights_give(name: str):
    decoder = DECODERS.create(name, out_scales=[2, 0], **FIVE)
    decoder.set_output(0.2)
    assert [head.out_channels for head in decoder.output_convs()] == [1, 1]
    for head in decoder.output_convs():
        torch.nn.init.zeros_(head.weight)
    out = decoder(features(**FIVE))
    assert all(torch.allclose(disp, torch.tensor(0.2)) for disp in out.values())


@pytest.mark.parametrize("name", ["hrdepth", "diffnet", "cadepth"])
def test_a_mask_decoder_is_close_under_autocast(name: str):
    decoder, feats = DECODERS.create(name, activation="none", out_ch=2, **FIVE).eval(), features(**FIVE)
    with torch.no_grad():
        plain = decoder(feats)
        with torch.autocast("cpu", torch.bfloat16):
            out = decoder(feats)
    assert {disp.dtype for disp in out.values()} == {torch.float32}
    assert all(torch.allclose(out[s], plain[s], atol=0.03) for s in out)
