"""One module a weights format; each has load(shelved, device) -> Model."""
