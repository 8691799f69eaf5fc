"""The ledger: what is known of instances, revisions, jobs and deliveries; only moves write."""
