"""Aerospike: wire protocol, backup engine, restore and health, without Airflow (but hook.py and operators.py)."""
