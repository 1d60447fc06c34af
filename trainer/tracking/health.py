"""The health watch: detects the known failures of self-supervised depth while a run trains.

`look` measures one micro-batch on its device, without transfers, random draws or gradients. `judge` turns the measured
numbers, equal on all processes, into warnings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.types import Batch, StepOutput

# A fresh network is nearly constant, its pose nearly the identity, and a healthy run can take tens of steps to leave
# both. A single batch of odd pictures is no failure either.
GRACE_STEPS = 100  # optimizer steps of a run before its networks are judged
LOOKS = 3  # looks in a row that must agree, but for a network that is dead

CONSTANT_DISPARITY = 1e-3  # std / mean of a picture
LIKE_A_CONSTANT = 0.995  # times the AbsRel of a constant depth: 1.00 as it is printed
ONE_DEPTH = 1.02  # 95th over 5th percentile of a picture: 1.03 to 1.2 for fresh networks, 2 to 20 later
AT_THE_LIMIT = 1.25  # factor from a limit of depth, as in the accuracy Acc
AT_LIMIT_SHARE = 0.95  # of the pixels: sky fills half a picture at most
# Without a far limit, depth is min_depth / disparity. A sigmoid below 1e-4 has a slope below 1e-4: it hardly learns.
RUNAWAY = 1e4  # times min_depth
DEAD = 1e6  # depth of a ReLU disparity that is 0 for all that matters, and so is its gradient
RUNAWAY_SHARE = 0.5  # of the pixels: the median depth has run away
# Of the true depth of busy synthetic streets and corridors 0.6 % at most lie so far behind the median of their row.
HOLE_FACTOR = 4.0
HOLE_SHARE = 0.03  # of the lower half
IDENTITY_PIXELS = 0.02  # no picture changes by so small a motion; healthy runs begin above 0.04
AUTOMASK_REMOVED = 0.95  # of the pixels: 0.2 to 0.86 where the camera moves, 0.96 and more where it stands
CAMERA_SPREAD = 0.2  # standard deviation over mean of a learned focal length
PIXEL_SHAPE = 0.1  # by which the shape of the pixels of a learned camera may differ from that of the data's
# Pixels by which 10 % of the focal lengths change the motion of a corner, see `trainer.metrics.camera`. A warp that is
# off by less than this hardly changes a picture. At 192 pixels and 82 degrees: a third of a degree between two frames.
BEND_PIXELS = 0.1
WAITING_SHARE = 0.3  # of the time of an epoch
WAITING_SECONDS = 10.0  # of an epoch; less is the start of the workers
SLOWER = 1.5  # times what the other processes take a step on average, each by itself
SLOWER_MS = 10.0  # and by so much: in small steps chance decides

_AT_A_LIMIT = {"exploding depth", "collapsed depth"}  # kinds of warnings

# Shared remedies.
_RATE = "optimizer.lr: a tenth of what it is, or trainer.gradient_clip_val: 1"
_FROM_SCRATCH = "for a new run, loss.img_recon.automask_below: 0.5 and net.depth.init_disp: null"
_MOVING = "leave out frames without motion (dataset.split_file, dataset.frame_gap: 2)"


class Health:
    """Watch one start of a run and warn once of each kind of trouble.

    Args:
        min_depth, max_depth: limits of the predicted depth in its own units; infinity = no far limit; 0 = none at all,
            as of a ReLU disparity.
    """

    def __init__(self, min_depth: float = 0.1, max_depth: float = 100.0):
        self.min_depth, self.max_depth = min_depth, max_depth
        self.is_bounded = math.isfinite(max_depth)
        self.near = AT_THE_LIMIT * min_depth
        self.far = max_depth / AT_THE_LIMIT if self.is_bounded else RUNAWAY * min_depth or DEAD
        self.variation = math.nan  # of the disparity at the latest look
        self._in_a_row: dict[str, int] = {}
        self._validations: dict[str, int] = {}  # in a row, like `_in_a_row`
        self._slow: dict[str, int] = {}  # likewise, by process
        self._warned: set[str] = set()

    @torch.no_grad()
    def look(self, output: StepOutput, batch: Batch) -> dict[str, Tensor]:
        """Measure one micro-batch: scalars by name, means over its items, left on their device.

        - disp_variation: std / mean of 1 / depth of a picture.
        - depth_near, depth_far: share of pixels within a factor 1.25 of min_depth and of max_depth; without a far
          limit, beyond 1e4 min_depth, or 1e6 without limits.
        - depth_median; depth_spread: 95th over 5th percentile of a picture.
        - holes: share of the lower half, which shows ground and objects, covered by blobs beyond 4 times the median of
          their row or at the far limit. Objects that move with the camera look infinitely far: Monodepth2,
          arXiv:1806.01260, sec. 3.2 and 4.
        - pose_parallax, pose_rotation (with a pose network): pixels by which the predicted translation moves a point
          at the median depth, and the predicted rotation the centre.
        - trusted (with `trust` in disp_ssi): share of pixels where the teacher is believed.
        - automask_removed (with an automask in img_recon): share of pixels that a support explains better unwarped.
        """
        depth = output.predictions["depth"][0].float()[..., ::2, ::2]  # a quarter of the pixels is enough
        disp = 1 / depth.flatten(1)  # that of a dead sigmoid, 1e-9, varies in proportion
        ranked = depth.flatten(1).sort(1).values
        low, median, high = (ranked[:, int(q * (ranked.shape[1] - 1))] for q in (0.05, 0.5, 0.95))
        seen = {
            "disp_variation": (disp.std(1) / disp.mean(1).clamp(min=1e-12)).mean(),
            "depth_near": (depth < self.near).float().mean(),
            "depth_far": (depth > self.far).float().mean(),
            "depth_median": median.mean(),
            "depth_spread": (high / low).mean(),
            "holes": holes(depth, self.far),
        }
        K = output.predictions.get("K", batch.get("K"))
        if "t" in output.predictions and K is not None:
            focal = K[:, :1, 0]
            shift = output.predictions["t"].norm(dim=-1) / median[:, None]
            seen["pose_parallax"] = (focal * shift).mean()
            seen["pose_rotation"] = (focal * output.predictions["R"].norm(dim=-1)).mean()
        of_losses = getattr(output.make_images, "of_losses", {})
        kept, trusted = (of_losses.get(f"masks/{name}") for name in ("automask", "trust"))
        if isinstance(kept, Tensor):
            seen["automask_removed"] = 1 - kept.float().mean()
        if isinstance(trusted, Tensor):
            seen["trusted"] = trusted.float().mean()
        return seen

    def judge(self, values: Mapping[str, float], waiting_share: float, *, waited: float, step: int) -> list[str]:
        """Return new warnings about a look. What lies at a limit and is constant, too, is dead: one look is enough.

        Args:
            values: the values of `look`, averaged over processes.
            waiting_share: share of this epoch spent waiting for data, `waited` seconds.
            step: optimizer steps since the run began, including those before a resume.
        """
        found = {**self._of_depth(values), **_of_motion(values)} if step >= GRACE_STEPS else {}
        if waiting_share > WAITING_SHARE and waited > WAITING_SECONDS:
            found["data"] = _data_bound(waiting_share, waited)
        self.variation = values["disp_variation"]
        dead = _AT_A_LIMIT if self.variation < CONSTANT_DISPARITY else set()
        self._in_a_row = {kind: self._in_a_row.get(kind, 0) + 1 for kind in found}
        return self._new({kind: text for kind, text in found.items() if self._in_a_row[kind] >= LOOKS or kind in dead})

    def judge_processes(self, own: Sequence[float]) -> list[str]:
        """Return a warning when one process holds up the others, once for each.

        own: milliseconds that a step takes each process by itself, by rank: loading, computing on its CPU, launching
            work for its GPU, but not waiting for others, nor for the GPU.
        """
        slowest = max(range(len(own)), key=lambda rank: own[rank])
        others = (sum(own) - own[slowest]) / max(len(own) - 1, 1)
        is_slow = len(own) > 1 and own[slowest] > max(SLOWER * others, others + SLOWER_MS)
        kind = f"process {slowest}"
        self._slow = {kind: self._slow.get(kind, 0) + 1} if is_slow else {}
        return self._new({kind: _slow(slowest, own[slowest], others)} if self._slow.get(kind, 0) >= LOOKS else {})

    def judge_validation(self, disp_variation: float, step: int) -> list[str]:
        """Return a warning when the disparity (std / mean) is constant on all validation data after `step` steps.

        One look at all data is enough. No warning after one of depth at a limit, which implies this one.
        """
        is_constant = disp_variation < CONSTANT_DISPARITY  # False for NaN: nothing was validated
        if step < GRACE_STEPS or not is_constant or _AT_A_LIMIT & self._warned:
            return []
        return self._new({"constant disparity": _constant(disp_variation)})

    def judge_camera(self, spread: float, bend: float, stretch: float, *, step: int, is_last: bool) -> list[str]:
        """Return new warnings about a learned camera measured in validation: three in a row agree, or the last says so.

        Args:
            spread: standard deviation over mean of the focal length.
            bend: pixels by which an error of 10 % of it would show in a corner, see `trainer.metrics.camera`.
            stretch: fx / fy over that of the data; NaN = not known.
            step: optimizer steps since the run began.
            is_last: no training follows.
        """
        found: dict[str, str] = {}
        if step < GRACE_STEPS:
            return []
        if spread > CAMERA_SPREAD:
            found["camera spread"] = _spread(spread)
        if bend < BEND_PIXELS:
            found["camera unseen"] = _unseen(bend)
        if not 1 / (1 + PIXEL_SHAPE) <= stretch <= 1 + PIXEL_SHAPE and not math.isnan(stretch):
            found["camera pixels"] = _pixels(stretch)
        self._validations = {kind: self._validations.get(kind, 0) + 1 for kind in found}
        return self._new({kind: text for kind, text in found.items() if is_last or self._validations[kind] >= LOOKS})

    def _new(self, found: Mapping[str, str]) -> list[str]:
        new = {kind: text for kind, text in found.items() if kind not in self._warned}
        self._warned.update(new)
        return list(new.values())

    def _of_depth(self, values: Mapping[str, float]) -> dict[str, str]:
        """Check the range of depth. Each failure implies the later ones, which are then not reported."""
        if values["depth_far"] > (AT_LIMIT_SHARE if self.is_bounded else RUNAWAY_SHARE):
            return {"exploding depth": self._exploding(values)}
        if values["depth_near"] > AT_LIMIT_SHARE:
            return {"collapsed depth": self._collapsed(values)}
        if values["disp_variation"] < CONSTANT_DISPARITY:
            return {"constant disparity": _constant(values["disp_variation"])}
        if values["depth_spread"] < ONE_DEPTH:
            return {"one depth": _one_depth(values)}
        return {"holes": _holes(values["holes"])} if values["holes"] > HOLE_SHARE else {}

    def _exploding(self, values: Mapping[str, float]) -> str:
        share = f"{values['depth_far']:.0%} of the pixels"
        median = f"median depth {values['depth_median']:.3g}"
        if self.min_depth == 0:
            return (
                f"warning: the disparity has died: it is 0 at {share}, where a ReLU (net.depth.activation: relu) learns"
                " nothing. Usual causes: a new head that starts below 0, or too high a learning rate. Set"
                f" net.depth.init_disp: 0.1 for a new run; {_RATE}; or net.depth.activation: sigmoid."
            )
        if self.is_bounded:
            where = f"lie at trainer.max_depth: {self.max_depth:g} (beyond {self.far:.3g}, {median})"
            limits = "trainer.max_depth higher (100) and trainer.min_depth lower (0.1) if the scene is not that far"
        else:
            where = f"are farther than {self.far:.3g} ({RUNAWAY:g} times trainer.min_depth, {median})"
            limits = "trainer.max_depth: 100, so that depth has an end"
        return (
            f"warning: the depth explodes: {share} {where}. Usual causes: an automask that leaves a young pose network"
            " nothing to learn from, too high a learning rate, limits that do not fit, supports that show the target"
            f" again. Remedies: {_FROM_SCRATCH}; {_RATE}; {limits}."
        )

    def _collapsed(self, values: Mapping[str, float]) -> str:
        return (
            f"warning: the depth has collapsed: {values['depth_near']:.0%} of the pixels lie at trainer.min_depth:"
            f" {self.min_depth:g} (nearer than {self.near:.3g}, median depth {values['depth_median']:.3g}). Usual"
            " causes: a camera that stands still, a pose network or an automask that leaves nothing to learn from, too"
            f" high a learning rate, limits that do not fit. Remedies: {_MOVING}; {_FROM_SCRATCH}; {_RATE};"
            " trainer.min_depth: 0.1."
        )


def learned(metrics: Mapping[str, float], step: int) -> tuple[str | None, float | None]:
    """Say why a network has learned nothing, and how its error compares with that of a constant depth.

    Args:
        metrics: of a validation, as checkpoints keep them; "disp_variation" alone also of a look.
        step: optimizer steps done; before GRACE_STEPS the words are "nothing yet".

    Returns:
        the reason, None when something was learned or nothing is known; AbsRel over "constant_AbsRel", None without
        ground truth.
    """
    error, constant, variation = (metrics.get(k, math.nan) for k in ("AbsRel", "constant_AbsRel", "disp_variation"))
    ratio = error / constant if constant > 0 and math.isfinite(error) else None
    nothing = "nothing" if step >= GRACE_STEPS else "nothing yet"
    if variation < CONSTANT_DISPARITY:
        return f"{nothing}: the depth is the same everywhere (std / mean of the disparity {variation:.1e})", ratio
    if ratio is not None and ratio >= LIKE_A_CONSTANT:
        return f"{nothing}: AbsRel {error:.3f} is {ratio:.2f} times that of a constant depth ({constant:.3f})", ratio
    return None, ratio


def holes(depth: Tensor, far: float) -> Tensor:
    """Return the share of the lower half of depth (b 1 h w) in blobs beyond `far` or 4 medians of the row.

    A blob covers at least 3x3 pixels; anything smaller is noise at edges.
    """
    ground = depth[..., depth.shape[-2] // 2 :, :]
    ranked = ground.sort(-1).values
    of_row = ranked[..., (ranked.shape[-1] - 1) // 2, None]
    is_far = ((ground > HOLE_FACTOR * of_row) | (ground > far)).float()
    inside = -F.max_pool2d(-is_far, 3, 1, 1)
    return F.max_pool2d(inside, 3, 1, 1).mean()


def _of_motion(values: Mapping[str, float]) -> dict[str, str]:
    found = {}
    if values.get("pose_parallax", math.inf) + values.get("pose_rotation", math.inf) < IDENTITY_PIXELS:
        found["identity pose"] = (
            "warning: the pose network predicts no motion: its translation moves the picture by"
            f" {values['pose_parallax']:.2g} pixels at the median depth, its rotation by"
            f" {values['pose_rotation']:.2g}. Usual causes: a camera that stands still, supports that repeat the"
            " target, a pose network that learns too slowly, or one that died of too high a learning rate. Set"
            " optimizer.group_lr: {pose: 1e-3} for a network from scratch, or net.pose.pretrained: true;"
            f" {_MOVING}."
        )
    if values.get("automask_removed", 0.0) > AUTOMASK_REMOVED:
        found["automask"] = (
            f"warning: the automask removes {values['automask_removed']:.1%} of the pixels; the rest teaches"
            " little. Usual causes: a camera that stands still, or a pose that explains nothing yet."
            f" Remedies: {_MOVING}; {_FROM_SCRATCH}."
        )
    return found


def _constant(variation: float) -> str:
    return (
        f"warning: the disparity is constant (std / mean {variation:.1e}): the network sees no depth. Usual causes:"
        " trainer.min_depth too large for video without stereo (use 0.1), a camera that stands still, or too high a"
        f" learning rate. Set {_RATE}; {_MOVING}."
    )


def _one_depth(values: Mapping[str, float]) -> str:
    return (
        f"warning: nearly everything is predicted at one depth: {values['depth_median']:.3g}, and 90 % of a picture"
        f" within a factor {values['depth_spread']:.3f}. Usual causes: limits that do not fit, a camera that stands"
        " still or only turns, smoothness that outweighs the pictures. Set trainer.min_depth: 0.1 and"
        f" trainer.max_depth: 100, loss.disp_smooth.weight: 0.001; {_MOVING}."
    )


def _holes(share: float) -> str:
    return (
        f"warning: holes of infinite depth: {share:.1%} of the lower half of the pictures are blobs far behind the"
        " rest of their rows. Usual cause: objects that move with the camera (a car ahead) look infinitely far."
        " Set loss.img_recon.use_automask: true and loss.img_recon.use_min: true, add stereo supports"
        " (dataset.supp_idxs: [-1, 1, 0]) where there are any, or leave such drives out (dataset.split_file)."
    )


def _spread(spread: float) -> str:
    return (
        f"warning: the learned focal length varies by {spread:.0%} (standard deviation over mean) between pictures."
        " One camera has one focal length: net.pose.learn_K: focal learns one for all pictures. Otherwise train longer,"
        " start nearer (net.pose.K_init: [fx, fy, cx, cy]), or leave out pictures without motion. If the pictures come"
        " from several cameras, this is no fault."
    )


def _unseen(bend: float) -> str:
    return (
        f"warning: the camera hardly turns, so its focal length is not to be seen: an error of 10 % would move the"
        f" corners of the picture by {bend:.2g} pixels. Do not trust the learned camera; give one (a calibration,"
        " dataset.fov) and set net.pose.learn_K: false, or add video with turns (dataset.frame_gap: 2, a larger"
        " dataset.size)."
    )


def _pixels(stretch: float) -> str:
    kind, by = ("narrower", 1 - 1 / stretch) if stretch > 1 else ("wider", 1 / stretch - 1)
    return (
        f"warning: the learned camera has pixels that are {by:.0%} {kind} than those of the data, so one of its focal"
        " lengths is not seen yet. Cameras have square pixels: net.pose.learn_K: focal learns one length and keeps"
        " their shape. Otherwise train longer, or start nearer (net.pose.K_init: [fx, fy, cx, cy])."
    )


def _slow(rank: int, own: float, others: float) -> str:
    return (
        f"warning: process {rank} holds up the others: a step takes it {own:.0f} ms by itself, loading and computing on"
        f" the CPU, and the others {others:.0f} ms. Usual causes: another program on its cores, fewer cores, a slower"
        " disk."
    )


def _data_bound(share: float, waited: float) -> str:
    return (
        f"warning: {share:.0%} of the time is spent waiting for data ({waited:.0f} s of {waited / share:.0f} s of this"
        " epoch). Raise loader.num_workers (one per CPU core that is free, or auto), decode the pictures once"
        " (`monodepth prepare cache`), store them smaller (`monodepth prepare jpeg`), or lower dataset.size."
    )
