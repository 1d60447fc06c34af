"""Colour changes: torchvision's meaning, one draw for all images of an item, results in [0, 1]."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest
import torch
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from torchvision.transforms.v2 import functional as tv

from trainer.data import augment
from trainer.data.augment import Jitter, Trivial, draw, to_planes

NOISE = np.random.default_rng(0).integers(0, 256, (2, 9, 11, 3), dtype=np.uint8)


def constant(r, g, b):
    return np.full((1, 2, 3, 3), [r, g, b], np.uint8)


def jitter(brightness=1.0, contrast=1.0, saturation=1.0, hue=0.0, order=(0, 1, 2, 3)):
    return Jitter(brightness, contrast, saturation, hue, order)


def pixel(planes):
    assert np.ptp(planes, axis=(2, 3)).max() < 1e-6  # a constant image stays constant
    return planes[0, :, 0, 0]


def test_planes_are_the_picture_in_0_to_1():
    planes = to_planes(NOISE)
    assert planes.dtype == np.float32
    assert planes[1, 2, 3, 4] == np.float32(NOISE[1, 3, 4, 2]) / np.float32(255)


def test_brightness_multiplies_and_clips():
    assert pixel(jitter(brightness=1.2)(constant(100, 50, 250))) == pytest.approx([120 / 255, 60 / 255, 1.0])


def test_contrast_pulls_towards_the_mean_grey_of_the_image():
    image = np.zeros((1, 1, 2, 3), np.uint8)
    image[0, 0, 1] = 200  # mean 100
    assert jitter(contrast=0.8)(image)[0, 0, 0] * 255 == pytest.approx([20, 180], abs=0.05)


@pytest.mark.parametrize("turn", [-0.1, 0.05, 0.1])
@pytest.mark.parametrize("colour", [(255, 0, 0), (10, 200, 30), (3, 4, 250), (250, 3, 249), (7, 7, 7), (0, 0, 0)])
def test_hue_turns_the_colour_circle(colour, turn):
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    assert pixel(jitter(hue=turn)(constant(*colour))) == pytest.approx(
        colorsys.hsv_to_rgb((h + turn) % 1, s, v), abs=1e-5
    )


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)])
def test_jitter_is_torchvisions(order):
    steps = [
        lambda x: tv.adjust_brightness(x, 1.17),
        lambda x: tv.adjust_contrast(x, 0.83),
        lambda x: tv.adjust_saturation(x, 1.19),
        lambda x: tv.adjust_hue(x, -0.09),
    ]
    expected = torch.from_numpy(NOISE).permute(0, 3, 1, 2).float() / 255
    for i in order:
        expected = steps[i](expected)
    found = Jitter(1.17, 0.83, 1.19, -0.09, order)(NOISE)
    assert np.abs(found - expected.numpy()).max() < 1e-5


def step_by_step(jitter, image):
    """The meaning of a jitter in 64 bit, a picture (h w 3) at a time, every step clipped."""
    colours = image / 255
    weights = np.array([0.2989, 0.587, 0.114])
    for i in jitter.order:
        if i == 0:
            colours = jitter.brightness * colours
        elif i == 1:
            colours = jitter.contrast * colours + (1 - jitter.contrast) * (colours @ weights).mean()
        elif i == 2:
            colours = jitter.saturation * colours + (1 - jitter.saturation) * (colours @ weights)[..., None]
        else:
            hsv = rgb_to_hsv(colours)
            hsv[..., 0] = (hsv[..., 0] + jitter.hue) % 1
            colours = hsv_to_rgb(hsv)
        colours = colours.clip(0, 1)
    return colours.transpose(2, 0, 1)


@pytest.mark.parametrize("levels", [(0, 256), (0, 120), (90, 256), (60, 180), (255, 256)], ids=str)
@pytest.mark.parametrize("mirrored", [False, True])
def test_jitter_clips_wherever_its_steps_would(levels, mirrored, monkeypatch):
    monkeypatch.setattr(augment, "_BLOCK", 64)  # two blocks, the second one not full
    clips, clip = [], augment._clip
    monkeypatch.setattr(augment, "_clip", lambda *args, **limits: clips.append(clip(*args, **limits)))
    numbers = []
    for seed in range(150):
        rng = np.random.default_rng([seed, levels[0]])
        image = rng.integers(*levels, (9, 11, 3), dtype=np.uint8)[:, :: -1 if mirrored else 1]
        jitter = Jitter.draw(rng)
        (found,) = jitter(image[None])
        assert np.abs(found - step_by_step(jitter, image)).max() < 1e-6
        assert 0 <= found.min() <= found.max() <= 1
        numbers.append(len(clips))
        clips.clear()
    assert len(set(numbers)) > 1  # of blocks that were clipped: some draws need it, or need it more often


def test_jitter_gives_the_same_bits_on_any_number_of_threads():
    image = np.random.default_rng(3).integers(0, 256, (1, 192, 640, 3), dtype=np.uint8)[:, :, ::-1]
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 4):
            torch.set_num_threads(threads)
            results.append([Jitter.draw(np.random.default_rng(seed))(image) for seed in range(4)])
    finally:
        torch.set_num_threads(before)
    assert np.array_equal(*results)


@pytest.mark.parametrize("turn", [-1 / 6, -0.1, -0.02, 0.0, 0.03, 0.1, 1 / 6])
def test_hue_keeps_the_largest_and_smallest_channel_of_any_colour(turn):
    colours = np.random.default_rng(1).integers(0, 256, (200, 3))
    found = jitter(hue=turn)(colours.astype(np.uint8).reshape(1, 1, 200, 3))[0, :, 0].T
    for colour, pixel in zip(colours / 255, found, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*colour)
        assert pixel == pytest.approx(colorsys.hsv_to_rgb((h + turn) % 1, s, v), abs=1e-5)


def test_a_mirrored_picture_has_mirrored_planes():
    views = [image[:, ::-1] for image in NOISE]
    assert np.array_equal(to_planes(views), to_planes(NOISE)[..., ::-1])
    assert np.array_equal(jitter(1.1, 0.9, 1.2, 0.05)(views), jitter(1.1, 0.9, 1.2, 0.05)(np.ascontiguousarray(views)))


@pytest.mark.parametrize("name", Trivial.names)
@pytest.mark.parametrize("strength", [0, 15, 30])
def test_every_operation_keeps_shape_and_range_and_leaves_its_input_alone(name, strength):
    before = NOISE.copy()
    for sign in (-1, 1):
        planes = Trivial(name, strength, sign)(NOISE)
        assert planes.shape == (2, 3, 9, 11)
        assert planes.dtype == np.float32
        assert 0 <= planes.min() <= planes.max() <= 1
    assert np.array_equal(NOISE, before)


@pytest.mark.parametrize("name", ["Brightness", "Color", "Contrast", "Sharpness", "Posterize"])
def test_strength_0_changes_nothing(name):
    assert np.array_equal(Trivial(name, 0)(NOISE), to_planes(NOISE))


@pytest.mark.parametrize(
    ("operation", "before", "after"),
    [
        (Trivial("Brightness", 30, -1), 200, 2),  # factor 0.01
        (Trivial("Brightness", 10, 1), 100, 133),  # factor 1.33
        (Trivial("Posterize", 30), 255, 192),  # two bits left
        (Trivial("Posterize", 15), 255, 248),  # 8 - 3 = 5 bits left
        (Trivial("Solarize", 30), 200, 55),  # threshold 0: everything inverted
        (Trivial("Solarize", 15), 127, 127),  # threshold 127.5
        (Trivial("Solarize", 15), 128, 127),
    ],
)
def test_operations_by_hand_on_a_grey_image(operation, before, after):
    assert pixel(operation(constant(before, before, before))) * 255 == pytest.approx([after] * 3, abs=0.01)


def test_autocontrast_fills_the_range():
    image = np.array([50, 100, 150], np.uint8).reshape(1, 1, 3, 1).repeat(3, 3)
    assert Trivial("AutoContrast", 3)(image)[0, 0, 0] == pytest.approx([0, 0.5, 1], abs=0.003)


@pytest.mark.parametrize("strong", [False, True])
def test_one_draw_gives_equal_images_equal_colours(strong):
    item = np.stack([NOISE[0], NOISE[0], NOISE[0]])
    for seed in range(20):
        recolour = draw(np.random.default_rng(seed), strong).recolour
        if recolour is not None:
            planes = recolour(item)
            assert np.array_equal(planes[0], planes[1])
            assert np.array_equal(planes[0], planes[2])


@pytest.mark.parametrize(("strong", "share"), [(False, 0.5), (True, 0.7)])
def test_how_often_items_change(strong, share):
    draws = [draw(np.random.default_rng([1, i]), strong) for i in range(1000)]
    assert np.mean([d.flip for d in draws]) == pytest.approx(0.5, abs=0.05)
    assert np.mean([d.recolour is not None for d in draws]) == pytest.approx(share, abs=0.05)


def test_jitter_draws_within_its_limits_and_all_orders():
    draws = [Jitter.draw(np.random.default_rng(i)) for i in range(500)]
    factors = np.array([[d.brightness, d.contrast, d.saturation] for d in draws])
    hues = np.array([d.hue for d in draws])
    assert 0.8 <= factors.min() < 0.82
    assert 1.18 < factors.max() <= 1.2
    assert -0.1 <= hues.min() < -0.09
    assert 0.09 < hues.max() <= 0.1
    assert len({d.order for d in draws}) == 24


def test_trivial_draws_every_operation_strength_and_sign():
    draws = [Trivial.draw(np.random.default_rng(i)) for i in range(1000)]
    assert {d.name for d in draws} == set(Trivial.names)
    assert {d.strength for d in draws} == set(range(31))
    assert {d.sign for d in draws} == {-1, 1}
