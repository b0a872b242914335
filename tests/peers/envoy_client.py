"""A real Envoy as an xDS client of our control plane (wildcard, SDS) and a caller of a sidecar under Strict.

    python envoy_client.py path/to/weft
"""

import http.client
import json
import os
import pathlib
import subprocess
import sys

import mesh


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def bootstrap(plane, identity, listen, admin):
    host, port = plane.xds.split(":")
    file = lambda name: {"filename": str(identity / name)}
    certificate = {"certificate_chain": file("tls.crt"), "private_key": file("tls.key")}
    uri = "spiffe://cluster.local/ns/weft-system/sa/weft-control-plane"
    ads = {"ads": {}, "resource_api_version": "V3"}
    return {
        "node": {"id": "shop/sa/order", "cluster": "order", "metadata": {"weft.dev/listen": f"127.0.0.1:{listen}"}},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin}}},
        "dynamic_resources": {
            "lds_config": ads,
            "cds_config": ads,
            "ads_config": {
                "api_type": "GRPC",
                "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "control-plane"}}],
            },
        },
        "static_resources": {
            "secrets": [{"name": "default", "tls_certificate": certificate}],
            "clusters": [
                {
                    "name": "control-plane",
                    "type": "STATIC",
                    "connect_timeout": "5s",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                            "explicit_http_config": {"http2_protocol_options": {}},
                        }
                    },
                    "load_assignment": {
                        "cluster_name": "control-plane",
                        "endpoints": [
                            {
                                "lb_endpoints": [
                                    {
                                        "endpoint": {
                                            "address": {
                                                "socket_address": {"address": host, "port_value": int(port)}
                                            }
                                        }
                                    }
                                ]
                            }
                        ],
                    },
                    "transport_socket": {
                        "name": "envoy.transport_sockets.tls",
                        "typed_config": {
                            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                            "common_tls_context": {
                                "tls_params": {
                                    "tls_minimum_protocol_version": "TLSv1_3",
                                    "tls_maximum_protocol_version": "TLSv1_3",
                                },
                                "alpn_protocols": ["h2"],
                                "tls_certificate_sds_secret_configs": [{"name": "default"}],
                                "validation_context": {
                                    "trusted_ca": file("ca.crt"),
                                    "match_typed_subject_alt_names": [
                                        {"san_type": "URI", "matcher": {"exact": uri}}
                                    ],
                                },
                            },
                        },
                    },
                }
            ],
        },
    }


def envoy_binary():
    import envoy

    binary = pathlib.Path(envoy.__file__).parent / "_bin" / "envoy"
    assert binary.exists(), f"{binary} is not in the package any more"
    return binary


def ask(port, path, host=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    except OSError:
        return None, b"", {}
    finally:
        connection.close()


def nacks(admin):
    """Every dynamic resource that Envoy refused."""
    dump = json.loads(ask(admin, "/config_dump?include_eds")[1])
    found = []

    def walk(value):
        if isinstance(value, dict):
            if "error_state" in value:
                found.append(value["error_state"])
            for member in value.values():
                walk(member)
        elif isinstance(value, list):
            for member in value:
                walk(member)

    walk(dump)
    return found


def main():
    weft = os.path.abspath(sys.argv[1])
    processes = []
    try:
        with mesh.Mesh(weft) as plane:
            replica(plane, processes, "price-0")
            drive(plane, processes)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    print("Envoy: 1 passed, 0 failed")


def replica(plane, processes, name):
    """An application of Service `price` behind a sidecar."""
    app = subprocess.Popen(
        [sys.executable, str(pathlib.Path(__file__).parent / "http_app.py"), name], stdout=subprocess.PIPE, text=True
    )
    processes.append(app)
    plane.sidecar("price", name, f"127.0.0.1:{app.stdout.readline().strip()}")


def drive(plane, processes):
    identity = plane.identity("order")
    listen, admin = free_port(), free_port()
    config = plane.path / "envoy.json"
    config.write_text(json.dumps(bootstrap(plane, identity, listen, admin)))
    log = open(plane.path / "envoy.log", "wb")
    processes.append(
        subprocess.Popen(
            [envoy_binary(), "-c", config, "--concurrency", "1", "--use-dynamic-base-id", "-l", "warning"],
            stdout=log,
            stderr=log,
        )
    )
    try:
        mesh.eventually("Envoy is live", lambda: ask(admin, "/ready")[0] == 200)
        hosts = ["price", "price.shop", "price.shop.svc.cluster.local", "price.shop.svc.cluster.local:80"]
        for host in hosts:
            mesh.eventually(f"{host} answers", lambda: ask(listen, "/", host)[0] == 200)
        assert ask(listen, "/", "nobody")[0] == 404
        assert not nacks(admin), nacks(admin)
        stats = ask(admin, "/stats?filter=update_rejected")[1].decode()
        rejected = [line for line in stats.splitlines() if not line.endswith(": 0")]
        assert not rejected, rejected
        # A second replica, once it is ready, reaches Envoy within a second.
        replica(plane, processes, "price-1")
        seen = set()
        both = lambda: seen.add(ask(listen, "/", "price")[1]) or len(seen) == 2
        mesh.eventually("both replicas answer", both, mesh.SOON_S)
    except AssertionError:
        print((plane.path / "envoy.log").read_text()[-6000:])
        raise


if __name__ == "__main__":
    main()
