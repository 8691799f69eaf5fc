"""Tests; the paths mirror the packages."""
