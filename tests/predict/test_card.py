"""The model card says what the settings and result files say, and calls unknown what they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard

from tests.world import ROOT
from trainer.checkpoint import Saved
from trainer.config import Config, load_config
from trainer.predict.card import Card, Licence
from trainer.predict.scale import scale_of

KITTI = "CC BY-NC-SA 3.0: non-commercial use only"


def card_of(page: str, *overrides: str, hparams: dict[str, Any] | None = None, step: int = 12, **facts: Any) -> Card:
    """The card of a run with the settings of a page, without training it."""
    cfg = load_config(ROOT / "cfg" / page, ROOT / "cfg" / page.partition("/")[0] / "default.yaml", overrides)
    about = {"name": "run", "seed": 3, "trainer_version": "0.1.0", "config": cfg.to_dict(), **(hparams or {})}
    metadata = {"hparams": json.dumps(about), "epoch": "2", "step": str(step), "monitor": "AbsRel"}
    metadata["metrics"] = json.dumps({"AbsRel": 0.125})
    saved = Saved(Path("x"), {f"networks.{name}.weight": torch.zeros(1) for name in cfg.net}, metadata)
    config = Config.from_dict(about["config"], training=False)
    return Card(saved, config, scale_of(config.supp_idxs), (640, 192), name="run", place="./run", **facts)


def test_the_length_of_a_training_in_images() -> None:
    card = card_of("synthetic/monodepth2_MS.yaml", "loader.batch_size=4", "trainer.accumulate_grad_batches=2")
    assert card.length == "2 of 4 epochs, 12 steps of 8 images: 96 images seen"
    assert card_of("synthetic/monodepth2_MS.yaml", step=0).length == "unknown"


def test_licences_of_data_and_first_weights() -> None:
    card = card_of("benchmark/monodepth2_MS.yaml", "net.pose.enc_name=resnext101_32x8d.fb_swsl_ig1b_ft_in1k")
    encoder = card.depth["enc_name"]
    assert card.licences == [
        Licence("training data `kitti`", KITTI),
        Licence(f"first weights `{encoder}` of timm", "apache-2.0"),
        Licence("first weights `resnext101_32x8d.fb_swsl_ig1b_ft_in1k` of timm", "cc-by-nc-4.0"),
    ]
    assert [row.text for row in card.restrictions] == [KITTI, "cc-by-nc-4.0"]
    assert f"| training data `kitti` | {KITTI} |" in card.text()


def test_every_data_set_of_a_mixture_has_its_licence() -> None:
    mixed = (
        "dataset={type: mixed, datasets: {kitti: {}, mine: {type: folder, path: video}, none: ~}, supp_idxs: [-1, 1]}"
    )
    card = card_of("synthetic/monodepth2_M.yaml", mixed)
    assert card.licences == [Licence("training data `kitti`", KITTI), Licence("training data `folder`", "")]
    assert "| training data `folder` | not known |" in card.text()
    assert ModelCard(card.text()).data.datasets == ["kitti"]  # a folder has no name that others know


@pytest.mark.parametrize(
    ("name", "licence"),
    [
        ("depth-anything/Depth-Anything-V2-Small-hf", "apache-2.0"),
        ("depth_anything_v2_vitl.pth", "cc-by-nc-4.0"),
        ("alice/net", ""),
        ("best.safetensors", ""),
    ],
)
def test_weights_that_a_training_started_from(name: str, licence: str) -> None:
    card = card_of("synthetic/monodepth2_MS.yaml", f"trainer.load_ckpt={name}")
    assert card.licences[-1] == Licence(f"first weights `{name}`", licence)
    assert card.start == f"`{name}`"
    assert ModelCard(card.text()).data.base_model == (name if "/" in name else None)


@pytest.mark.parametrize("file", ["weights/mine.safetensors", "resnet18.pth"])
def test_of_a_file_of_weights_no_licence_is_claimed(file: str) -> None:
    card = card_of("synthetic/monodepth2_MS.yaml", f"net.depth.pretrained={file}", "net.pose.pretrained=true")
    assert card.start == f"`{file}` (encoder of `depth`), `test_resnet` of timm (encoder of `pose`)"
    assert Licence(f"first weights `{file}`", "") in card.licences


def test_teachers_are_named_with_their_licence() -> None:
    one = {"model": "depth-anything/Depth-Anything-V2-Large-hf", "revision": "a" * 40, "sha256": "b" * 64}
    card = card_of("synthetic/monodepth2_MS.yaml", hparams={"pseudo": {**one, "licence": "cc-by-nc-4.0"}})
    labels = Licence(f"labels of the teacher `{one['model']}`", "cc-by-nc-4.0")
    assert labels in card.restrictions
    assert f"| labelled by | `{one['model']}` at `aaaaaaa`, disparity; weights SHA-256 `bbbbbbbbbbbb` |" in card.text()
    mixed = card_of("synthetic/monodepth2_MS.yaml", hparams={"pseudo": {"a": one, "b": {"model": "unknown"}}})
    assert [teacher["model"] for teacher in mixed.teachers] == [one["model"], "unknown"]
    assert card_of("synthetic/monodepth2_MS.yaml").teachers == []


def test_of_imported_weights_nothing_is_claimed() -> None:
    imported = {"source": "mono_640x192", "format": "Monodepth2 folder"}
    text = card_of("synthetic/monodepth2_MS.yaml", hparams={"imported": imported, "seed": None}, step=0).text()
    assert "| imported weights `mono_640x192` | licence of Monodepth2: non-commercial use only |" in text
    assert "| training data | not known |" in text
    for claim in ("self-supervised, from", "| losses |", "| seed |", "img_recon` x"):
        assert claim not in text


def test_scale_and_limits_follow_the_supports() -> None:
    stereo, video = (card_of(f"synthetic/monodepth2_{kind}.yaml").text() for kind in ("MS", "M"))
    assert "Depth is in **metres**" in stereo
    assert "Depth is **relative**" in video
    assert "trained on video alone, which leaves the scale open" in video
    alone = card_of("synthetic/monodepth2_M.yaml", "dataset.supp_idxs=[0]", "net.pose=~").text()
    assert "Things that moved with the camera" in video
    assert "Things that moved with the camera" not in alone


def test_the_head_claims_no_licence_and_no_score_that_is_not_given() -> None:
    bare, stated = (ModelCard(card_of("synthetic/monodepth2_M.yaml", licence=one).text()).data for one in (None, "mit"))
    assert (bare.license, stated.license) == ("unknown", "mit")
    assert bare.library_name == "monodepth"
    assert bare.pipeline_tag == "depth-estimation"
    assert "relative-depth" in bare.tags
    assert bare.eval_results is None
    assert "This checkpoint was not evaluated" in card_of("synthetic/monodepth2_M.yaml").text()
