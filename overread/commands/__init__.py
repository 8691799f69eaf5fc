"""Bodies of the `overread` commands that look, ask and tell."""
