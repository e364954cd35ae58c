"""SO(3) × R²: rotations, shifts and poses, with no physics."""
