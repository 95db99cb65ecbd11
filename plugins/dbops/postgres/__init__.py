"""PostgreSQL: reports, health, maintenance."""
