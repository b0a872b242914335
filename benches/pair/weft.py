"""Our own pair: a control plane and two sidecars, with every feature as it is by default.

The wire is that of all the others: the client's connections are redirected to a bound port of the outbound sidecar,
which dials the endpoint that the manifests name; the redirect there hands that to the inbound sidecar, which goes on to
the port that was dialled. The sidecars are the binary that pods get, `weft-proxy`, which holds nothing else.
"""

import contextlib
import json
import pathlib
import subprocess

import wire
from process import started

MANIFESTS = pathlib.Path(__file__).parent / "conf" / "weft.yaml"
DOMAIN = "bench.bench.svc.cluster.local"


class Weft:
    """weft as it is by default; with `log`, an access-log record for every exchange too (into a file)."""

    http2 = True
    proxies = True

    def __init__(self, binary, proxy, log=False):
        self.name = "weft-log" if log else "weft"
        self.binary = binary
        self.proxy = proxy
        self.log = log

    def missing(self):
        binaries = [self.binary, self.proxy]
        absent = [str(binary) for binary in binaries if not binary or not pathlib.Path(binary).exists()]
        return f"{' and '.join(absent)} not there" if absent else None

    @contextlib.contextmanager
    def run(self, setup):
        folder = setup.work / self.name
        manifests = folder / "manifests"
        manifests.mkdir(parents=True, exist_ok=True)
        (manifests / "bench.yaml").write_text(MANIFESTS.read_text())
        with self.control_plane(setup, folder, manifests) as xds:
            outbound = self.sidecar(folder, "client", xds) + ["--outbound", "127.0.0.1:0"]
            inbound = self.sidecar(folder, "server", xds) + ["--outbound", "127.0.0.1:0"]
            for port, (bound, listening) in wire.REDIRECTS.items():
                outbound += ["--bind", f"127.0.0.1:{bound}={DOMAIN}:{port}"]
                inbound += ["--inbound", f"0.0.0.0:{listening}={wire.SERVER_ADDRESS}:{port}"]
            with setup.pair(self.name, outbound, inbound) as processes:
                yield processes

    @contextlib.contextmanager
    def control_plane(self, setup, folder, manifests):
        arguments = [self.binary, "control-plane", "--manifests", manifests, "--state-dir", folder / "state"]
        arguments += ["--listen", f"{wire.SERVER_ADDRESS}:0", "--status", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
        log = setup.log(f"{self.name}-control-plane")
        with started(wire.SERVER, setup.load_cpu, arguments, log, stdout=subprocess.PIPE) as process:
            listening = process.stdout.readline()
            if not listening:
                raise RuntimeError(f"the control plane did not start\n{log.read_text()[-2000:]}")
            yield json.loads(listening)["listening"]["xds"]

    def sidecar(self, folder, account, xds):
        token = [self.binary, "token", "create", "--state-dir", folder / "state", "--namespace", "bench"]
        token_file = folder / f"{account}.token"
        done = subprocess.run([*token, "--service-account", account], check=True, stdout=subprocess.PIPE)
        token_file.write_bytes(done.stdout)
        return (
            [self.proxy, "run", "--control-plane", xds, "--trust-bundle", folder / "state/trust-bundle.pem"]
            + ["--token-file", token_file, "--namespace", "bench", "--workload", account, "--workers", "1"]
            + ["--state-dir", folder / account, "--status", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
            + (["--access-log", "on"] if self.log else [])
        )
