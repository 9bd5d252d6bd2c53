"""Loads its libssl late, makes one connection, and says what it counted."""

import time

time.sleep(0.05)

import json
import os
import socket
import ssl
import sys

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.load_verify_locations(os.environ["CERTIFICATE"])
time.sleep(float(sys.argv[2]))
with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as plain:
    with context.wrap_socket(plain, server_hostname="localhost") as connection:
        assert connection.recv(1) == b"x"
        # At once: others write to the same pipe.
        os.write(1, f"{json.dumps(context.session_stats())}\n".encode())
