"""The AWS API of the lab's PostgreSQL instances: what moto lacks or answers untruly, around its server.

`rds`: moto's instances and snapshots, but an instance is a real server, a snapshot holds the data of its moment, a
restore makes a second server at a loopback address of its own with the data of the moment that was asked for (a time
that cannot be had is refused), and everything takes its time. `route53`: a change is PENDING first, a wrong one is
refused; a nameserver on loopback answers from the zones and for the instances' endpoints.

`POST /lab/rds` tells of an instance (`register`); before that, all is as moto has it.
"""

from dbops_lab.rds_api.application import (
    RdsApi,
    clean,
    keep_secrets,
    name,
    order,
    plant,
    register,
    settle,
    take,
)
from dbops_lab.rds_api.servers import folders, instance_server

__all__ = [
    "RdsApi", "clean", "folders", "instance_server", "keep_secrets", "name", "order", "plant", "register", "settle",
    "take",
]  # fmt: skip
