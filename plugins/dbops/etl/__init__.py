"""Checks of the pipelines that load the warehouse: did every hour arrive, whole, once, and does it make sense?"""
