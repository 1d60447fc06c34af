"""A trained network in use: pictures in, depth out, in units that are stated.

from trainer.predict import DepthPredictor

predictor = DepthPredictor.load("models/synthetic/monodepth2_MS/42")
result = predictor("street.jpg")   # .depth and .disparity (H W) at the size of the picture, .unit "m" or "relative"
"""

from trainer.predict.camera import given_camera
from trainer.predict.colours import ColourRange
from trainer.predict.depthmap import DepthMap
from trainer.predict.filmwriter import FilmWriter
from trainer.predict.pipeline import Outcome, look_first, predict_all
from trainer.predict.predictor import DepthPredictor
from trainer.predict.scale import Scale
from trainer.predict.sources import SUFFIXES, Source, open_source
from trainer.predict.writing import Outputs, kinds_of, shows_colours

__all__ = [
    "SUFFIXES",
    "ColourRange",
    "DepthMap",
    "DepthPredictor",
    "FilmWriter",
    "Outcome",
    "Outputs",
    "Scale",
    "Source",
    "given_camera",
    "kinds_of",
    "look_first",
    "open_source",
    "predict_all",
    "shows_colours",
]
