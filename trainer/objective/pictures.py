"""The pictures of a training step, by the tags of the tracker: raw values, no colour maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from trainer.geometry.scene import Pictures
from trainer.types import Batch, Images

_SHOWN = ("disp", "disp_stereo", "mask", "depth_feats", "autoenc_imgs", "autoenc_feats")


class StepPictures:
    """Draw the pictures of a step when it is called. Holds references, no graph, no copies."""

    def __init__(self, batch: Batch, predictions: Mapping[str, Any], of_losses: Pictures, supp_idxs: Sequence[int]):
        self.batch = cast(dict[str, Tensor], dict(batch))
        self.shown = {key: detached(predictions[key]) for key in _SHOWN if key in predictions}
        self.of_losses = of_losses
        self.supp_idxs = supp_idxs

    def __call__(self) -> Images:
        """Collect all pictures, {tag: (b c h w)}."""
        drawn = {tag: picture() if callable(picture) else picture for tag, picture in self.of_losses.items()}
        return self._given() | self._predicted() | drawn

    def _given(self) -> Images:
        images: Images = {}
        for tag, suffix in (("imgs", ""), ("imgs_aug", "_aug")):
            if f"target{suffix}" in self.batch:
                images[f"{tag}/target"] = self.batch[f"target{suffix}"]
            if f"supports{suffix}" in self.batch:
                supports = self.batch[f"supports{suffix}"].unbind(1)  # none where items are only predicted
                images |= {
                    f"{tag}/supp_{k}": image for k, image in zip(self.supp_idxs, supports, strict=bool(supports))
                }
        for tag, key in (("depth/truth", "depth"), ("depth/hints", "depth_hints")):
            if key in self.batch:
                images[tag] = self.batch[key]
        return images

    def _predicted(self) -> Images:
        images: Images = {}
        tags = {"disp/target": "disp", "disp/stereo": "disp_stereo", "imgs/autoenc": "autoenc_imgs"}
        for tag, key in tags.items():
            images |= {f"{tag}_{s}": maps for s, maps in self.shown.get(key, {}).items()}
        images |= {f"masks/mask_0_{s}": maps[:, :1] for s, maps in self.shown.get("mask", {}).items()}
        for tag, key in (("feats/target", "depth_feats"), ("feats/autoenc", "autoenc_feats")):
            images |= {f"{tag}_{k}": feat for k, feat in enumerate(self.shown.get(key, []))}
        return images


def detached(value: Any) -> Any:
    """Return the tensors of a prediction, in dicts and lists or alone, without their graph."""
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {key: detached(item) for key, item in value.items()}
    return [detached(item) for item in value]
