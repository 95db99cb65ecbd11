"""Fixtures for all tests: the lab's parts come from its own pytest plugin."""

pytest_plugins = ["dbops_lab.testing"]
