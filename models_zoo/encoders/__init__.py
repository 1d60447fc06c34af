"""The encoders: feature maps of an image, shallow to deep. Those of papers, one per file, beside all models of timm.

An entry is a class that takes `in_chans` and has what a `features_only` model of timm has: `feature_info` (a
`timm.models.FeatureInfo`) and a forward pass from standardised images to the list of maps. Its other arguments are
those of `enc_options`, which its class method `validate_config(kwargs)`, if any, judges. Its attribute `weights`, if
any, says what and where its pretrained weights are.
"""

from __future__ import annotations

from models_zoo.registry import Registry

ENCODERS = Registry("encoder", package=__name__)
