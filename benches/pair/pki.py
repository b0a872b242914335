"""Certificates for the peers that aren't ours: one CA, a client and a server leaf, as a mesh would issue them.

P-256, one SPIFFE URI each, and a DNS name because not every proxy can check the URI.
"""

import subprocess

LEAVES = ["client", "server"]
SERVER_NAME = "server.bench.mesh.local"

CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, stderr=subprocess.DEVNULL)


def make(folder):
    """Writes ca.pem, and {client,server}.{pem,key,both.pem}."""
    folder.mkdir()
    authority = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=bench", "-days", "30"]
    constraints = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
    openssl(folder, "req", "-x509", *CURVE, *authority, *constraints)
    for name in LEAVES:
        (folder / f"{name}.ext").write_text(
            f"subjectAltName=DNS:{name}.bench.mesh.local,URI:spiffe://cluster.local/ns/bench/sa/{name}\n"
            "extendedKeyUsage=serverAuth,clientAuth\n"
            "keyUsage=digitalSignature\n"
        )
        request = ["-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}"]
        openssl(folder, "req", "-new", *CURVE, *request)
        signed_by = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30", "-extfile", f"{name}.ext"]
        openssl(folder, "x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signed_by)
        both = (folder / f"{name}.pem").read_text() + (folder / f"{name}.key").read_text()
        (folder / f"{name}.both.pem").write_text(both)
