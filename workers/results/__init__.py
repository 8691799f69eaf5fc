"""Predictions written as DICOM objects."""
