"""nnU-Net v2 as it was trained: plans, preparation, windows and the way back give what its own predictor gives, voxel for voxel."""
