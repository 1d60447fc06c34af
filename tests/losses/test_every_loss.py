"""What holds for every loss of the registry: a new one is tested the moment it exists."""

from collections.abc import Mapping

import pytest
import torch

from tests.losses.scenes import SIZE, random_autoencoder, random_scene, stereo_scene
from trainer.losses import LOSSES
from trainer.losses.needs import NEEDS


def created(name, **kwargs):
    loss = LOSSES.create(name, **kwargs)
    if "img_recon" in loss.needs:
        loss.photometric = LOSSES.create("img_recon")
    return loss


def full_scene(dtype, b=2, constant=None, legacy_sampling=False):
    """A scene that offers whatever a loss may need, all of it learnable, and the tensors that learn."""
    torch.manual_seed(0)
    disp = {s: torch.rand(b, 1, SIZE[0] >> s, SIZE[1] >> s, dtype=dtype) for s in (0, 1)}
    disp_stereo = {s: torch.rand_like(d) for s, d in disp.items()}
    mask = {s: torch.rand(b, 2, *d.shape[2:], dtype=dtype) for s, d in disp.items()}
    extras = random_autoencoder(b, dtype=dtype)
    hints = 0.5 + 2 * torch.rand(b, 1, *SIZE, dtype=dtype)
    changes = {"depth_hints": hints * (torch.rand_like(hints) > 0.33)}
    changes["pseudo"] = torch.rand(b, 1, *SIZE, dtype=dtype, generator=torch.Generator().manual_seed(5)).sub(0.2).relu()
    if constant is not None:
        for tensor in (*disp.values(), *disp_stereo.values(), *mask.values(), *leaves(extras)):
            tensor.fill_(constant)
        changes["target"] = torch.full((b, 3, *SIZE), constant, dtype=dtype)
        changes["supports"] = torch.full((b, 2, 3, *SIZE), constant, dtype=dtype)
    seen = [torch.rand_like(disp[0]) if constant is None else torch.full_like(disp[0], constant) for _ in range(2)]
    window, factor = torch.tensor([[2.0, 0, -4], [0, 2, -2], [0, 0, 1]], dtype=dtype).repeat(b, 1, 1), [None, 2.0]
    changes["others"] = {
        name: random_scene(b, dtype=dtype, disp={0: d}, A=window, depth_factor=f and torch.full((b,), f, dtype=dtype))
        for name, d, f in zip(("high", "crop"), seen, factor, strict=True)
    }
    changes["travelled"] = torch.tensor([[0.9, 0.0], [1.4, 0.7]], dtype=dtype)[:b]
    changes["automask"] = torch.rand(b, 1, *SIZE, generator=torch.Generator().manual_seed(6)) < 0.5
    learnt = [*seen, *disp.values(), *disp_stereo.values(), *mask.values(), *leaves(extras)]
    for tensor in learnt:
        tensor.requires_grad_()
    predicted = {"disp": disp, "disp_stereo": disp_stereo, "mask": mask, "extras": extras}
    return stereo_scene(b, dtype=dtype, legacy_sampling=legacy_sampling, **predicted, **changes), learnt


def leaves(tree):
    if isinstance(tree, torch.Tensor):
        return [tree]
    return [leaf for item in (tree.values() if isinstance(tree, Mapping) else tree) for leaf in leaves(item)]


def variants(name):
    """The defaults, and every switch turned on that the loss accepts."""
    switches = [key for key, p in LOSSES.parameters(name).items() if p.annotation is bool]
    accepts = getattr(LOSSES.get(name), "validate_config", lambda kwargs: [])
    return [{}, *({key: True} for key in switches if not accepts({key: True}))]


CASES = [(name, kwargs) for name in LOSSES.names() for kwargs in variants(name)]


@pytest.mark.parametrize(("name", "kwargs"), CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gives_a_finite_number_and_finite_gradients(name, kwargs, dtype):
    scene, learnt = full_scene(dtype)
    learnt.append(scene.Ts.requires_grad_())
    value, pictures = created(name, **kwargs)(scene)
    assert value.shape == ()
    assert value.dtype == dtype
    assert value.isfinite()
    gradients = torch.autograd.grad(value, learnt, allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)
    assert all(g is None or g.isfinite().all() for g in gradients)
    for tag, picture in pictures.items():
        drawn = picture() if callable(picture) else picture
        assert drawn.ndim == 4, tag
        assert len(drawn) == 2, tag
        assert not drawn.requires_grad, tag


@pytest.mark.parametrize(("name", "kwargs"), CASES)
@pytest.mark.parametrize("constant", [0.0, 1.0])
def test_black_and_white_are_harmless(name, kwargs, constant):
    scene, learnt = full_scene(torch.float32, constant=constant)
    value, _ = created(name, **kwargs)(scene)
    assert value.isfinite()
    if value.requires_grad:
        gradients = torch.autograd.grad(value, learnt, allow_unused=True)
        assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize("name", LOSSES.names())
def test_a_relu_disparity_of_0_is_harmless(name):
    """It is infinitely far, in both views of a stereo pair, and learns nothing; the pixels around it do."""
    scene, learnt = full_scene(torch.float32)
    scene.min_depth, scene.max_depth = 1.0, None
    dead = {s: torch.rand_like(d) < 0.4 for s, d in scene.disp.items()}
    for disps in (scene.disp, scene.disp_stereo):
        for s, disp in disps.items():
            disp.data[dead[s]] = 0.0
    learnt.append(scene.Ts.requires_grad_())
    value, _ = created(name)(scene)
    assert value.isfinite()
    gradients = torch.autograd.grad(value, learnt, allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in gradients)


@pytest.mark.parametrize(("name", "kwargs"), CASES)
def test_needs_are_known_and_the_class_foretells_those_of_the_instance(name, kwargs):
    kind, needs = LOSSES.get(name), created(name, **kwargs).needs
    foretold = kind.needs_with(kwargs) if hasattr(kind, "needs_with") else kind.needs
    assert needs == foretold
    assert needs <= NEEDS.keys()


@pytest.mark.parametrize("name", LOSSES.names())
def test_has_no_state_and_documents_every_keyword(name):
    from trainer.config.resolve import entry_fields

    assert not created(name).state_dict()
    assert all(field.doc for field in entry_fields(LOSSES, name).values())


@pytest.mark.parametrize("name", LOSSES.names())
def test_a_misspelt_keyword_is_named(name):
    with pytest.raises(TypeError, match="wieght"):
        LOSSES.create(name, wieght=1.0)
