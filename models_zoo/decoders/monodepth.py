"""The U-Net decoder of Monodepth2 (arXiv:1806.01260): convolve, upsample, fuse the skip, convolve."""

from __future__ import annotations

from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import LevelDecoder


@DECODERS.register("monodepth")
class MonodepthDecoder(LevelDecoder):
    """Nearest upsampling, skip concatenation, one output convolution per scale."""

    source = "Monodepth2, arXiv:1806.01260"
    supports_init = True
