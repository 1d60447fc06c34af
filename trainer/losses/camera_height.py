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

from trainer.geometry import camera_height, fit_plane, lower_middle
from trainer.geometry.scene import Pictures, Scene
from trainer.losses import LOSSES
from trainer.types import METRES_PER_UNIT


@LOSSES.register("camera_height")
class CameraHeight(nn.Module):
    """Difference of the logarithms of the true camera height and that above the ground of the predicted depth.

    For a camera that looks ahead along a street or floor. The ground is the plane that most pixels of a window at the
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
        """Return the mean over items of |log(predicted height / true height)|, of the depth of scale 0.

        Near 0 it is the relative error of the height. Twice and half the height cost the same.
        """
        if scene.K is None:
            raise ValueError("camera_height: this scene has no intrinsics K")
        window = lower_middle(scene.size, self.rows, self.columns)
        height = METRES_PER_UNIT * camera_height(fit_plane(scene.depth(0), scene.K.detach(), window))
        return (height / self.height).log().abs().mean(), {}
