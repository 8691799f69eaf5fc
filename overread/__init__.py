"""The front door: the only package that knows node, workers and models."""

__version__ = "0.1.0"
