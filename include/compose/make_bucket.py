"""Make the bucket of the platform file on the S3 server of docker-compose.yaml; safe to repeat."""

from __future__ import annotations

import boto3
from botocore.exceptions import ClientError
from dbops.connections import from_env
from dbops.platform import load_platform


def make_bucket() -> None:
    storage = load_platform().storage
    connection = from_env(storage.connection)
    client = boto3.client(
        "s3",
        endpoint_url=connection.extra["endpoint_url"],
        region_name=storage.region,
        aws_access_key_id=connection.login,
        aws_secret_access_key=connection.password,
    )
    try:
        client.create_bucket(Bucket=storage.bucket, CreateBucketConfiguration={"LocationConstraint": storage.region})
    except ClientError as error:
        if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
            raise


if __name__ == "__main__":
    make_bucket()
