"""Every network equals its second implementation with weights stored as published ones, and has their size."""

from __future__ import annotations

import functools
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models_zoo
from models_zoo.decoders import DECODERS
from tests.models_zoo import foreign, layouts, reference

NAMES = sorted(layouts.LAYOUTS)
ELSEWHERE = ("dpt", "litemono", "msf")  # in test_dpt.py, test_litemono.py and test_msf.py
TOLERANCE = 1e-5
MOTION = 1e-7  # motions of random weights are about 1e-3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = "test_resnet"  # its widths do not double from level to level
HEADS = ("disp", "disp_stereo", "mask", "depth_feats", "autoenc_feats", "autoenc_imgs", "R", "t")
VARIANTS: dict[str, dict[str, Any]] = {
    "five levels": {},
    "four levels": {"enc_name": "test_convnext", "out_scales": [3, 0], "use_virtual_stereo": True},
    "one scale": {"out_scales": [0]},
    "virtual stereo": {"use_virtual_stereo": True},
    "explainability": {"mask_name": "explainability", "num_ch_mask": 2},
    "uncertainty": {"mask_name": "uncertainty", "num_ch_mask": 3},
    "blend": {"use_stereo_blend": True},
    "virtual stereo, blend": {"use_virtual_stereo": True, "use_stereo_blend": True},
}
DEPTH_CASES = [
    pytest.param({"dec_name": name, "enc_name": SMALL, **options}, id=f"{name}-{variant}")
    for name in NAMES
    for variant, options in VARIANTS.items()
    if name == "monodepth" or "levels" in variant or (name, variant) == ("hrdepth", "uncertainty")
]
NO_SKIP = [name for name in NAMES if name != "hrdepth"]


def test_every_decoder_has_a_second_implementation():
    assert sorted(reference.DECODERS) == NAMES
    assert {*NAMES, *ELSEWHERE} == {*DECODERS.names()}


@functools.lru_cache(maxsize=4)
def shared_encoder(enc_name: str, in_chans: int) -> nn.Module:
    """A timm encoder whose weights every case replaces."""
    return reference.timm_encoder(enc_name, in_chans)


@pytest.fixture(scope="module", autouse=True)
def _forget_encoders() -> Iterator[None]:
    yield
    shared_encoder.cache_clear()


def imported(state: dict[str, Tensor], scales: list[int]) -> dict[str, Tensor]:
    """The tensors our networks have: no second names, no tensor that no output depends on."""
    doubled = {key.split(".convs.")[0] for key in state if ".convs." in key}
    dead = [f"convs.0{c}_conv_0." for c in range(4)]
    dead += [f"convs.outconv_{s}." for s in range(4) if s not in scales]
    return {
        key: value.clone()
        for key, value in state.items()
        if not any(key.startswith(f"{p}.decoder.") for p in doubled) and not any(d in key for d in dead)
    }


def images(channels: int = 3) -> tuple[Tensor, Tensor]:
    """A batch in [0, 1], and standardised."""
    x = torch.rand(2, channels, 64, 96)
    mean, std = (torch.tensor(v * (channels // 3)).view(1, -1, 1, 1) for v in (MEAN, STD))
    return x, (x - mean) / std


def flat(out: dict[str, Any]) -> dict[str, Tensor]:
    """Every output tensor by name and scale or position."""
    tensors = {}
    for head in HEADS:
        value = out.get(head, {})
        if isinstance(value, Tensor):
            tensors[head] = value
        else:
            pairs = value.items() if isinstance(value, dict) else enumerate(value)
            tensors |= {f"{head} {i}": tensor for i, tensor in pairs}
    return tensors


def assert_equal(out: dict[str, Any], expected: dict[str, Any]) -> None:
    ours, theirs = flat(out), flat(expected)
    assert set(out) == set(expected)
    assert list(ours) == list(theirs)
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
    errors = {key: (ours[key] - theirs[key]).abs().max().item() for key in ours}
    assert all(error <= (MOTION if key in ("R", "t") else TOLERANCE) for key, error in errors.items()), errors


def compare(kind: str, options: dict[str, Any], second: Any, channels: int = 3) -> None:
    """Outputs at inference, outputs in training, and the BatchNorm statistics that training leaves behind."""
    checkpoint = foreign.lightning_checkpoint({kind: options})
    state = reference.under(checkpoint["state_dict"], f"nets.{kind}")
    encoder = shared_encoder(options.get("enc_name", "resnet18"), channels)
    encoder.load_state_dict(reference.under(state, "encoder"))
    net = models_zoo.create(kind, pretrained=False, **options)
    net.load_state_dict(imported(state, options.get("out_scales", [0, 1, 2, 3])))
    x, standardised = images(channels)
    with torch.no_grad():
        for training in (False, True):
            net.train(training), encoder.train(training)
            assert_equal(net(x), second(state, encoder, standardised))
    left = state | {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    for key, value in net.state_dict().items():
        if "running" in key:
            assert torch.allclose(value, left[key], atol=TOLERANCE, rtol=TOLERANCE), key


@pytest.mark.parametrize("options", DEPTH_CASES)
def test_depth_equals_its_second_implementation(options: dict[str, Any]):
    compare("depth", options, functools.partial(reference.depth, options=options))


@pytest.mark.parametrize("name", NO_SKIP)
def test_autoencoder_equals_its_second_implementation(name: str):
    options = {"dec_name": name, "enc_name": SMALL, "out_scales": [2, 0, 1]}
    compare("autoencoder", options, functools.partial(reference.autoencoder, options=options))


def test_pose_equals_its_second_implementation():
    compare("pose", {"enc_name": SMALL}, reference.pose, channels=6)


def numel(shapes: layouts.Shapes) -> int:
    return sum(math.prod(shape) for key, shape in shapes.items() if "running" not in key and "num_batches" not in key)


def count(module: nn.Module) -> int:
    """Parameters, and bins whether trained or not."""
    bins = [b for key, b in module.named_buffers() if key.rpartition(".")[2] == "bins"]
    return sum(p.numel() for p in [*module.parameters(), *bins])


def network(kind: str, **options: Any) -> Any:
    with torch.device("meta"):
        return models_zoo.create(kind, pretrained=False, **options)


# decoder: network and decoder with resnet18, the same with convnext_tiny, decoder with resnet50
SIZES = {
    "monodepth": (14_329_236, 3_152_724, 31_929_780, 4_111_188, 9_014_100),
    "hrdepth": (14_100_644, 2_924_132, 34_394_932, 6_576_340, 45_878_420),
    "cadepth": (18_223_172, 7_046_660, 37_863_300, 10_044_708, 32_784_452),
    "diffnet": (13_644_212, 2_467_700, 31_352_436, 3_533_844, 9_504_116),
    "superdepth": (14_349_916, 3_173_404, 31_950_460, 4_131_868, 9_034_780),
    "ddvnet": (15_392_160, 4_215_648, 33_976_512, 6_157_920, 21_878_112),
}
ENCODER_SIZES = {"resnet18": 11_176_512, "convnext_tiny": 27_818_592}
CARRIES_DEAD = {"hrdepth"}  # four convolutions that no output depends on, in published weights
DEAD = {"resnet18": 32_336, "convnext_tiny": 72_696, "resnet50": 32_336}


def dead(name: str, enc_name: str) -> int:
    return DEAD[enc_name] if name in CARRIES_DEAD else 0


@pytest.mark.parametrize("name", NAMES)
def test_published_layouts_have_the_published_sizes(name: str):
    for enc_name, column in (("resnet18", 1), ("convnext_tiny", 3), ("resnet50", 4)):
        _, E, R = layouts.encoder_layout(enc_name)
        shapes = layouts.LAYOUTS[name](E, R, [0, 1, 2, 3], 1, True)
        unused = {
            key: shape for key, shape in shapes.items() if key.startswith(tuple(f"convs.0{c}_conv_0" for c in range(4)))
        }
        assert numel(shapes) == SIZES[name][column]
        assert numel(unused) == dead(name, enc_name)


@pytest.mark.parametrize("name", NAMES)
def test_sizes_are_the_published_ones(name: str):
    total_18, decoder_18, total_cn, decoder_cn, decoder_50 = SIZES[name]
    for enc_name, total, decoder in (("resnet18", total_18, decoder_18), ("convnext_tiny", total_cn, decoder_cn)):
        net = network("depth", enc_name=enc_name, dec_name=name)
        assert count(net) == total - dead(name, enc_name)
        assert count(net.decoders) == decoder - dead(name, enc_name)
        assert count(net.encoder) == ENCODER_SIZES[enc_name]
    _, E, R = layouts.encoder_layout("resnet50")
    with torch.device("meta"):
        assert count(DECODERS.create(name, channels=E, reductions=R)) == decoder_50 - dead(name, "resnet50")


@pytest.mark.parametrize(
    ("kind", "options", "size"),
    [
        ("depth", {"mask_name": "explainability", "num_ch_mask": 2}, 17_484_124),
        ("depth", {"mask_name": "uncertainty", "num_ch_mask": 3}, 17_486_288),
        ("depth", {"use_virtual_stereo": True}, 14_333_564),
        ("depth", {"dec_name": "ddvnet", "use_virtual_stereo": True}, 15_946_144),
        ("depth", {"out_scales": 0}, 14_327_217),
        ("depth", {"dec_name": "hrdepth"}, 14_068_308),
        # two decoders, each without its dead convolutions
        ("depth", {"dec_name": "hrdepth", "mask_name": "explainability", "num_ch_mask": 2}, 17_026_940 - 2 * 32_336),
        ("autoencoder", {}, 13_540_988),
        ("pose", {}, 12_500_492),
        ("pose", {"learn_K": True}, 14_861_840),
    ],
    ids=str,
)
def test_variants_have_the_published_sizes(kind: str, options: dict[str, Any], size: int):
    assert count(network(kind, **options)) == size


def test_the_published_pose_layouts_have_the_published_sizes():
    for options, size in (({}, 12_500_492), ({"learn_K": True}, 14_861_840)):
        state = foreign.pose_state(options, torch.Generator())
        assert numel({key: tuple(value.shape) for key, value in state.items()}) == size


def test_monodepth2_files_have_the_published_counts(tmp_path: Path):
    foreign.monodepth2_folder(tmp_path)
    files = {
        n: torch.load(tmp_path / f"{n}.pth", weights_only=True) for n in ("encoder", "depth", "pose_encoder", "pose")
    }
    assert {n: len(file) for n, file in files.items()} == {"encoder": 125, "depth": 28, "pose_encoder": 122, "pose": 8}
    shapes = {n: {k: tuple(v.shape) for k, v in f.items() if isinstance(v, Tensor)} for n, f in files.items()}
    assert {n: numel(tensors) for n, tensors in shapes.items()} == {
        "encoder": 11_689_512, "depth": 3_152_724, "pose_encoder": 11_698_920, "pose": 1_314_572,
    }  # fmt: skip
    assert not zipfile.is_zipfile(tmp_path / "encoder.pth")


@pytest.mark.parametrize("successor", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_a_lightning_checkpoint_is_plain_and_doubles_only_what_shares_storage(
    name: str, successor: bool, tmp_path: Path
):
    losses = {"img_recon": {"weight": 2}, "disp_occ": {"weight": 0.01, "invert": True}, "disp_smooth": None}
    net = {
        "depth": {"dec_name": name, "enc_name": SMALL},
        "pose": {"enc_name": SMALL},
    }
    torch.save(foreign.lightning_checkpoint(net, losses=losses, successor=successor), tmp_path / "last.ckpt")
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    state, saved = checkpoint["state_dict"], checkpoint["hyper_parameters"]["cfg"]
    assert {key.split(".")[0] for key in state} == {"nets", "losses", "weights"} | (set() if successor else {"synth"})
    assert saved["loss"] == {"img_recon": {}, "disp_occ": {"invert": True}, "disp_smooth": None}
    assert (state["weights.img_recon"], state["losses.disp_occ._sign"]) == (2, -1)
    decoder = reference.under(state, "nets.depth.decoders.disp")
    by_name, by_number = reference.under(decoder, "convs"), reference.under(decoder, "decoder")
    storages = {value.data_ptr() for value in by_number.values()}
    assert {value.data_ptr() for value in by_name.values()} in (storages, set())
