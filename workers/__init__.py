"""The Celery side: files to volumes, predictions, DICOM results."""
