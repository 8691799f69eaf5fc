"""Tests of models/nnunet."""
