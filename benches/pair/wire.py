"""The wire: two network namespaces joined by a veth pair, and the redirects that make it a sidecars' wire.

    load (client) -> REDIRECT -> outbound proxy -> veth -> REDIRECT -> inbound proxy -> backend (server)

The load generator always dials SERVER:PORT. What a proxy sends is not redirected on its way out; proxies are told by
their group, PROXY_GROUP, so that nothing else about them has to be special.
"""

import contextlib
import shutil
import subprocess

CLIENT = "weft-bench-client"
SERVER = "weft-bench-server"
CLIENT_ADDRESS = "10.77.0.1"
SERVER_ADDRESS = "10.77.0.2"
PROXY_GROUP = 2102

# Port of the application: (the outbound proxy's, the inbound proxy's).
HTTP1_PORT = 8080
HTTP2_PORT = 8082
REDIRECTS = {HTTP1_PORT: (4140, 4143), HTTP2_PORT: (4142, 4144)}

TOOLS = ["ip", "iptables", "sysctl", "taskset", "setpriv", "openssl", "nginx", "wrk", "h2load", "curl"]

# A thousand short connections must not run out of ports, nor of places in a queue.
SETTINGS = [
    "net.ipv4.ip_local_port_range=10000 65000",
    "net.ipv4.tcp_tw_reuse=1",
    "net.core.somaxconn=8192",
]


def missing_tools():
    return [tool for tool in TOOLS if not shutil.which(tool)]


def inside(namespace, *command):
    """The command line that runs `command` in a namespace."""
    return ["ip", "netns", "exec", namespace, *map(str, command)]


def run(*command):
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def iptables(namespace, *rule):
    run(*inside(namespace, "iptables", "-w", "-t", "nat", *rule))


@contextlib.contextmanager
def wire():
    """Both namespaces, for as long as the block lasts."""
    remove()  # What a run left behind that was killed.
    try:
        run("ip", "netns", "add", CLIENT)
        run("ip", "netns", "add", SERVER)
        run("ip", "link", "add", "veth-c", "netns", CLIENT, "type", "veth", "peer", "name", "veth-s", "netns", SERVER)
        for namespace, link, address in [(CLIENT, "veth-c", CLIENT_ADDRESS), (SERVER, "veth-s", SERVER_ADDRESS)]:
            run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", link)
            run("ip", "-n", namespace, "link", "set", "lo", "up")
            run("ip", "-n", namespace, "link", "set", link, "up")
            run(*inside(namespace, "sysctl", "-qw", *SETTINGS))
        yield
    finally:
        remove()


def remove():
    for namespace in [CLIENT, SERVER]:
        subprocess.run(["ip", "netns", "delete", namespace], stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def redirects():
    """Sends every connection through the two proxies."""
    try:
        for port, (outbound, inbound) in REDIRECTS.items():
            foreign = ["-m", "owner", "!", "--gid-owner", PROXY_GROUP]
            match = ["-p", "tcp", "-d", SERVER_ADDRESS, "--dport", port]
            iptables(CLIENT, "-A", "OUTPUT", *match, *foreign, "-j", "REDIRECT", "--to-ports", outbound)
            iptables(SERVER, "-A", "PREROUTING", "-i", "veth-s", *match, "-j", "REDIRECT", "--to-ports", inbound)
        yield
    finally:
        for namespace in [CLIENT, SERVER]:
            iptables(namespace, "-F")
