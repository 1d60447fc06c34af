"""Geometry: camera, rigid motion, disparity and depth, view synthesis. Pure functions, never in 16 bit."""

from trainer.geometry.camera import (
    crop_intrinsics,
    flip_intrinsics,
    in_image_sides,
    inverse_intrinsics,
    pinhole,
    scale_intrinsics,
)
from trainer.geometry.depth import depth_to_disp, disp_to_depth, inverse_depth, valid_depth
from trainer.geometry.ground import fit_plane, lower_middle
from trainer.geometry.pose import axis_angle_to_matrix, invert_pose, pose_matrix
from trainer.geometry.synthesis import Runner, View, ViewSynthesis, cache_pieces, project, sample_grid

__all__ = [
    "Runner",
    "View",
    "ViewSynthesis",
    "axis_angle_to_matrix",
    "cache_pieces",
    "crop_intrinsics",
    "depth_to_disp",
    "disp_to_depth",
    "fit_plane",
    "flip_intrinsics",
    "in_image_sides",
    "inverse_depth",
    "inverse_intrinsics",
    "invert_pose",
    "lower_middle",
    "pinhole",
    "pose_matrix",
    "project",
    "sample_grid",
    "scale_intrinsics",
    "valid_depth",
]
