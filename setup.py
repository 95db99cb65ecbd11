"""Packages in two places under two names; all else is in pyproject.toml."""

from setuptools import find_packages, setup

LAB = "include/lab"

setup(
    packages=[
        *find_packages("plugins", include=["dbops", "dbops.*"]),
        "dbops_lab",
        *(f"dbops_lab.{name}" for name in find_packages(LAB)),
    ],
    package_dir={"dbops": "plugins/dbops", "dbops_lab": LAB},
    package_data={"dbops": ["ledger/migrations/*", "ledger/migrations/versions/*"], "dbops_lab": ["**/*"]},
)
