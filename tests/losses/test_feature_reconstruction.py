"""Feature reconstruction: features of the supports, warped into the target."""

import pytest
import torch

from tests.losses.scenes import SIZE, plane_scene, random_features, random_scene
from trainer.geometry.scene import resize
from trainer.losses import LOSSES


def feat_recon(**kwargs):
    return LOSSES.create("feat_recon", **{"automask_noise": 0.0, **kwargs})


def feature_scene(levels=5, owner="depth", b=2, **changes):
    feats, supp_feats = random_features(b, levels=levels)
    extras = {f"{owner}_feats": feats, f"supp_{owner}_feats": supp_feats}
    return random_scene(b, dtype=torch.float64, **{"extras": extras, **changes})


def test_equal_features_of_a_still_camera_differ_not():
    feats, supp_feats = random_features(1, 1)
    extras = {"depth_feats": feats, "supp_depth_feats": [feat.unsqueeze(1) for feat in feats]}
    assert feat_recon(loss_name="l1")(plane_scene(extras=extras))[0].item() == pytest.approx(0, abs=1e-12)
    extras["supp_depth_feats"] = supp_feats
    assert feat_recon(loss_name="l1")(plane_scene(extras=extras))[0] > 0.1


def test_the_true_motion_explains_a_ramp_of_features():
    """Features that grow by 1 per 4 pixels grow by 0.25 per pixel when upsampled: two pixels on, they are 0.5 more."""
    ramp = torch.arange(4.0).double().expand(1, 1, 2, 4)
    feats = [ramp, *[ramp] * 3]
    extras = {"depth_feats": feats, "supp_depth_feats": [feat.unsqueeze(1) for feat in feats]}
    _, pictures = feat_recon(loss_name="l1")(plane_scene(2.0, extras=extras))
    warped = pictures["feats_warp/supp_1"]()
    inner = slice(2, 12)  # away from the border, where upsampling repeats
    assert torch.allclose((warped - resize(ramp, SIZE))[..., inner], torch.tensor(0.5).double())


@pytest.mark.parametrize("levels", [4, 5])
def test_compares_at_stride_4_whether_or_not_there_is_a_stride_2(levels):
    scene = feature_scene(levels=levels)
    assert scene.feats[-4].shape[-2:] == (SIZE[0] // 4, SIZE[1] // 4)
    value = feat_recon()(scene)[0]
    for k in range(levels):
        changed, others = list(scene.feats), list(scene.supp_feats)
        changed[k], others[k] = changed[k] + 1, others[k] * 2
        extras = {"depth_feats": changed, "supp_depth_feats": others}
        assert torch.equal(feat_recon()(feature_scene(extras=extras))[0], value) == (k != levels - 4)


def test_too_few_levels_are_named():
    feats, supp_feats = random_features()
    extras = {"depth_feats": feats[:3], "supp_depth_feats": supp_feats[:3]}
    with pytest.raises(ValueError, match="4th level from the end, but the encoder has 3"):
        feat_recon()(feature_scene(extras=extras))


def test_features_of_an_autoencoder_come_first():
    autoenc = feature_scene(owner="autoenc")
    both = feature_scene(extras={"depth_feats": [torch.zeros(1)], **autoenc.extras})
    assert torch.equal(feat_recon()(both)[0], feat_recon()(autoenc)[0])


def test_depth_and_mask_are_those_of_scale_0():
    scene = feature_scene()
    coarse = {s: torch.zeros_like(disp) if s else disp for s, disp in scene.disp.items()}
    assert torch.equal(feat_recon()(feature_scene(disp=coarse))[0], feat_recon()(scene)[0])


def test_pictures_are_the_warped_features_without_graph():
    disp = {0: random_scene(dtype=torch.float64).disp[0].requires_grad_()}
    scene = feature_scene(disp=disp)
    _, pictures = feat_recon(use_automask=True)(scene)
    assert set(pictures) == {"feats_warp/supp_-1", "feats_warp/supp_1"}
    for i, picture in enumerate(pictures.values()):
        drawn = picture()
        assert not drawn.requires_grad
        image = resize(scene.supp_feats[-4][:, i], SIZE)
        assert torch.equal(drawn, scene.synthesis.warp(image, scene.depth(0), scene.projection(i)).detach())


def test_noise_breaks_ties():
    feats, _ = random_features(1, 1)
    zeros = [torch.zeros_like(feat.unsqueeze(1)) for feat in feats]
    scene = plane_scene(2.0, extras={"depth_feats": feats, "supp_depth_feats": zeros})
    torch.manual_seed(0)
    noisy = feat_recon(loss_name="l1", use_automask=True, automask_noise=1e-2)(scene)[0]
    assert noisy < feat_recon(loss_name="l1", use_automask=True)(scene)[0]


def test_needs_features_and_perhaps_a_mask():
    assert feat_recon().needs == {"supports", "features"}
    assert feat_recon(mask_name="uncertainty").needs == {"supports", "features", "mask"}
    assert not feat_recon().on_twin
