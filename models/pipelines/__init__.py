"""What runs every format whose card says what its network sees: one stage, ensembles, cascades."""
