"""The rules one by one, against numbers by hand and second formulas."""

from __future__ import annotations

import colorsys
import io

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from trainer.data.corruptions import blur, digital, noise, weather
from trainer.data.corruptions.frost_pictures import read_frost
from trainer.data.corruptions.kinds import corrupt
from trainer.runtime.errors import UserError

SIZE = (120, 200, 3)  # 72,000 draws
LEVELS_OF_NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)


def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def random_picture(h: int = 24, w: int = 40) -> np.ndarray:
    return rng().random((h, w, 3))


def flat(value: float) -> np.ndarray:
    return np.full(SIZE, value)


def spread(values: np.ndarray) -> tuple[float, float]:
    return float(values.mean()), float(values.std())


# Noise: mean and standard deviation of 72,000 draws, within 2 %


@pytest.mark.parametrize("sigma", LEVELS_OF_NOISE)
def test_gaussian_noise(sigma):
    mean, sd = spread(noise.gaussian(flat(0.5), rng(), sigma))
    assert (mean, sd) == (pytest.approx(0.5, abs=0.01), pytest.approx(sigma, rel=0.02))


@pytest.mark.parametrize("photons", [60, 25, 12, 5, 3])
def test_shot_noise(photons):
    mean, sd = spread(noise.shot(flat(0.2), rng(), photons))
    assert (mean, sd) == (pytest.approx(0.2, rel=0.02), pytest.approx((0.2 / photons) ** 0.5, rel=0.02))


@pytest.mark.parametrize("sigma", LEVELS_OF_NOISE)
def test_iso_noise(sigma):
    mean, sd = spread(noise.iso(flat(0.4), rng(), sigma))
    expected = (0.4 / 25 + (0.7 * sigma) ** 2) ** 0.5
    assert (mean, sd) == (pytest.approx(0.4, rel=0.02), pytest.approx(expected, rel=0.02))


@pytest.mark.parametrize("share", [0.03, 0.27])
def test_impulse_noise(share):
    changed = noise.impulse(flat(0.5), rng(), share)
    assert set(np.unique(changed)) == {0, 0.5, 1}
    for value in (0, 1):
        assert (changed == value).mean() == pytest.approx(share / 2, rel=0.1)


def test_dark():
    """Levels 0.2, 0.6, 1.0 are stretched to 0, 0.5, 1, squared and scaled to 0, c / 4, c."""
    x = np.repeat(np.array([0.2, 0.6, 1.0]), 24_000).reshape(SIZE)
    parts = noise.dark(x, rng(), 0.4, 12, 0.18).reshape(3, -1)
    for part, value in zip(parts, (0, 0.1, 0.4), strict=True):
        expected = (value / 120 + 0.018**2) ** 0.5
        assert spread(part) == (pytest.approx(value, abs=0.002), pytest.approx(expected, rel=0.02))
    assert noise.dark(flat(0.5), rng(), 0.4, 12, 0).max() == 0  # nothing to stretch


def test_a_level_reaches_the_bytes():
    made = corrupt(np.full((200, 300, 3), 127, np.uint8), "gaussian_noise", 1, seed=0, index=0)
    assert made.std() == pytest.approx(255 * 0.08, rel=0.02)


# Light and storage


def test_brightness_is_the_v_of_hsv():
    x = random_picture()
    x[0, 0] = 0  # has no hue
    made = digital.brightness(x, rng(), 0.3)
    for before, after in zip(x.reshape(-1, 3), made.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*before)
        assert after == pytest.approx(colorsys.hsv_to_rgb(h, s, min(v + 0.3, 1)), abs=1e-12)


def test_contrast():
    x = np.stack([np.array([[0.2, 0.6]])] * 2 + [np.array([[0.0, 1.0]])], axis=2)
    made = digital.contrast(x, rng(), 0.1)
    assert made[0, :, 0] == pytest.approx([0.38, 0.42])
    assert made[0, :, 2] == pytest.approx([0.45, 0.55])


@pytest.mark.parametrize(("bits", "expected"), [(5, [0, 8, 120, 248]), (2, [0, 0, 64, 192]), (1, [0, 0, 0, 128])])
def test_quantise(bits, expected):
    x = np.array([7, 13, 127, 255]).reshape(1, 4, 1).repeat(3, 2) / 255
    assert digital.as_bytes(digital.quantise(x, rng(), bits))[0, :, 0].tolist() == expected


def test_pixelate():
    x = np.zeros((4, 8, 3))
    x[:2, :2] = 200 / 255  # a box of its own
    x[2:, 6:7] = 100 / 255  # half of a box
    made = digital.as_bytes(digital.pixelate(x, rng(), 0.5))[..., 0]
    assert np.array_equal(made[:2], np.repeat([[200, 0, 0, 0]], 2, 0).repeat(2, 1))
    assert np.array_equal(made[2:], np.repeat([[0, 0, 0, 50]], 2, 0).repeat(2, 1))


def test_jpeg_is_that_of_pillow():
    x = random_picture()
    stored = io.BytesIO()
    Image.fromarray(digital.as_bytes(x)).save(stored, "JPEG", quality=15)
    expected = np.asarray(Image.open(stored, formats=("JPEG",)))
    assert np.array_equal(digital.as_bytes(digital.jpeg(x, rng(), 15)), expected)


def test_bytes_survive_the_way_through_fractions():
    grey = np.arange(256, dtype=np.uint8)
    assert np.array_equal(digital.as_bytes(grey / 255), grey)
    assert digital.as_bytes(np.array([-0.1, 0.4999, 1.2])).tolist() == [0, 127, 255]  # cut, not rounded


# Blur


@pytest.mark.parametrize(("radius", "sigma"), [(3, 0.1), (8, 0.5), (10, 0.5)])
def test_defocus_is_an_average_over_a_disk(radius, sigma):
    x = random_picture()
    made = blur.defocus(x, rng(), radius, sigma)
    reach = max(radius, 8)
    disk = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= radius
    taps = 1 if radius <= 8 else 2
    kernel = ndimage.gaussian_filter(disk.astype(float), sigma, mode="mirror", truncate=taps / sigma)
    expected = [ndimage.correlate(x[..., c], kernel / kernel.sum(), mode="mirror") for c in range(3)]
    np.testing.assert_allclose(made, np.stack(expected, axis=2), atol=1e-9)


def test_glass_exchanges_pixels_nearby(monkeypatch):
    monkeypatch.setattr(blur, "_smoothed", lambda x, sigma: x)
    x = np.arange(20 * 30 * 3, dtype=float).reshape(20, 30, 3)
    made = blur.glass(x, rng(), 1, 2, 1)
    assert np.array_equal(np.sort(made.ravel()), x.ravel())
    assert (made != x)[2:-2, 2:-2].any(axis=2).mean() > 0.8
    assert np.array_equal(made[:, -1], x[:, -1])  # no exchange begins there, and offsets are below 2


@pytest.mark.parametrize("degrees", [0, 90])
def test_motion_blurs_to_one_side(degrees):
    x = np.zeros((31, 31))
    x[15, 15] = 1
    made = blur.along(x, 3, 2.0, degrees)
    weights = np.exp(-(np.arange(7) ** 2) / 8)
    line = made[15] if degrees == 0 else made[:, 15]
    assert line[9:16][::-1] == pytest.approx(weights / weights.sum())
    assert made.sum() == pytest.approx(1)


def test_motion_repeats_the_border():
    np.testing.assert_allclose(blur.along(flat(0.3), 5, 3, 30), 0.3)


def test_enlarging_about_the_centre():
    ramp = np.arange(9.0)[None].repeat(5, 0)
    assert blur.enlarged(ramp, 2)[2] == pytest.approx(4 + (np.arange(9) - 4) / 2)


def test_zoom_is_the_mean_of_enlargements():
    """A ramp about the centre: slopes 1, and 1, 1 / 1.05, .., 1 / 1.15 below 1.2."""
    ramp = np.broadcast_to((np.arange(41.0) - 20)[None, :, None], (5, 41, 3))
    slopes = [1, 1, 1 / 1.05, 1 / 1.1, 1 / 1.15]
    assert blur.zoom(ramp, rng(), 1.2, 0.05) == pytest.approx(ramp * np.mean(slopes))
    for end, step, count in ((1.11, 0.01, 11), (1.16, 0.01, 16), (1.21, 0.02, 11), (1.26, 0.02, 13), (1.31, 0.03, 11)):
        slopes = [1, *(1 / (1 + i * step) for i in range(count))]
        assert blur.zoom(ramp, rng(), end, step) == pytest.approx(ramp * np.mean(slopes))


def test_elastic_moves_pixels_by_smooth_offsets():
    h, w = 96, 160
    ramp = np.broadcast_to(np.arange(float(w))[None, :, None], (h, w, 3))
    moved = digital.elastic(ramp, rng(), 0.1)[8:-8, 16:-16, 0] - ramp[8:-8, 16:-16, 0]
    # The mean of U(-a, a) over a Gaussian window has the standard deviation a / sqrt(3) / sqrt(4 pi sigma_y sigma_x).
    expected = 25 * 0.005 * h / 3**0.5 / (4 * np.pi * 0.01 * h * 0.01 * w) ** 0.5
    assert moved.std() == pytest.approx(expected, rel=0.1)
    np.testing.assert_allclose(digital.elastic(flat(0.4), rng(), 0.1), 0.4)


# Weather


def test_plasma_fills_the_unit_interval_and_is_rougher_with_less_decay():
    clouds = [weather.plasma(rng(), 128, decay) for decay in (2, 1.4)]
    smooth, rough = (np.abs(np.diff(cloud, axis=1)).mean() for cloud in clouds)
    assert all((cloud.min(), cloud.max()) == (0, 1) for cloud in clouds)
    assert rough > 2 * smooth
    across = np.abs(clouds[0][:, 0] - clouds[0][:, -1]).mean()
    assert across < 3 * smooth  # left and right border meet


def test_fog_by_hand(monkeypatch):
    sizes = []
    monkeypatch.setattr(weather, "plasma", lambda rng, size, decay: sizes.append(size) or np.full((size, size), 0.5))
    x = np.array([0.0, 0.4, 0.8]).reshape(1, 3, 1).repeat(3, 2)
    assert weather.fog(x, rng(), 2, 1.5)[0, :, 0] == pytest.approx((x[0, :, 0] + 1) * 0.8 / 2.8)
    weather.fog(np.ones((192, 640, 3)), rng(), 2, 1.5)
    assert sizes == [4, 1024]


def test_snow_whitens_and_falls():
    black, white = (weather.snow(flat(v)[:30, :50], rng(), 0.1, 0.3, 3, 0.5, 10, 4, 0.8) for v in (0.0, 1.0))
    assert white.min() >= 1  # stays white
    assert black.min() == pytest.approx(0.2 * 0.5)  # 0.2 of the grey of 0.5 that black becomes
    flakes = black - black.min()
    assert flakes.max() > 0.3
    np.testing.assert_allclose(flakes[::-1, ::-1], flakes, atol=1e-12)  # turned by half a circle, too
    fine = weather.snow(flat(0.0), rng(), 0.1, 0.3, 3, 1.6, 10, 4, 0.8)
    assert fine.max() == pytest.approx(0.1)  # flakes below the threshold do not fall


@pytest.mark.parametrize("size", [(300, 400), (20, 30)])
def test_frost_of_a_picture(size):
    ice = np.full((*size, 3), 102, np.uint8)
    np.testing.assert_allclose(weather.frost(flat(0.5), rng(), 0.7, 0.6, [ice]), 0.35 + 0.24)


def test_frost_takes_one_of_the_pictures_and_a_random_part():
    y, x = np.mgrid[:150, :250]
    steps = np.stack([y, x, 0 * x + 90], axis=2).astype(np.uint8)
    parts = [weather.frost(flat(0), np.random.default_rng(i), 0, 1, [steps, steps[..., ::-1]]) for i in range(9)]
    assert {round(float(255 * part[0, 0, 2])) == 90 for part in parts} == {True, False}
    assert len({part.tobytes() for part in parts}) == 9


def test_frost_of_our_own_is_a_texture():
    ice = weather.frost_texture(rng(), 96, 320)
    assert ice.shape == (96, 320, 3)
    assert (ice.min() >= 0, ice.max() <= 1, 0.2 < ice.mean() < 0.7, ice.std() > 0.1) == (True,) * 4


def test_pictures_of_frost_are_read_from_a_folder(tmp_path):
    for i in range(1, 5):
        Image.new("RGB", (30, 20), (i, 0, 0)).save(tmp_path / f"frost{i}.{'png' if i < 4 else 'jpg'}")
    with pytest.raises(UserError, match="holds 4 of the pictures of frost"):
        read_frost(tmp_path)
    Image.new("RGB", (30, 20), (5, 0, 0)).save(tmp_path / "frost5.jpg")
    Image.new("RGB", (30, 20), (6, 0, 0)).save(tmp_path / "frost6.jpg")
    assert [picture[0, 0, 0] for picture in read_frost(tmp_path)] == pytest.approx([1, 2, 3, 4, 5], abs=1)
    (tmp_path / "frost2.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"frost2\.png is not a readable picture"):
        read_frost(tmp_path)
