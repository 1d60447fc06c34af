"""Every loss, with every option, agrees in value and gradient with the independent writing of `tests/benchmark`."""

from itertools import product
from typing import get_args

import pytest
import torch

from tests.benchmark import reference
from tests.benchmark.observation import Step, View, resize, to_depth
from tests.losses.test_every_loss import created, full_scene
from trainer.losses import LOSSES
from trainer.losses._photometric import ERRORS as PHOTOMETRIC
from trainer.losses._regression import ERRORS as REGRESSIONS
from trainer.losses.disparity_ssi import Form


def options(**choices):
    return [dict(zip(choices, values, strict=True)) for values in product(*choices.values())]


SWITCH = [False, True]
RECONSTRUCTION = [
    *options(loss_name=PHOTOMETRIC, use_min=SWITCH, use_automask=SWITCH),
    *options(mask_name=["explainability", "uncertainty"], use_min=[True], use_automask=SWITCH),
]
OPTIONS = {
    "img_recon": RECONSTRUCTION,
    "feat_recon": RECONSTRUCTION,
    "autoenc_recon": options(loss_name=PHOTOMETRIC),
    "depth_regr": options(loss_name=REGRESSIONS, invert=SWITCH) + options(use_automask=[True]),
    "stereo_const": options(loss_name=REGRESSIONS),
    "disp_smooth": options(use_edges=SWITCH, use_laplacian=SWITCH, use_blur=SWITCH),
    "disp_occ": options(invert=SWITCH),
    "disp_mask": [{}],
    "disp_ssi": options(form=get_args(Form), gradient=[0.0, 0.5]),
    "view_consistency": options(loss_name=["ssim", "silog"], use_automask=SWITCH),
    "feat_peaky": options(use_edges=SWITCH),
    "feat_smooth": options(use_edges=SWITCH),
    "speed": [{}],
    "camera_height": options(height=[1.65, 0.9], rows=[0.4], columns=[0.5, 1.0]),
}


def step_of(scene, photometric=None):
    """What the reference looks at: the contents of a scene, without its geometry."""

    def view(image, supports, Ts, disps, masks):
        size = image.shape[-2:]
        depths = {s: to_depth(resize(d, size), scene.min_depth, scene.max_depth) for s, d in disps.items()}
        return View(image, supports, Ts, scene.K, disps, depths, masks, not scene.legacy_sampling)

    supports, i_stereo = list(scene.supports.unbind(1)), scene.supp_idxs.index(0)
    extras, n = scene.extras, range(scene.n_supports)
    return Step(
        view=view(scene.target, supports, list(scene.Ts.unbind(1)), scene.disp, scene.mask or {}),
        virtual=view(supports[i_stereo], [scene.target], [torch.linalg.inv(scene.T_stereo)], scene.disp_stereo, {}),
        feats=extras.get("autoenc_feats", []),
        supp_feats=[[level[:, i] for level in extras.get("supp_autoenc_feats", [])] for i in n],
        autoenc_imgs=[
            extras.get("autoenc_imgs", {}),
            *({s: x[:, i] for s, x in extras.get("supp_autoenc_imgs", {}).items()} for i in n),
        ],
        hints=scene.depth_hints,
        photometric=photometric or {},
        i_stereo=i_stereo,
        pseudo=scene.pseudo,
        others=[(other.disp[0], other.A[0], other.depth_factor) for other in scene.others.values()],
        automask=scene.automask,
        travelled=scene.travelled,
    )


def test_every_loss_is_compared():
    assert set(OPTIONS) == set(LOSSES.names()) == set(reference.TERMS)


@pytest.mark.parametrize(("b", "legacy_sampling"), [(1, True), (2, False)])
@pytest.mark.parametrize(("name", "kwargs"), [(name, kwargs) for name in OPTIONS for kwargs in OPTIONS[name]])
def test_value_and_gradients_agree(name, kwargs, b, legacy_sampling):
    scene, learnt = full_scene(torch.float64, b, legacy_sampling=legacy_sampling)
    if name == "stereo_const":
        scene.Ts[:, scene.supp_idxs.index(0)] = scene.T_stereo
    else:  # a motion along rows would sample at whole rows, where bilinear sampling has no derivative
        learnt.append(scene.Ts.requires_grad_())
    noise = {"automask_noise": 0.0} if name.endswith("_recon") else {}
    loss = created(name, **kwargs, **noise)
    ours = {"": loss(scene)[0]}
    if loss.on_twin:
        ours["stereo_"] = loss(scene.stereo_twin())[0]
    theirs = reference.TERMS[name](step_of(scene), **kwargs)
    assert {key: value.item() for key, value in ours.items()} == pytest.approx(
        {key: value.item() for key, value in theirs.items()}, rel=1e-9
    )
    gradients = (torch.autograd.grad(sum(x.values()), learnt, allow_unused=True) for x in (ours, theirs))
    for a, e in zip(*gradients, strict=True):
        zero = torch.zeros(())
        torch.testing.assert_close(*(zero if g is None else g for g in (a, e)), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("photometric", options(loss_name=PHOTOMETRIC, use_min=SWITCH))
@pytest.mark.parametrize("loss_name", REGRESSIONS)
def test_hints_are_believed_by_the_same_photometric_error(loss_name, photometric):
    scene, _ = full_scene(torch.float64)
    loss = created("depth_regr", loss_name=loss_name, use_automask=True)
    loss.photometric = LOSSES.create("img_recon", **photometric)
    value, pictures = loss(scene)
    expected = reference.depth_regr(step_of(scene, photometric), loss_name, use_automask=True)[""]
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    assert 0.1 < pictures["masks/hints"].double().mean() < 0.6
