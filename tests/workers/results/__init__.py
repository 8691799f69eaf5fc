"""Tests of workers/results."""
