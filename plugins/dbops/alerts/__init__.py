"""One incident per problem, told to the channels of its severity, and resolved everywhere when it ends.

Light to import: `raise_alert` and `resolve_alert` are in `dbops.alerts.deliver`, what Airflow calls in
`dbops.alerts.airflow`.
"""

from dbops.alerts.alert import Alert, Channel, Notice
from dbops.platform import Severity

__all__ = ["Alert", "Channel", "Notice", "Severity"]
