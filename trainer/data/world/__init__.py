"""Ray-cast scenes for the synthetic data set: layouts, objects, materials, shading."""
