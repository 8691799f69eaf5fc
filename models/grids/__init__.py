"""From the source grid to a model's grid, in windows over it, and back."""
