"""CPU and disk of a provisioned cluster, as CloudWatch has them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from dbops.backups.store import aws_client
from dbops.connections import ConnectionInfo
from dbops.errors import FinalError, RetryableError

Metric = Literal["CPUUtilization", "PercentageDiskSpaceUsed"]
HOUR = 3600


class CloudWatchUnreachable(RetryableError):
    """No answer."""


class CloudWatchRefused(FinalError):
    """AWS does not let us read metrics."""


@dataclass(frozen=True)
class Hour:
    """Mean of an hour, percent."""

    at: datetime
    value: float


class CloudWatch:
    """Metrics of one cluster; needs `cloudwatch:GetMetricStatistics`."""

    def __init__(self, connection: ConnectionInfo, region: str, cluster: str) -> None:
        self._connection, self._region, self._cluster = connection, region, cluster

    def worst_hour(self, metric: Metric, since: datetime, until: datetime) -> Hour | None:
        """The hour with the highest mean; None: CloudWatch has no figures of this cluster.

        :raises CloudWatchUnreachable, CloudWatchRefused: it could not be asked.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        what = f"metric {metric} of Redshift cluster {self._cluster} in {self._region}"
        try:
            client: Any = aws_client(self._connection, self._region, "cloudwatch")
            answer = client.get_metric_statistics(
                Namespace="AWS/Redshift",
                MetricName=metric,
                Dimensions=[{"Name": "ClusterIdentifier", "Value": self._cluster}],
                StartTime=since,
                EndTime=until,
                Period=HOUR,
                Statistics=["Average"],
            )
        except ClientError as error:
            found = error.response.get("Error", {})
            raise CloudWatchRefused(
                f"{what}: {found.get('Code')}: {found.get('Message')}; connection {self._connection.conn_id} needs "
                "cloudwatch:GetMetricStatistics"
            ) from error
        except BotoCoreError as error:
            raise CloudWatchUnreachable(f"{what}: {error}") from error
        hours = [Hour(point["Timestamp"], float(point["Average"])) for point in answer["Datapoints"]]
        return max(hours, key=lambda hour: hour.value, default=None)
