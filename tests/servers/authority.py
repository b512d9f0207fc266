"""A certificate authority of our own, and a certificate for the loopback address."""

import subprocess
from pathlib import Path

from .base import find, give

# What a strict verifier (Python 3.13's default) asks of them.
_AUTHORITY = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n"
_SERVER = """basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
subjectAltName=IP:127.0.0.1,DNS:localhost
"""
_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


def write_files(folder: Path) -> None:
    """Write ca.pem (to trust), server.pem and server.key into a folder."""
    openssl = find("openssl", "every server with TLS")

    def run(*arguments: str, text: str = "") -> None:
        subprocess.run([openssl, *arguments], cwd=folder, input=text, text=True, check=True, capture_output=True)

    (folder / "ca.cnf").write_text(f"[req]\ndistinguished_name=dn\nx509_extensions=x\n[dn]\n[x]\n{_AUTHORITY}")
    run(
        *("req", "-x509", *_KEY, "-config", "ca.cnf", "-subj", "/CN=agentstore tests", "-days", "30"),
        *("-keyout", "ca.key", "-out", "ca.pem"),
    )
    (folder / "server.cnf").write_text(_SERVER)
    run(
        *("req", "-new", *_KEY, "-config", "ca.cnf", "-subj", "/CN=localhost"),
        *("-keyout", "server.key", "-out", "server.csr"),
    )
    run(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "30"),
        *("-extfile", "server.cnf", "-out", "server.pem"),
    )


def copy_to(folder: Path, user: str) -> tuple[str, str, str]:
    """The paths of CA, certificate and key, copied to a server's folder, which alone may read the key."""
    for name in ("ca.pem", "server.pem", "server.key"):
        copy = folder / name
        copy.write_bytes((folder.parent / name).read_bytes())
        copy.chmod(0o600)
        give(copy, user)
    return tuple(str(folder / name) for name in ("ca.pem", "server.pem", "server.key"))
