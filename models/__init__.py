"""The intelligence: cards, networks and resampling. Knows no DICOM and imports nothing of ours."""
