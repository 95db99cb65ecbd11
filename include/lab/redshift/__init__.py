"""A stand-in for Amazon Redshift: its wire protocol and statements before the lab's PostgreSQL."""
