"""Speed: the predicted motion between two frames should be as long as the way that the camera went.

PackNet-SfM, arXiv:1905.02693 (velocity supervision): video alone leaves the scale of depth and motion open, and a
speedometer settles it.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from trainer.geometry.precision import full_precision
from trainer.geometry.scene import Pictures, Scene
from trainer.losses import LOSSES
from trainer.losses._regression import criterion
from trainer.types import METRES_PER_UNIT


@LOSSES.register("speed")
class Speed(nn.Module):
    """Difference of the length of each predicted motion and the metres travelled, | |t| - v dt |.

    A unit of depth and motion becomes 5.4 m, as with stereo pairs, so that depth is metric. PackNet-SfM gives it a
    weight of 0.05.
    """

    source: ClassVar[str] = "PackNet-SfM, arXiv:1905.02693"
    needs: frozenset[str] = frozenset({"supports", "speed"})
    on_twin = False
    mixes_items = True  # the mean is over all supports of the batch whose way is known
    fixes_scale = True

    def __init__(self) -> None:
        super().__init__()
        self.distance = criterion("l1")

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean in metres over the supports whose way is known and not 0; 0 without any.

        Raises ValueError when the scene has no motions, or nobody says how far they go.
        """
        if scene.Ts is None or scene.travelled is None:
            raise ValueError("speed: how far the camera moved is not known, set dataset.use_speed: true")
        way = full_precision(scene.travelled).detach()
        known = (way > 0) & (way < torch.inf)
        length = torch.linalg.vector_norm(full_precision(scene.Ts)[..., :3, 3], dim=-1)
        return self.distance(METRES_PER_UNIT * length, torch.where(known, way, 0.0), known), {}
