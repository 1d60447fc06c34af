"""The depth network in the form of other libraries: `models_zoo.hub.modeling` for transformers."""
