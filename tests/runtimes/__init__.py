"""Runtimes of the tests' own; tests/planted.py puts them beside those of models/runtimes."""
