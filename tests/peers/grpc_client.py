"""A real gRPC client (Python, C core) as an xDS client of our control plane and a caller of a sidecar under Strict.

    python grpc_client.py path/to/weft
"""

import json
import os
import sys

import mesh


def bootstrap(plane, identity):
    files = {
        "certificate_file": str(identity / "tls.crt"),
        "private_key_file": str(identity / "tls.key"),
        "ca_certificate_file": str(identity / "ca.crt"),
    }
    return {
        "xds_servers": [
            {
                "server_uri": plane.xds.replace("127.0.0.1", "localhost"),
                "channel_creds": [{"type": "tls", "config": files}],
                "server_features": ["xds_v3"],
            }
        ],
        "node": {"id": "shop/sa/order", "locality": {"zone": ""}},
        "certificate_providers": {
            "default": {"plugin_name": "file_watcher", "config": {**files, "refresh_interval": "1s"}}
        },
    }


def statuses():
    """What the client itself says of each resource it holds (CSDS)."""
    import grpc_csds
    from envoy.service.status.v3 import csds_pb2

    servicer = grpc_csds.ClientStatusDiscoveryServiceServicer()
    answer = servicer.FetchClientStatus(csds_pb2.ClientStatusRequest(), None)
    return [config for client in answer.config for config in client.generic_xds_configs]


def main():
    weft = os.path.abspath(sys.argv[1])
    apps = []
    try:
        with mesh.Mesh(weft) as plane:
            first, address = mesh.start_app("stock-0")
            apps.append(first)
            plane.sidecar("stock", "stock-0", address)
            identity = plane.identity("order")
            os.environ["GRPC_XDS_BOOTSTRAP_CONFIG"] = json.dumps(bootstrap(plane, identity))
            call_everything(plane, apps)
    finally:
        for process in apps:
            process.kill()
            process.wait()
    print("gRPC: 1 passed, 0 failed")


def call_everything(plane, apps):
    import grpc

    credentials = grpc.xds_channel_credentials(grpc.local_channel_credentials())
    with grpc.secure_channel("xds:///stock.shop.svc.cluster.local:80", credentials) as channel:
        unary = channel.unary_unary("/stock.Stock/Get")
        answer, call = unary.with_call(b"sku", timeout=mesh.PATIENCE_S)
        assert answer == b"stock-0", answer
        assert ("x-served-by", "stock-0") in [tuple(pair) for pair in call.trailing_metadata()]
        streamed = list(channel.unary_stream("/stock.Stock/Stream")(b"sku", timeout=mesh.PATIENCE_S))
        assert streamed == [b"stock-0 0", b"stock-0 1", b"stock-0 2"], streamed

        held = statuses()
        kinds = {config.type_url.rsplit(".", 1)[-1] for config in held}
        assert {"Listener", "RouteConfiguration", "Cluster", "ClusterLoadAssignment"} <= kinds, kinds
        refused = [config for config in held if config.client_status != 3]  # ACKED
        assert not refused, refused

        # A new replica, once it is ready, reaches the client within a second: both answer.
        second, address = mesh.start_app("stock-1")
        apps.append(second)
        plane.sidecar("stock", "stock-1", address)
        seen = set()
        both = lambda: seen.add(unary(b"sku", timeout=5)) or len(seen) == 2
        mesh.eventually("both replicas answer", both, mesh.SOON_S)

    with grpc.secure_channel("xds:///stock:80", credentials) as channel:
        assert channel.unary_unary("/stock.Stock/Get")(b"sku", timeout=mesh.PATIENCE_S).startswith(b"stock-")


if __name__ == "__main__":
    main()
