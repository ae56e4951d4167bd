"""A real S3 API over HTTP, in a process of its own: moto's server, which checks keys, signatures and permissions once a user has been made."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import boto3
import httpx
from botocore.config import Config

from tests.support.serving import free_port

ALLOW_ALL = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}],
}


class S3Server:
    """Starts on a free port of loopback; after `stop` and `start` it listens there again, knows the same keys, and is empty."""

    def __init__(self) -> None:
        self.port = free_port()
        self.start()

    def start(self) -> None:
        command = [
            str(Path(sys.executable).parent / "moto_server"),
            "-H",
            "127.0.0.1",
            "-p",
            str(self.port),
        ]
        environment = {
            **os.environ,
            "INITIAL_NO_AUTH_ACTION_COUNT": "3",
        }  # from the fourth request on, keys are asked for
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        url = f"http://127.0.0.1:{self.port}"
        for _ in range(600):
            assert self._process.poll() is None, "moto_server did not start"
            try:
                httpx.post(
                    f"{url}/moto-api/seed?a=1"
                )  # the keys that it makes up are the same every time
                break
            except httpx.TransportError:
                time.sleep(0.05)
        iam = boto3.client(
            "iam",
            "us-east-1",
            endpoint_url=url,
            aws_access_key_id="any",
            aws_secret_access_key="any",
            config=Config(retries={"total_max_attempts": 1}),
        )
        iam.create_user(UserName="remix")
        iam.put_user_policy(
            UserName="remix", PolicyName="all", PolicyDocument=json.dumps(ALLOW_ALL)
        )
        made = iam.create_access_key(UserName="remix")["AccessKey"]
        self.key, self.secret = made["AccessKeyId"], made["SecretAccessKey"]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """From now on it takes connections and never answers."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def uri(self, path: str = "", secret: str | None = None) -> str:
        """The URI of a place, by default a bucket that does not exist yet."""
        keys = f"{self.key}:{quote(secret or self.secret, safe='')}"
        options = f"scheme=http&endpoint_override=127.0.0.1:{self.port}&region=us-east-1&allow_bucket_creation=true"
        return f"s3://{keys}@{path or f'bucket-{uuid4().hex[:12]}'}?{options}"
