"""A network's scores to organs, masks, findings, boxes and probabilities."""
