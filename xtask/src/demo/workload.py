"""A TLS server and its clients, on loopback, in four kinds: what resumption
looks like when it works, and when it does not."""

import os
import socket
import ssl
import sys
import threading
import time

PAUSE = 0.05


def server_context(version, tickets):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("certificate.pem", "key.pem")
    context.minimum_version = context.maximum_version = version
    if not tickets:
        context.options |= ssl.OP_NO_TICKET
    return context


def serve(listener, context):
    while True:
        connection, _ = listener.accept()
        try:
            with context.wrap_socket(connection, server_side=True) as tls:
                tls.sendall(tls.recv(64))
                tls.unwrap()
        except OSError:
            connection.close()


def use(port, resume):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations("certificate.pem")
    context.check_hostname = False
    session = None
    while True:
        with socket.create_connection(("127.0.0.1", port)) as plain:
            with context.wrap_socket(plain, session=session) as tls:
                tls.sendall(b"hello")
                tls.recv(64)
                session = tls.session if resume else None
                try:
                    tls.unwrap()
                except OSError:
                    pass
        time.sleep(PAUSE)


def main():
    kinds = [
        (ssl.TLSVersion.TLSv1_2, False, True),  # resumed by session id
        (ssl.TLSVersion.TLSv1_2, True, True),  # resumed by ticket
        (ssl.TLSVersion.TLSv1_3, True, True),  # resumed by ticket
        (ssl.TLSVersion.TLSv1_3, True, False),  # never resumed: the client forgets
    ]
    ports = []
    for version, tickets, _ in kinds:
        listener = socket.create_server(("127.0.0.1", 0))
        ports.append(listener.getsockname()[1])
        # Each server in a process of its own, as in life; all of them before
        # there are threads, which a fork does not copy.
        if os.fork() == 0:
            watch_parent()
            serve(listener, server_context(version, tickets))
        listener.close()
    for port, (_, _, resume) in zip(ports, kinds):
        threading.Thread(target=use, args=(port, resume), daemon=True).start()
    while True:
        time.sleep(3600)


def watch_parent():
    parent = os.getppid()

    def wait():
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
