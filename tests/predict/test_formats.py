"""Every decoder and encoder family leaves the house: as ONNX, as an archive, as a folder; and what cannot says so."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest
import torch

import models_zoo
from models_zoo.decoders import DECODERS
from models_zoo.depth import feature_problems
from tests.models_zoo.smallest import smallest
from trainer.commands.jobs.bench_export import random_network
from trainer.predict.formats import check, onnx_file, program, transformers_folder
from trainer.predict.formats.program import Interface
from trainer.predict.network import DepthNetwork
from trainer.runtime.errors import UserError

SIZE = (96, 64)
FOUR, FIVE = (4, 8, 16, 32), (2, 4, 8, 16, 32)
ENCODERS = {  # and their strides
    "test_resnet": FIVE,
    "test_convnext": FOUR,
    "test_efficientnet": FIVE,
    "test_vit": FOUR,
    "hrnet_w18_small": FIVE,
    "swin_tiny_patch4_window7_224": FOUR,
    "litemono_tiny": (4, 8, 16),
}
PAIRS = [(e, d) for e, strides in ENCODERS.items() for d in DECODERS.names() if not feature_problems(d, strides)]


def exported(form, network: DepthNetwork, interface: Interface, folder: Path) -> float:
    """Write a network and return the largest difference between the file and PyTorch."""
    path = folder / "network"
    form.write(network, interface, {"description": "a network"}, path)
    frames = check.batches(None, interface)  # type: ignore[arg-type]
    return check.largest_difference(form.load(path, 1), network, interface, frames)


@pytest.fixture(scope="module")
def _onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name, reason="of the extra `export`")


@pytest.mark.usefixtures("_onnx")
def test_onnx_predicts_what_pytorch_predicts(tmp_path: Path) -> None:
    assert exported(onnx_file, random_network("test_vit", "cadepth"), Interface(SIZE), tmp_path) < check.LIMITS["32"]


@pytest.mark.long
@pytest.mark.usefixtures("_onnx")
@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_onnx_of_every_decoder_on_every_family(encoder: str, decoder: str, tmp_path: Path) -> None:
    assert exported(onnx_file, random_network(encoder, decoder), Interface(SIZE), tmp_path) < check.LIMITS["32"]


@pytest.mark.long
@pytest.mark.usefixtures("_onnx")
@pytest.mark.parametrize("encoder", ENCODERS)
def test_onnx_of_any_size(encoder: str, tmp_path: Path) -> None:
    interface = Interface(SIZE, dynamic=frozenset({"batch", "size"}))
    network = random_network(encoder, "litemono" if encoder == "litemono_tiny" else "monodepth")
    if encoder.startswith("swin"):
        with pytest.raises(UserError, match="one file per size"):
            exported(onnx_file, network, interface, tmp_path)
    else:
        assert exported(onnx_file, network, interface, tmp_path) < check.LIMITS["32"]


@pytest.mark.parametrize(
    ("encoder", "decoder", "options"),
    [
        ("test_resnet", "superdepth", {"dtype": "float", "layout": "NHWC"}),
        pytest.param("test_convnext", "hrdepth", {}, marks=pytest.mark.long),
    ],
)
def test_an_archive_predicts_what_pytorch_predicts(encoder, decoder, options, tmp_path: Path) -> None:
    assert (
        exported(program, random_network(encoder, decoder), Interface(SIZE, **options), tmp_path) < check.LIMITS["32"]
    )


@pytest.mark.parametrize("decoder", ["ddvnet", "cadepth"])
def test_attention_of_a_16_bit_network_is_32_bit(decoder: str) -> None:
    """The products of 384 channels over all positions are beyond float16."""
    network = random_network("test_resnet", decoder)
    frames = check.generated_frames(SIZE, count=1)
    half = program.Deployed(network, Interface(SIZE, precision="16"))
    with torch.no_grad():
        disparity, depth = half(frames)
        assert (disparity / network(frames)[0] - 1).abs().max() < check.LIMITS["16"]
    assert (disparity.dtype, depth.dtype) == (torch.float32, torch.float32)
    assert next(network.parameters()).dtype == torch.float32  # the network itself stays


def test_the_interface_says_how_images_go_in() -> None:
    frames = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 2, 4)
    assert Interface((4, 2)).images(frames).dtype == torch.uint8
    images = Interface((4, 2), dtype="float", layout="NHWC").images(frames)
    assert images.shape == (1, 2, 4, 3)
    assert images[0, 0, 0].tolist() == pytest.approx([0, 1, 0.2])


def test_a_difference_is_relative_and_of_the_worst_pixel() -> None:
    class Twos(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            two = torch.full((1, 1, 2, 2), 2.0)
            return two, two

    other = torch.full((1, 1, 2, 2), 2.0)
    other[0, 0, 1, 1] = 2.5
    frames, interface = [torch.zeros(1, 3, 2, 2, dtype=torch.uint8)], Interface((2, 2))
    compared = [
        check.largest_difference(lambda _, o=o: o, Twos(), interface, frames)  # type: ignore[arg-type, misc]
        for o in ((other, other / other * 2), (other * float("nan"), other), (other[..., :1], other))
    ]
    assert compared == [0.25, float("inf"), float("inf")]
    with pytest.raises(check.Differs, match=r"depth\.onnx: not written: .* by up to 0\.25 .*limit is 0\.0001"):
        check.refuse(0.25, "32", Path("depth.onnx"))
    check.refuse(1e-3, "16", Path("depth.onnx"))


def test_a_size_that_the_network_refuses_is_named() -> None:
    with pytest.raises(UserError, match=r"--size 100x64: .*multiples of 32.*width: 96 or 128"):
        program.trace(random_network("test_resnet", "monodepth"), Interface((100, 64)))


def test_windows_are_of_one_size() -> None:
    network = random_network("test_resnet", "monodepth")
    network.depth.encoder.window_size = (7, 7)
    with pytest.raises(UserError, match=r"--dynamic size: the encoder attends within windows.*one file per size"):
        program.trace(network, Interface(SIZE, dynamic=frozenset({"size"})))


@pytest.mark.parametrize("decoder", DECODERS.names())
def test_a_folder_holds_the_files_of_its_network_alone(decoder: str, tmp_path: Path) -> None:
    """Imports lead to files of the folder, which together build the network."""
    depth = models_zoo.create("depth", **smallest(decoder), pretrained=False)
    texts = transformers_folder.sources(depth)
    names = {transformers_folder.flat_name(module) for module in texts}
    assert {name for name in names if name.startswith("models_zoo_decoders_")} == {
        "models_zoo_decoders_base", f"models_zoo_decoders_{decoder}"
    }  # fmt: skip
    for text in texts.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                assert node.module
                assert (
                    node.module in names
                    if node.level
                    else node.module.partition(".")[0] not in ("trainer", "models_zoo")
                )


def test_a_part_of_a_plugin_is_refused() -> None:
    class Mine(torch.nn.Identity):
        pass

    depth = models_zoo.create("depth", enc_name="test_resnet", pretrained=False)
    depth.decoders["disp"].extra = Mine()
    with pytest.raises(UserError, match=rf"parts from {__name__}, which a folder for transformers cannot hold"):
        transformers_folder.sources(depth)


def test_the_zoo_imports_itself_in_one_form() -> None:
    """`flattened` makes `from models_zoo.x import y` relative; another form would stay as it is."""
    waiting, seen = [transformers_folder.ENTRY, *(c.__module__ for c in map(DECODERS.get, DECODERS.names()))], set()
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            pytest.importorskip("transformers", reason="of the extra `export`")
            text, needed = transformers_folder.flattened(inspect.getsource(importlib.import_module(name)))
            assert "import models_zoo" not in text
            assert "from models_zoo" not in text
            waiting += needed
    assert "models_zoo.layers" in seen


def test_a_square_network_whose_size_is_left_open_is_also_compared_at_another_size() -> None:
    frames = check.batches(None, Interface((64, 64), dynamic=frozenset({"size"})))  # type: ignore[arg-type]
    assert {tuple(batch.shape[2:]) for batch in frames} == {(64, 64), (96, 128)}
