"""Tests of the workers' rooms."""
