"""Operations on the databases of a real-time-bidding platform: backup, verify, restore, maintain, compare, report."""

__version__ = "0.1.0"
