"""A trained network in use: pictures in, depth out, in units that are stated.

from trainer.predict import DepthPredictor

predictor = DepthPredictor.load("models/synthetic/monodepth2_MS/42")
result = predictor("street.jpg")   # .depth and .disparity (H W) at the size of the picture, .unit "m" or "relative"
"""

from trainer.predict.depthmap import DepthMap
from trainer.predict.predictor import DepthPredictor
from trainer.predict.scale import Scale

__all__ = ["DepthMap", "DepthPredictor", "Scale"]
