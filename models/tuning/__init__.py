"""Fine-tuning of the chest CT networks on a site's own labelled scans, with generated ones mixed in."""
