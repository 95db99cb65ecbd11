"""What this package adds to Airflow: the connection type `aerospike` and its form."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """Read by Airflow's provider manager through the entry point `apache_airflow_provider`."""
    return {
        "package-name": "bedrock-dbops",
        "name": "Bedrock Database Operations",
        "description": "Backups, restores and checks of Aerospike, PostgreSQL and Redshift.",
        "connection-types": [
            {
                "hook-class-name": "dbops.aerospike.hook.AerospikeHook",
                "hook-name": "Aerospike",
                "connection-type": "aerospike",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema"],
                    "relabeling": {"host": "Seed hosts", "login": "User"},
                    "placeholders": {"host": "host or host:port,host:port", "port": "3000"},
                },
                "conn-fields": {
                    "tls": {
                        "label": "TLS",
                        "schema": {"type": ["boolean", "null"]},
                        "description": "Encrypt and verify the server's certificate.",
                    },
                    "tls_name": {
                        "label": "TLS name",
                        "schema": {"type": ["string", "null"]},
                        "description": "Name in the server's certificate, when it is not the host.",
                    },
                    "tls_ca_file": {
                        "label": "CA file",
                        "schema": {"type": ["string", "null"]},
                        "description": "Path on the worker; the system's authorities when empty.",
                    },
                    "tls_cert_file": {
                        "label": "Client certificate file",
                        "schema": {"type": ["string", "null"]},
                        "description": "Path on the worker, for mutual TLS.",
                    },
                    "tls_key_file": {
                        "label": "Client key file",
                        "schema": {"type": ["string", "null"]},
                        "description": "Path on the worker, for mutual TLS.",
                    },
                    "use_services_alternate": {
                        "label": "Use alternate addresses",
                        "schema": {"type": ["boolean", "null"]},
                        "description": "The nodes' alternate access addresses, from outside of their network.",
                    },
                },
            }
        ],
    }
