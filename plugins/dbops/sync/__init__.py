"""Is what is in Aerospike what PostgreSQL says? Compared as typed values, by hash, in bounded memory."""
