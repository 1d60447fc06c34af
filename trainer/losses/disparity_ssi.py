"""Distillation: disparity should equal a teacher's up to the scale and shift of each picture, which nobody knows.

NimbleD, arXiv:2408.14177; MiDaS, arXiv:1907.01341 (the other forms, gradient matching). To leave out what
the pictures contradict is not published.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models_zoo.registry import did_you_mean
from trainer.geometry import disp_to_depth
from trainer.geometry.precision import full_precision
from trainer.geometry.scene import Pictures, Scene, resize
from trainer.losses import LOSSES
from trainer.losses.reconstruction import Reconstruction

Form = Literal["nimbled", "mae", "trimmed", "mse"]

LEVELS = 4  # of gradient matching: every 1st, 2nd, 4th and 8th pixel
LEAST = 1e-6  # smallest deviation that a map is divided by, and part of the range
# Of the photometric error, in [0, 1]. Without a margin half of the pixels are left out by chance where both are right
# or there is no texture; with a window, plain parts of a wrong surface share the fate of textured ones around them.
MARGIN, WINDOW = 0.01, 5
# Depths that a teacher's has to stand against, times its own: a student that has learned its error cannot show it.
RIVALS = (1 / 3, 0.6, 1.7, 3.0)


@LOSSES.register("disp_ssi")
class ScaleShiftInvariantDisparity(nn.Module):
    """Distance of the disparity of every scale from a teacher's, after both lose their scale and shift per picture.

    The disparity is upsampled to full resolution first. Statistics and errors are of the pixels where the teacher has a
    value. The mean is over pixels, then pictures, then scales; a picture without a value counts 0.

    Args:
        form: nimbled: median 0 and mean absolute deviation 1 for both maps, and the mean absolute difference; mae: half
            of that, without a constant in the range; trimmed: mae without the largest fifth of the differences, as in
            MiDaS; mse: half the mean square after a least-squares fit of the prediction to the teacher.
        gradient: weight of gradient matching over 4 levels, 0.5 in MiDaS; 0 = none.
        trust: photometric: only where the supports, warped with the teacher's depth, look no less like the target than
            warped with the prediction, or with far more or less depth. Compared as `img_recon` does, with its loss_name
            and use_min. null: everywhere.
    """

    source: ClassVar[str] = "NimbleD, arXiv:2408.14177; MiDaS, arXiv:1907.01341"
    needs: frozenset[str] = frozenset({"pseudo"})
    on_twin = False

    def __init__(self, form: Form = "nimbled", gradient: float = 0.0, trust: Literal["photometric"] | None = None):
        super().__init__()
        if problems := self.validate_config({"form": form, "gradient": gradient, "trust": trust}):
            raise ValueError("; ".join(problems))
        self.form, self.gradient, self.trust = form, gradient, trust
        self.needs = self.needs_with({"trust": trust})
        self.photometric: Reconstruction | None = None  # img_recon, set by the objective

    @classmethod
    def validate_config(cls, kwargs: Mapping[str, Any]) -> list[str]:
        """List options without a meaning."""
        form, gradient, trust = kwargs.get("form", "nimbled"), kwargs.get("gradient", 0.0), kwargs.get("trust")
        problems = []
        if form not in get_args(Form):
            problems.append(f"form {form!r} is not a form of disp_ssi. {did_you_mean(str(form), get_args(Form))}")
        if gradient < 0:
            problems.append(f"gradient must not be negative, got {gradient}")
        if trust not in (None, "photometric"):
            problems.append(f"trust must be photometric or null, got {trust!r}")
        return problems

    @classmethod
    def needs_with(cls, kwargs: Mapping[str, Any]) -> frozenset[str]:
        return cls.needs | ({"supports", "img_recon"} if kwargs.get("trust") else set())

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over pixels, pictures and scales, and with `trust` where the teacher is believed.

        Raises ValueError when the scene has no pseudo-labels, or `trust` has no photometric error.
        """
        if scene.pseudo is None:
            raise ValueError("disp_ssi: this scene has no disparity of a teacher, set dataset.use_pseudo: true")
        pseudo = full_precision(scene.pseudo).detach()
        valid = (pseudo > 0) & (pseudo < torch.inf)
        pseudo = torch.where(valid, pseudo, 0.0)
        pictures: Pictures = {}
        if self.trust:
            valid = valid & self._is_trusted(scene, pseudo, valid)
            pictures["masks/trust"] = valid
        target = pseudo if self.form == "mse" else self._normalised(pseudo, valid)
        terms = []
        for scale in scene.scales:
            disp = resize(scene.disp[scale], scene.size)
            difference = (fitted(disp, target, valid) if self.form == "mse" else self._normalised(disp, valid)) - target
            term = self._reduced(difference, valid)
            if self.gradient:
                term = term + self.gradient * gradient_matching(difference, valid)
            terms.append(term.mean())
        return torch.stack(terms).mean(), pictures

    def _is_trusted(self, scene: Scene, pseudo: Tensor, valid: Tensor) -> Tensor:
        """Return where (b 1 h w) the pictures do not contradict the teacher.

        Its disparity is given median and deviation of the prediction at scale 0, so that its depth can warp the
        supports. It is refused where a rival, the prediction or the teacher's depth times one of `RIVALS`, explains the
        target better by more than a margin, over a window; but not where unwarped supports do as well, as on what moves
        with the camera, where the error speaks for infinite depth.
        """
        photometric = self.photometric
        if photometric is None:
            raise ValueError("trust needs the photometric error of img_recon: add loss.img_recon")
        with torch.no_grad():
            _, middle, _, deviation = statistics(scene.disp[0], valid)
            aligned = (normalised(pseudo, valid) * deviation + middle).clamp_min(0)
            depth = disp_to_depth(aligned, scene.min_depth, scene.max_depth)
        of_teacher, (of_prediction,) = photometric.compared(scene, depth, (0,))
        with torch.no_grad():
            compare = photometric.against(scene.target)
            unwarped = photometric.combine([compare(scene.support(i)) for i in range(scene.n_supports)], None)
            rivals = [of_prediction, *(photometric.compared(scene, factor * depth, ())[0] for factor in RIVALS)]
            best = torch.stack([smoothed(error) for error in rivals]).amin(0)
            return torch.minimum(smoothed(of_teacher), smoothed(unwarped)) <= best + MARGIN

    def _normalised(self, x: Tensor, valid: Tensor) -> Tensor:
        return normalised(x, valid, by_range=self.form == "nimbled")

    def _reduced(self, difference: Tensor, valid: Tensor) -> Tensor:
        """Reduce differences (b 1 h w) over valid pixels to one value per picture (b)."""
        count = valid.flatten(1).sum(1)
        error = torch.where(valid, difference, 0.0).flatten(1)
        error = error.square() if self.form == "mse" else error.abs()
        if self.form == "trimmed":  # the smallest int(0.8 count), over the number of all
            ranked = error.masked_fill(~valid.flatten(1), torch.inf).sort(1).values
            kept = torch.arange(ranked.shape[1], device=ranked.device) < (4 * count // 5)[:, None]
            error = torch.where(kept, ranked, 0.0)
        return error.sum(1) / (count.clamp_min(1) * (1 if self.form == "nimbled" else 2))


def statistics(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return minimum, median, maximum, and mean absolute deviation from the median of each map, (b 1 1 1) each.

    x (b 1 h w); only pixels that are valid (bool alike) count, in a map without any all of them. Of an even number of
    values the lower middle one is the median.
    """
    flat, among = x.flatten(1), valid.flatten(1)
    among = among | ~among.any(1, keepdim=True)
    last = among.sum(1, keepdim=True) - 1
    # Sorting is deterministic on every device, waits for none, and gives all three at once.
    ranked = flat.masked_fill(~among, torch.inf).sort(1).values
    low, median, high = ranked[:, :1], ranked.gather(1, last // 2), ranked.gather(1, last)
    deviation = torch.where(among, (flat - median).abs(), 0.0).sum(1, keepdim=True) / (last + 1)
    low, median, high, deviation = (value[..., None, None] for value in (low, median, high, deviation))
    return low, median, high, deviation


def normalised(x: Tensor, valid: Tensor, by_range: bool = False) -> Tensor:
    """Shift and scale each map x (b 1 h w) to a median of 0 and a mean absolute deviation of 1 over its valid pixels.

    `by_range` divides by the range, plus 1e-6, first. A deviation counts as at least 1e-6. Gradients flow through all
    of these statistics.
    """
    low, median, high, deviation = statistics(x, valid)
    extent = high - low + LEAST if by_range else torch.ones_like(low)
    return (x - median) / extent / (deviation / extent).clamp_min(LEAST)


def fitted(x: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Scale and shift each map x (b 1 h w) to fit `target` best, in least squares over its valid pixels (bool)."""
    flat, wanted, among = (t.flatten(1) for t in (x, target, valid))
    count = among.sum(1, keepdim=True).clamp_min(1)

    def mean(values: Tensor) -> Tensor:
        return torch.where(among, values, 0.0).sum(1, keepdim=True) / count

    off = flat - mean(flat)
    slope = mean(off * wanted) / mean(off.square()).clamp_min(LEAST**2)
    return (slope * off + mean(wanted)).view_as(x)


def gradient_matching(difference: Tensor, valid: Tensor) -> Tensor:
    """Sum the absolute gradients of differences (b 1 h w) of two maps over 4 levels, one value per picture (b).

    Level k takes every 2**k-th pixel, counts steps between two valid ones, and is divided by its number of valid
    pixels. MiDaS, arXiv:1907.01341, sec. 5.
    """
    levels = []
    for stride in (2**k for k in range(LEVELS)):
        r, known = difference[..., ::stride, ::stride], valid[..., ::stride, ::stride]
        along_x = torch.where(known[..., 1:] & known[..., :-1], r[..., 1:] - r[..., :-1], 0.0)
        along_y = torch.where(known[..., 1:, :] & known[..., :-1, :], r[..., 1:, :] - r[..., :-1, :], 0.0)
        total = along_x.abs().flatten(1).sum(1) + along_y.abs().flatten(1).sum(1)
        levels.append(total / known.flatten(1).sum(1).clamp_min(1))
    return torch.stack(levels).sum(0)


def smoothed(x: Tensor) -> Tensor:
    """Average x (b 1 h w) over a window, its border repeated."""
    return F.avg_pool2d(F.pad(x, (WINDOW // 2,) * 4, mode="replicate"), WINDOW, 1)
