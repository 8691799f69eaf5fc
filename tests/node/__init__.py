"""Tests of the DICOM side."""
