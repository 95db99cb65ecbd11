"""`dbops redshift ...`: what the DAGs of the warehouse do, with Airflow up or down."""

from __future__ import annotations

import typer

from dbops.redshift.maintenance_cli import app as maintenance
from dbops.redshift.snapshot_cli import access, restore_app, snapshots_app

app = typer.Typer(help="Maintenance, snapshots, restores and rights of the warehouse.", no_args_is_help=True)
app.registered_commands += maintenance.registered_commands
app.command()(access)
app.add_typer(snapshots_app, name="snapshots")
app.add_typer(restore_app, name="restore")
