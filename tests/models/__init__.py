"""Tests of the models' rooms."""
