"""Amazon Redshift: maintenance, archival, snapshots and what is needed for them."""
