"""A client of Python's ssl module: so many connections with one context. Prints what it
was answered. Arguments: a port of 127.0.0.1, the version of TLS, whether to resume (1 or
0), and how many connections."""

import socket
import ssl
import sys

port, version, resume, count = sys.argv[1:]
REQUEST = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
only = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
context.minimum_version = context.maximum_version = only
session = None
for _ in range(int(count)):
    plain = socket.create_connection(("127.0.0.1", int(port)))
    with context.wrap_socket(plain, session=session) as tls:
        tls.sendall(REQUEST)
        answer = b""
        while more := tls.recv(4096):
            answer += more
        print(answer.split(b"\r\n\r\n", 1)[1].decode(), end="")
        if resume == "1":
            session = tls.session
