"""The lab: embedded stand-ins for trying, testing and demonstrating. Loopback only; no production module imports it."""
