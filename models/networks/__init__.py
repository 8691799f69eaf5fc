"""Networks: built, loaded, proved against their card, made faster."""
