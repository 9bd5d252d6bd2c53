"""A TLS server that says how many connections it had, when it is asked."""

import json
import os
import socket
import ssl
import sys
import threading

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
CONTEXT.load_cert_chain(os.environ["CERTIFICATE"], os.environ["KEY"])


def serve(plain):
    with CONTEXT.wrap_socket(plain, server_side=True) as connection:
        connection.send(b"x")
        connection.recv(1)


def accept(listener):
    while True:
        plain, _ = listener.accept()
        threading.Thread(target=serve, args=[plain], daemon=True).start()


def main():
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    threading.Thread(target=accept, args=[listener], daemon=True).start()
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        match line.split():
            case ["port"]:
                answer = {"port": listener.getsockname()[1]}
            case ["count"]:
                answer = {"count": CONTEXT.session_stats()["accept_good"]}
            case words:
                answer = {"error": f"no such command: {words}"}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
