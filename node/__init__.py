"""The DICOM side: receive, keep, assemble, route, deliver. Runs without torch."""
