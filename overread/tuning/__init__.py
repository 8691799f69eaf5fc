"""`overread models train`: cases read, both models measured on those held out, and what came of it told."""
