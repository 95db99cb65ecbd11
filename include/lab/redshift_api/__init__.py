"""The AWS API of the lab's warehouse: what moto lacks or answers untruly, around its server.

`redshift`: moto's clusters and snapshots, but a snapshot holds the data of its moment, takes its time, is listed for
its own cluster only and page by page; a restored cluster is a second stand-in with that data at an address of its own.
`redshift-serverless`, which moto has not, and `redshift-data`, which answers there every query with three made-up rows.

`POST /lab/warehouse` tells where a cluster's or workgroup's data lies (`register`); before that, all is as moto has it.
"""

from dbops_lab.redshift_api.application import RedshiftApi, plant, register, take

__all__ = ["RedshiftApi", "plant", "register", "take"]
