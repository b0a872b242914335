"""A small mesh for foreign clients: control plane, one Service with one replica behind a sidecar, an identity in files.

Everything is a real process on loopback, ends with the `with` block, and is waited for by what it says.
"""

import http.client
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time

PATIENCE_S = 30

# How long a change may take to reach a client.
SOON_S = 1

SERVICES = """
apiVersion: v1
kind: Namespace
metadata: {name: shop}
---
apiVersion: v1
kind: Service
metadata: {name: stock, namespace: shop}
spec:
  ports: [{name: grpc, port: 80, appProtocol: kubernetes.io/h2c}]
---
apiVersion: v1
kind: Service
metadata: {name: price, namespace: shop}
spec:
  ports: [{name: http, port: 80, appProtocol: http}]
"""


def eventually(what, probe, within=PATIENCE_S):
    """Polls `probe` until it answers something true. For foreign processes that announce nothing."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        value = probe()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what}: not within {within} s")


class Process:
    """A process whose stdout is JSON lines."""

    def __init__(self, arguments, log, **options):
        self.log = log
        self.process = subprocess.Popen(
            arguments, stdout=subprocess.PIPE, stderr=open(log, "ab"), stdin=subprocess.DEVNULL, text=True, **options
        )

    def says(self, key):
        for line in self.process.stdout:
            value = json.loads(line)
            if key in value:
                return value[key]
        raise AssertionError(f"ended before it said {key!r}:\n{pathlib.Path(self.log).read_text()[-4000:]}")

    def stop(self, how=signal.SIGKILL):
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(PATIENCE_S)


class Mesh:
    def __init__(self, weft):
        self.weft = weft
        self.folder = tempfile.TemporaryDirectory(prefix="weft-peers-")
        self.path = pathlib.Path(self.folder.name)
        self.processes = []

    def __enter__(self):
        (self.path / "manifests").mkdir()
        (self.path / "manifests" / "services.yaml").write_text(SERVICES)
        control = self.start(
            "control-plane",
            ["control-plane", "--manifests", self.path / "manifests", "--state-dir", self.path / "state"]
            + ["--listen", "127.0.0.1:0", "--status", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
        )
        listening = control.says("listening")
        control.says("ready")
        self.xds = listening["xds"]
        self.admin = listening["admin"]
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            process.stop()
        self.folder.cleanup()

    def start(self, name, arguments):
        process = Process([self.weft, *map(str, arguments)], self.path / f"{name}.log")
        self.processes.append(process)
        return process

    def token(self, account, *services):
        arguments = [self.weft, "token", "create", "--state-dir", self.path / "state"]
        arguments += ["--namespace", "shop", "--service-account", account]
        for service in services:
            arguments += ["--service", service]
        file = self.path / f"{account}.token"
        file.write_bytes(subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout)
        return file

    def sidecar(self, service, name, app):
        """A replica of `service`: the application at `app` behind a sidecar under Strict."""
        sidecar = self.start(
            name,
            ["proxy", "run", "--control-plane", self.xds, "--trust-bundle", self.path / "state" / "trust-bundle.pem"]
            + ["--token-file", self.token(service, service), "--namespace", "shop", "--workload", name]
            + ["--state-dir", self.path / name, "--outbound", "127.0.0.1:0", "--status", "127.0.0.1:0"]
            + ["--admin", "127.0.0.1:0", "--inbound", f"127.0.0.1:0={app}", "--register", f"{service}:80={app}"],
        )
        sidecar.listening = sidecar.says("listening")
        sidecar.says("ready")
        return sidecar

    def identity(self, account):
        """A folder with a mesh certificate for `account`: tls.crt, tls.key and ca.crt."""
        folder = self.path / f"identity-{account}"
        subprocess.run(
            [self.weft, "identity", "--once", "--control-plane", self.xds]
            + ["--trust-bundle", self.path / "state" / "trust-bundle.pem"]
            + ["--token-file", self.token(account), "--out", folder],
            check=True,
        )
        return folder

    def page(self, path):
        connection = http.client.HTTPConnection(self.admin, timeout=PATIENCE_S)
        connection.request("GET", path)
        return json.loads(connection.getresponse().read())


def app(port_pipe, name):
    """A gRPC server (h2c) that answers its own name; runs in a process of its own."""
    import concurrent.futures

    import grpc

    class Handler(grpc.GenericRpcHandler):
        def service(self, details):
            def unary(request, context):
                context.set_trailing_metadata((("x-served-by", name),))
                return name.encode()

            def stream(request, context):
                for index in range(3):
                    yield f"{name} {index}".encode()

            if details.method.endswith("/Stream"):
                return grpc.unary_stream_rpc_method_handler(stream)
            return grpc.unary_unary_rpc_method_handler(unary)

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), handlers=(Handler(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    os.write(port_pipe, f"{port}\n".encode())
    os.close(port_pipe)
    server.wait_for_termination()


def start_app(name):
    """Starts [`app`] in a fresh interpreter; answers (process, address)."""
    read, write = os.pipe()
    code = f"import sys; sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r}); import mesh; mesh.app({write}, {name!r})"
    import sys

    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[write])
    os.close(write)
    with os.fdopen(read) as pipe:
        port = pipe.readline().strip()
    return process, f"127.0.0.1:{port}"
