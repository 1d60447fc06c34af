"""What a data set is known for by its arguments alone, before it is built: truth, crop, split, camera, members."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

from trainer.data import views as of_views
from trainer.data.options import PLAIN
from trainer.runtime.errors import UserError


class DataFacts:
    """Facts about a kind of data. The arguments that are named here need not exist."""

    source: ClassVar[str] = ""  # where it was published, for the catalogue
    licence: ClassVar[str] = ""  # of the data, for model cards; "" = not known, as of recordings of one's own
    usual_crop: ClassVar[str] = "none"  # a name of `trainer.metrics.crop`
    path_arguments: ClassVar[frozenset[str]] = frozenset({"root", "path"})  # where the files of items are
    truth_arguments: ClassVar[tuple[str, ...]] = ()  # those that choose between several kinds of ground truth
    truths: ClassVar[tuple[Mapping[str, Any], ...]] = ()  # values of them, one mapping for each kind

    @classmethod
    def validate_config(cls, kwargs: dict[str, Any]) -> list[str]:
        """List what is wrong with arguments whose types are right, each line opening with its key."""
        try:
            of_views.checked_ranges(kwargs.get("views"), "views")
        except UserError as error:
            return [str(error)]
        return []

    @classmethod
    def field_of_view(cls, arguments: Mapping[str, Any]) -> float | None:
        """Return the horizontal field of view of the images, in degrees; None where it is not known or varies."""
        return None

    @staticmethod
    def split_name(arguments: Mapping[str, Any]) -> str | None:
        """Name the list of items: that of `split_file`, which wins, or `split`; None without either."""
        file = arguments.get("split_file")
        return Path(file).stem if file else arguments.get("split")

    @property
    def truth(self) -> str:
        """What the depth maps hold, for results; "" where there is only one kind of ground truth."""
        return self.truth_of(vars(self))

    @classmethod
    def truth_of(cls, arguments: Mapping[str, Any]) -> str:
        """Return `truth` of a data set with these arguments, `truth_arguments` among them."""
        return ""

    @classmethod
    def unusual_truth(cls, arguments: Mapping[str, Any]) -> str | None:
        """Name the ground truth in file names of results; None when it is the customary one of the split."""
        return None

    @classmethod
    def members(cls, arguments: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """List type and arguments of the data sets that one with these arguments mixes; empty = it is one itself."""
        return []

    @classmethod
    def write_miniature(cls, out: Path, arguments: Mapping[str, Any]) -> None:
        """Write a few made items below `out`, laid out as a data set with these arguments finds them with it as root.

        Raises UserError for a data set of which there is no miniature.
        """
        raise UserError(
            "there is no miniature of this data set. Name a page of pictures with depth: nyud, kitti_eigen, ..."
        )

    @classmethod
    def evaluation_arguments(cls, needs: Collection[str] = ()) -> dict[str, Any]:
        """Arguments that evaluations set: images as they are, each truth at its own size, what metric sets need.

        "clips" in `needs`: an item is followed by the next frame of the same camera, and its support 1 is that frame.
        """
        arguments = {**PLAIN, "log_time": False, "depth_size": None}
        arguments |= {"frame_gap": 1, "right_targets": False} if "clips" in needs else {}
        return arguments | {f"use_{key}": True for key in ("edges", "foreground") if key in needs}
