"""The lab: embedded stand-ins to try, test and demonstrate. Loopback only; production never imports it."""
