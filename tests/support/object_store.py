"""moto's S3 server in a process of its own; it checks keys, signatures and permissions."""

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
    """An S3 server on a free port of the loopback interface.

    After `stop` and `start` it is empty, and has the same port and keys.
    """

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
        # the three requests below that create the user need no keys, all later ones do
        environment = {**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "3"}
        self._process = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        url = f"http://127.0.0.1:{self.port}"
        for _ in range(600):
            assert self._process.poll() is None, "moto_server did not start"
            try:
                # with a seed, the generated keys are the same after each start
                httpx.post(f"{url}/moto-api/seed?a=1")
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
        access_key = iam.create_access_key(UserName="remix")["AccessKey"]
        self.key, self.secret = access_key["AccessKeyId"], access_key["SecretAccessKey"]

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """Accept connections but never answer, until `thaw`."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def uri(self, path: str = "", secret: str | None = None, port: int | None = None) -> str:
        """The URI of a path, by default a bucket that does not exist yet; `port` of a proxy."""
        keys = f"{self.key}:{quote(secret or self.secret, safe='')}"
        options = (
            f"scheme=http&endpoint_override=127.0.0.1:{port or self.port}&region=us-east-1"
            "&allow_bucket_creation=true"
        )
        return f"s3://{keys}@{path or f'bucket-{uuid4().hex[:12]}'}?{options}"


class CountingProxy(socketserver.ThreadingTCPServer):
    """Forwards connections to a server on this machine, and counts the bytes that it sends."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.target, self.port = port, int(self.server_address[1])
        self.num_bytes = 0
        self.lock = threading.Lock()


class _Connection(socketserver.BaseRequestHandler):
    server: CountingProxy

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.target)) as upstream:
            threading.Thread(target=self._send, args=[upstream], daemon=True).start()
            while data := upstream.recv(2**16):
                with self.server.lock:
                    self.server.num_bytes += len(data)
                self.request.sendall(data)

    def _send(self, upstream: socket.socket) -> None:
        try:
            while data := self.request.recv(2**16):
                upstream.sendall(data)
            upstream.shutdown(socket.SHUT_WR)
        except OSError:  # the other direction has ended
            pass


@contextmanager
def counted(server: S3Server) -> Iterator[CountingProxy]:
    """A proxy of a server."""
    with CountingProxy(server.port) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield proxy
        proxy.shutdown()
