"""Score networks on a data set, item by item, with the protocol beside every number.

The network sees batches; every truth keeps its own size. Predictions are resized as inverse depth,
bilinearly with half-pixel centres (`align_corners=False`, the rule of OpenCV's bilinear resize), as the
tables of this field do. The same data, network and protocol give the same numbers, on one process or several.
"""

from trainer.evaluation.depth import depth_pictures, evaluate_side_by_side
from trainer.evaluation.export import predict_all, write_predictions
from trainer.evaluation.items import resize_as_inverse
from trainer.evaluation.odometry import evaluate_odometry, save_odometry
from trainer.evaluation.pooling import pooled, without_advice
from trainer.evaluation.pose import evaluate_pose
from trainer.evaluation.predictions import Execution, evenly_spaced, flip_blended
from trainer.evaluation.results import EvaluationResult, save_legacy, save_result
from trainer.evaluation.stored import StoredDepth
from trainer.evaluation.targets import TargetsFile
from trainer.evaluation.temporal import evaluate_learned_temporal, evaluate_temporal, save_temporal

__all__ = [
    "EvaluationResult",
    "Execution",
    "StoredDepth",
    "TargetsFile",
    "depth_pictures",
    "evaluate_learned_temporal",
    "evaluate_odometry",
    "evaluate_pose",
    "evaluate_side_by_side",
    "evaluate_temporal",
    "evenly_spaced",
    "flip_blended",
    "pooled",
    "predict_all",
    "resize_as_inverse",
    "save_legacy",
    "save_odometry",
    "save_result",
    "save_temporal",
    "without_advice",
    "write_predictions",
]
