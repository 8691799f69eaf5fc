"""A zoo of protocols: studies as departments send them, with a hand-written table of what should become of each series."""
