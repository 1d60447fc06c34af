"""The autoencoder: reconstructs an image through features that losses can compare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from torch import Tensor, nn

from models_zoo import NETWORKS
from models_zoo.decoders import DECODERS
from models_zoo.decoders.base import SCALES
from models_zoo.depth import as_scales, decoder_problems, feature_problems, scale_problems, with_trait
from models_zoo.encoders.build import build_encoder, check_images, encode, encoder_problems, feature_spec
from models_zoo.registry import problems_of
from models_zoo.standardise import IMAGENET_MEAN, IMAGENET_STD, Standardise, statistics_problems


@NETWORKS.register("autoencoder")
class Autoencoder(nn.Module):
    """Reconstruct an image from the deepest feature of an encoder.

    Args:
        enc_name: timm model, as for the depth network.
        pretrained: true = start from timm's weights, which are downloaded once; a path = from those of a file, see
            docs/tasks/pretrained.md. Raises PretrainedUnavailable or UnreadableWeights when they cannot be had.
        dec_name: name in `models_zoo.decoders.DECODERS` of a decoder that works without skips.
        out_scales: scale or scales s to reconstruct, of stride 2**s; the order numbers the output convolutions.
        mean: mean of RGB in [0, 1] for the standardisation of the images.
        std: deviation of RGB in [0, 1] for the standardisation of the images.
    """

    source: ClassVar[str] = "FeatDepth, arXiv:2007.10603"

    def __init__(
        self,
        enc_name: str = "resnet18",
        pretrained: bool | str = True,
        dec_name: str = "monodepth",
        out_scales: int | Sequence[int] = SCALES,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        super().__init__()
        if problems := autoencoder_problems(enc_name, dec_name, out_scales, mean, std):
            raise ValueError("autoencoder: " + "; ".join(problems))
        self.standardise = Standardise(mean, std)
        judge = partial(feature_problems, dec_name)
        self.encoder = build_encoder(enc_name, pretrained, judge=judge, network="autoencoder")
        self.decoder = DECODERS.create(
            dec_name, **feature_spec(self.encoder)._asdict(), out_scales=as_scales(out_scales), out_ch=3, use_skip=False
        )

    @classmethod
    def validate_config(cls, kwargs: Mapping[str, Any]) -> list[str]:
        return problems_of(cls, autoencoder_problems, kwargs)

    def encode(self, images: Tensor) -> list[Tensor]:
        """Return the encoder features (b E_i h/R_i w/R_i) of images (b 3 h w) in [0, 1], shallow to deep."""
        check_images(images, channels=3)
        return encode(self.encoder, self.standardise(images))

    def forward(self, images: Tensor) -> dict[str, Any]:
        """Reconstruct images (b 3 h w) in [0, 1]; h and w multiples of 32, at least 64, else ValueError.

        Returns autoenc_imgs, {scale s: (b 3 h/2**s w/2**s)}, ascending, RGB in [0, 1], not standardised, float32
        even under autocast; and autoenc_feats: the encoder features, a list.
        """
        feats = self.encode(images)
        return {"autoenc_imgs": self.decoder(feats), "autoenc_feats": feats}


def autoencoder_problems(
    enc_name: str, dec_name: str, out_scales: int | Sequence[int], mean: Sequence[float], std: Sequence[float]
) -> list[str]:
    """List what is wrong with the options of an autoencoder."""
    problems = encoder_problems(enc_name) + statistics_problems(mean, std)
    problems += scale_problems(out_scales, dec_name) + decoder_problems(dec_name)
    able = with_trait("supports_no_skip")
    if dec_name in DECODERS and dec_name not in able:
        problems.append(f"dec_name {dec_name!r} needs the encoder features of all levels; choose from {able}")
    return problems
