"""A stand-in for an Aerospike cluster: the client protocol of server 8.1, in one process, memory only.

`python -m dbops_lab.aerospike --name eu --ports 3100,3101 --namespaces bidder,dmp,spend` serves two nodes of
one cluster; `dbops_lab.aerospike.process.StandIn` does the same for a test. What it does not support is
answered with the protocol's error code. `control` documents the faults that can be injected.
"""
