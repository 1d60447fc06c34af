"""A trainer for self-supervised monocular depth: data, geometry, losses and the loop around Accelerate."""
