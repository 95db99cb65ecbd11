"""Is the same in PostgreSQL, Aerospike and Redshift: what was spent, and which campaigns there are. Imports nothing."""
