"""Tests with real servers, command-line tools and viewers."""
