"""How uncertain predicted depth is, pixel by pixel, for sparsification: larger = less certain, in any unit.

Three sources of Poggi et al., arXiv:2005.06209, sec. 3: the mirrored image ("Post"), several networks ("Boot", "Snap"),
what a network predicts beside its depth; and a file. The depth that is scored is the same whatever the source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data import DATASETS
from trainer.evaluation.changes import Changes
from trainer.evaluation.items import resize, resize_as_inverse
from trainer.evaluation.request import EvaluationRequest
from trainer.evaluation.session import Machine, Network
from trainer.evaluation.stored import StoredDepth
from trainer.evaluation.subject import Subject, read_checkpoint
from trainer.metrics.align import Alignment, invert
from trainer.metrics.sparsification import STEPS
from trainer.runtime.errors import UserError

Predict = Callable[[Tensor], Tensor]  # images (b 3 h w) on the CPU -> depth or masks (b n h w), any device
Under = Callable[[Alignment], "np.ndarray | None"]  # alignment of the prediction -> its uncertainty (H W)
Doubt = Callable[[Mapping[str, Tensor], int, np.ndarray], Under]  # item, its index, predicted depth (H W) -> that

RULES = {
    "flip": "|1 / depth - that of the mirrored image, mirrored back|",
    "ensemble": "standard deviation of 1 / depth over {count} networks, brought to the first one by the alignment, if"
    " that has a fit",
    "mask": "the log uncertainty of the photometric error that the network predicts, mean over supports",
    "file": "the array `uncertainty` of the file",
}


def of_mirrored(predict: Predict) -> Doubt:
    """Compare the prediction with that for the mirrored image: |difference| of both inverse depths."""

    def doubt(item: Mapping[str, Tensor], index: int, depth: np.ndarray) -> Under:
        image = item["target"][None]
        plain, mirrored = 1 / predict(image), 1 / predict(image.flip(-1)).flip(-1)
        return _fixed((plain - mirrored).abs()[0, 0], depth.shape)

    return _without_gradient(doubt)


def of_ensemble(others: Sequence[Predict]) -> Doubt:
    """Compare the prediction with those of other networks: the standard deviation of all inverse depths.

    Networks of unknown scale differ without being uncertain: each is first aligned to the prediction, over all pixels,
    as the prediction is aligned to the truth.
    """

    def doubt(item: Mapping[str, Tensor], index: int, depth: np.ndarray) -> Under:
        found = [resize_as_inverse(p(item["target"][None]).float().cpu()[0, 0], depth.shape) for p in others]

        def under(alignment: Alignment) -> np.ndarray:
            aligned = [depth, *(alignment.align_baseline(other, depth) for other in found)]
            return np.asarray(np.std([invert(one) for one in aligned], axis=0))

        return under

    return _without_gradient(doubt)


def of_mask(predict: Predict) -> Doubt:
    """Take what the network predicts for the image: the mean of its masks."""

    def doubt(item: Mapping[str, Tensor], index: int, depth: np.ndarray) -> Under:
        return _fixed(predict(item["target"][None])[0].mean(0), depth.shape)

    return _without_gradient(doubt)


def of_file(stored: StoredDepth, path: Path) -> Doubt:
    """Take the uncertainty of a file. Raises UserError when it has none."""
    values = stored.uncertainty
    if values is None:
        raise UserError(
            f"{path}: has no array 'uncertainty' (N, h, w) beside 'pred', larger where the prediction is less certain."
            " Write it with np.savez, or leave out --uncertainty"
        )
    return lambda item, index, depth: _fixed(torch.from_numpy(values[index]), depth.shape)


def check_source(uncertainty: str | None, ensemble: Sequence[Path], steps: int | None, pred_file: Path | None) -> None:
    """Raise UserError unless the options of an uncertainty belong together."""
    if uncertainty is None and steps is not None:
        raise UserError("--sparsification-steps has no effect without --uncertainty: add one or leave it out")
    if (uncertainty == "ensemble") != bool(ensemble):
        raise UserError("--uncertainty ensemble and --ensemble CKPT ... belong together: give both or none")
    if uncertainty == "file" and pred_file is None:
        raise UserError("--uncertainty file reads an array of --pred-file. Choose flip, ensemble or mask with --ckpt")
    if uncertainty not in (None, "file") and pred_file is not None:
        raise UserError(
            f"--uncertainty {uncertainty} is about a network. With --pred-file choose file: its array `uncertainty`"
        )


def read_ensemble(request: EvaluationRequest) -> list[Subject]:
    """Read the settings of the other networks of an ensemble.

    Raises UserError for one that is named twice, sees pictures of another size, or has depth in another unit where the
    alignment does not make up for it; and for a network without the uncertainty that is asked for.
    """
    if request.uncertainty == "mask":
        _require_mask(request.subject)
    if not request.ensemble:
        return []
    first = request.subject
    # Of the others only the networks are used, so what changes the data set of the first has no part in them.
    members = [read_checkpoint(path, None, Changes(), request.mode) for path in request.ensemble]
    seen = {first.metadata["checkpoint"]["sha256"]: first.path}
    fixed = [p.names["alignment"] for p in request.protocols if not p.alignment.constant]
    for member in members:
        if twin := seen.get(member.metadata["checkpoint"]["sha256"]):
            raise UserError(
                f"--ensemble {member.path}: is the same network as {twin}, which would look certain. Name others"
            )
        seen[member.metadata["checkpoint"]["sha256"]] = member.path
        if _size(member) != _size(first):
            (w, h), (first_w, first_h) = _size(member), _size(first)
            raise UserError(
                f"--ensemble {member.path}: was trained with pictures of {w}x{h}, {first.path} of {first_w}x{first_h}."
                " Name networks of one size"
            )
        if fixed and member.alignment != first.alignment:
            raise UserError(
                f"--ensemble {member.path}: its depth has another unit than that of {first.path}, and the alignment"
                f" {fixed[0]} keeps units. Add --alignment median"
            )
    return members


def open_doubt(
    request: EvaluationRequest, members: Sequence[Subject], network: Network | None, on: Machine
) -> Doubt | None:
    """Make the uncertainty that a request asks for. `network` is that of its checkpoint; `members` as above."""
    if request.uncertainty is None:
        return None
    if network is None:
        assert request.subject.stored is not None  # the only other kind of subject
        return of_file(request.subject.stored, request.subject.path)
    if request.uncertainty == "mask":
        return of_mask(network.predict_mask)
    if request.uncertainty == "flip":
        return of_mirrored(network.predict_depth)
    return of_ensemble([Network.load(m.path, None, on.device).predict_depth for m in members])


def describe(request: EvaluationRequest, members: Sequence[Subject]) -> dict[str, Any]:
    """Return what results keep of an uncertainty: `uncertainty`, in which comparable ones agree, and its rule."""
    if request.uncertainty is None:
        return {}
    name = f"ensemble of {1 + len(members)}" if members else request.uncertainty
    about: dict[str, Any] = {"rule": RULES[request.uncertainty].format(count=1 + len(members))}
    if members:
        about["members"] = [member.metadata["checkpoint"] for member in members]
    return {"uncertainty": f"{name}, {request.sparsification_steps or STEPS} steps", "uncertainty_source": about}


def _require_mask(subject: Subject) -> None:
    assert subject.trained is not None  # of every checkpoint
    mask = subject.trained.net["depth"].get("mask_name")
    if mask != "uncertainty":
        has = {None: "predicts no mask", "explainability": "predicts how well pixels can be explained, not how certain"}
        raise UserError(
            f"{subject.path}: {has.get(mask, f'predicts another mask, {mask}')}. --uncertainty mask needs one trained"
            " with net.depth.mask_name: uncertainty; flip and ensemble work with any network"
        )


def _fixed(values: Tensor, size: tuple[int, ...]) -> Under:
    """An uncertainty (h w) that does not depend on the alignment, resized to (H, W)."""
    resized = resize(values.detach().double().cpu().numpy(), size)
    return lambda alignment: resized


def _without_gradient(doubt: Doubt) -> Doubt:
    def measured(item: Mapping[str, Tensor], index: int, depth: np.ndarray) -> Under:
        with torch.inference_mode():
            return doubt(item, index, depth)

    return measured


def _size(subject: Subject) -> tuple[int, int]:
    """(width, height) of the pictures that a network was trained with."""
    assert subject.trained is not None  # of every checkpoint
    name, arguments = subject.trained.dataset_kwargs("train")
    width, height = arguments.get("size") or DATASETS.parameters(name)["size"].default
    return width, height
