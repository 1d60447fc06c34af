"""Ray-cast scenes: layouts, objects, materials, shading. The synthetic data set is drawn from them."""
