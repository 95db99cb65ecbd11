"""Aerospike: wire protocol, backup engines, restore and health, without Airflow (but hook.py and operators.py)."""
