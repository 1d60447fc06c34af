"""Camera height: the ground in front of the camera should be as far below it as it was mounted.

Wagstaff and Kelly, arXiv:2009.03787 (a known camera height as a loss); DNet, arXiv:2004.05560 (the height from the
depth of the ground). Theirs find the ground with a network or by normals; here a plane is fitted to a part of the
picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from trainer.geometry import fit_plane, lower_middle
from trainer.geometry.scene import Pictures, Scene
from trainer.losses import LOSSES
from trainer.types import METRES_PER_UNIT


@LOSSES.register("camera_height")
class CameraHeight(nn.Module):
    """Relative difference of the inverse camera height and that above the ground of the predicted depth.

    For a level camera that looks along a street or floor: the inverse depth of the ground grows by 1 / height with the
    y / z of the rays, whatever a few degrees of pitch and roll add (10 degrees change it by 1.5 %). The distance of a
    fitted plane alone would be content with a wall as far ahead. The ground is what most pixels of a window at the
    lower middle of the picture agree on. A unit of depth becomes 5.4 m, as with stereo pairs, so that depth is metric.

    Args:
        height: of the camera above the ground, metres; 1.65 is that of KITTI.
        rows: share of the rows, from below, in which the ground is looked for.
        columns: share of the columns, in the middle.
    """

    source: ClassVar[str] = "Wagstaff and Kelly, arXiv:2009.03787; DNet, arXiv:2004.05560"
    needs: frozenset[str] = frozenset({"supports"})  # and K with them
    on_twin = False
    fixes_scale = True

    def __init__(self, height: float = 1.65, rows: float = 0.3, columns: float = 0.5):
        super().__init__()
        if problems := self.validate_config({"height": height, "rows": rows, "columns": columns}):
            raise ValueError("; ".join(problems))
        self.height, self.rows, self.columns = height, rows, columns

    @classmethod
    def validate_config(cls, kwargs: Mapping[str, Any]) -> list[str]:
        """List options without a meaning."""
        height = kwargs.get("height", 1.65)
        problems = [] if 0 < height < math.inf else [f"height must be metres above the ground, above 0, got {height}"]
        shares = [(key, kwargs.get(key, 0.5)) for key in ("rows", "columns")]
        wrong = [
            f"{key} must be a share of the picture, above 0 and at most 1, got {x}"
            for key, x in shares
            if not 0 < x <= 1
        ]
        return problems + wrong

    def forward(self, scene: Scene) -> tuple[Tensor, Pictures]:
        """Return the mean over items of |true height / predicted height - 1|, of the depth of scale 0.

        Ground that is flat ahead or falls towards the camera has a predicted height of infinity or below 0.
        """
        if scene.K is None:
            raise ValueError("camera_height: this scene has no intrinsics K")
        window = lower_middle(scene.size, self.rows, self.columns)
        inverse = fit_plane(scene.depth(0), scene.K.detach(), window)[:, 1] / METRES_PER_UNIT
        return (self.height * inverse - 1).abs().mean(), {}
