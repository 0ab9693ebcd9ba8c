"""Servers that want a certificate and read a revocation list: server.crt, server.key, ca.crt and ca.crl of a folder."""

from __future__ import annotations

import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def haproxy(folder: Path) -> Iterator[int]:
    """A port that wants a certificate, as the door of a host has it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    (folder / "h.cfg").write_text(
        "global\n  ssl-load-extra-del-ext\n  ssl-load-extra-files key\ndefaults\n  mode http\n  timeout client 5s\n"
        f"  timeout server 5s\n  timeout connect 5s\nfrontend f\n  bind 127.0.0.1:{port} ssl crt {folder}/server.crt "
        f"ca-file {folder}/ca.crt crl-file {folder}/ca.crl verify required\n  http-request return status 200\n"
    )
    running = subprocess.Popen(["haproxy", "-db", "-f", str(folder / "h.cfg")], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 10
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert running.poll() is None
            assert time.monotonic() < until
            time.sleep(0.05)
        yield port
    finally:
        running.terminate()
        running.wait(10)


@contextmanager
def python(folder: Path) -> Iterator[int]:
    """The same by Python's own TLS, as the services use it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    context.load_verify_locations(cafile=str(folder / "ca.crt"))
    context.load_verify_locations(cafile=str(folder / "ca.crl"))
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                accepted, _ = listener.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(accepted, server_side=True) as stream:
                    stream.recv(1024)
                    stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                accepted.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)
