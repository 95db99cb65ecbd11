"""Restore points: where they are stored, what they hold, which can be used, whether they are whole."""
