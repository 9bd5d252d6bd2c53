"""Talks TLS to a PostgreSQL server through psycopg2 with the libraries in its
wheel, and asks the libssl there for the values of a context at an address."""

import ctypes
import json
import os
import sys

import psycopg2

VALUES = {
    "number": 20,
    "connect": 21,
    "connect_good": 22,
    "connect_renegotiate": 23,
    "accept": 24,
    "accept_good": 25,
    "accept_renegotiate": 26,
    "hits": 27,
    "cb_hits": 28,
    "misses": 29,
    "timeouts": 30,
    "cache_full": 31,
}

# The library that is loaded already, not another one.
LIBSSL = ctypes.CDLL(os.environ["LIBSSL"], os.RTLD_NOLOAD | os.RTLD_NOW)
LIBSSL.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
LIBSSL.SSL_CTX_ctrl.restype = ctypes.c_long

CONNECTIONS = []


def connect():
    connection = psycopg2.connect(
        host="localhost",
        hostaddr="127.0.0.1",
        port=os.environ["PORT"],
        user="test",
        dbname="postgres",
        sslmode="verify-full",
        sslrootcert=os.environ["CERTIFICATE"],
        gssencmode="disable",
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
        assert cursor.fetchone() == (True,)
    CONNECTIONS.append(connection)


def told(ctx):
    values = {
        name: LIBSSL.SSL_CTX_ctrl(int(ctx, 16), command, 0, None)
        for name, command in VALUES.items()
    }
    return {"scenario": "client", "ctx": ctx, "stats": values}


def perform(words):
    match words:
        case ["connect", count]:
            for _ in range(int(count)):
                connect()
        case ["stats", *contexts]:
            return {"contexts": [told(ctx) for ctx in contexts]}
        case ["close", count]:
            for _ in range(int(count)):
                CONNECTIONS.pop().close()
        case ["exit"]:
            # Without closing anything.
            os._exit(0)
        case _:
            raise ValueError(f"no such command: {words}")
    return {}


def main():
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        try:
            answer = perform(line.split())
        except Exception as error:  # The test shows it.
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
