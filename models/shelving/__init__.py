"""`models add` and `models check`: files looked at and never run, cards drafted and written, models tried on made-up images."""
