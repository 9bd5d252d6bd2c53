"""Situations in which sessions are, or are not, resumed: contexts in memory, and
workers that are forked and do not share what they keep."""

import ctypes
import functools
import os
import signal
import socket
import ssl

import oracle
from oracle import CONTEXTS, LIBSSL, TLS12, TLS13, Pair, address, resume

PR_SET_PDEATHSIG = 1
WORKERS = []


def offered_twice(pair, times, good=True):
    """A full handshake, and one that offers its session; and so on."""
    for _ in range(times):
        pair.connect(pair.connect(), good=good)


def works(name):
    resume(Pair(name, TLS13), 8)


def cache_off(name):
    pair = Pair(name, TLS12, tickets=False)
    LIBSSL.SSL_CTX_ctrl(address(pair.server), oracle.SSL_CTRL_SET_SESS_CACHE_MODE, 0, None)
    offered_twice(pair, 3)


def tiny_cache(name):
    pair = Pair(name, TLS12, tickets=False)
    LIBSSL.SSL_CTX_ctrl(address(pair.server), oracle.SSL_CTRL_SET_SESS_CACHE_SIZE, 2, None)
    for session in [pair.connect() for _ in range(8)][:4]:
        pair.connect(session)


def short_timeout(name):
    pair = Pair(name, TLS12, tickets=False)
    LIBSSL.SSL_CTX_set_timeout(address(pair.server), 1)
    sessions = [pair.connect() for _ in range(3)]
    oracle.time.sleep(2.1)
    for session in sessions:
        pair.connect(session)


def no_tickets(name):
    pair = Pair(name, TLS13)
    pair.server.num_tickets = 0
    for _ in range(4):
        pair.connect()


def no_session_id_context(name):
    pair = Pair(name, TLS12)
    pair.server.verify_mode = ssl.CERT_OPTIONAL
    LIBSSL.SSL_CTX_set_session_id_context(address(pair.server), b"", 0)
    offered_twice(pair, 3, good=False)


def never_offered(name):
    pair = Pair(name, TLS12, tickets=False)
    for _ in range(5):
        pair.connect()


def made_up_session_ids(name):
    pair = Pair(name, TLS12, tickets=False)
    pair.client.maximum_version = TLS13
    for _ in range(5):
        pair.connect()


def restarted(name):
    """Sessions of a server that is no more."""
    pair, before = Pair(name, TLS12, tickets=False), Pair(name, TLS12, tickets=False)
    pair.server.maximum_version = TLS13
    pair.client = before.client
    for session in [before.connect() for _ in range(4)]:
        pair.connect(session)


SCENARIOS = (
    works,
    cache_off,
    tiny_cache,
    short_timeout,
    no_tickets,
    no_session_id_context,
    never_offered,
    made_up_session_ids,
    restarted,
)


def small():
    """A server with room for two sessions. It could do TLS 1.3, and its client cannot."""
    pair = Pair("small", TLS12, tickets=False)
    pair.server.maximum_version = TLS13
    LIBSSL.SSL_CTX_ctrl(address(pair.server), oracle.SSL_CTRL_SET_SESS_CACHE_SIZE, 2, None)
    return pair


def crowd(pair, clients):
    """More clients than the cache has room for; each comes back after all others."""
    for session in [pair.connect() for _ in range(clients)][:-2]:
        pair.connect(session)
    pair.session = pair.connect()


def names():
    """A server that serves a name with another context."""
    pair, other = Pair("names", TLS12), Pair("chosen", TLS12)

    def choose(side, _host, _context, chosen=other.server):
        side.context = chosen

    pair.server.sni_callback = choose
    return pair


def stay(pair, times, name="localhost"):
    """One client that comes back at once."""
    pair.session = getattr(pair, "session", None) or pair.connect(name=name)
    for _ in range(times):
        pair.connect(pair.session, name=name)


@functools.cache
def pair_of(make):
    return make()


def work(context, announce):
    """A worker: serves on a port of its own."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    listener = socket.create_server(("127.0.0.1", 0))
    os.write(announce, b"%d\n" % listener.getsockname()[1])
    while True:
        plain, _ = listener.accept()
        with context.wrap_socket(plain, server_side=True) as connection:
            connection.sendall(b"x")
            connection.recv(1)


def workers(count):
    """Forks workers that serve with copies of one context."""
    pair = Pair("workers", TLS12, tickets=False)
    reader, writer = os.pipe()
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            try:
                work(pair.server, writer)
            finally:
                os._exit(1)
        with_port = b""
        while not with_port.endswith(b"\n"):
            with_port += os.read(reader, 1)
        WORKERS.append((pid, int(with_port)))
    return {"workers": [pid for pid, _ in WORKERS]}


def visit(times):
    """Goes from worker to worker, and offers to each what the one before gave."""
    client = next(c for name, c in reversed(CONTEXTS) if name == "workers")
    session = None
    for number in range(times):
        port = WORKERS[number % len(WORKERS)][1]
        with socket.create_connection(("127.0.0.1", port)) as plain:
            with client.wrap_socket(
                plain, server_hostname="localhost", session=session
            ) as connection:
                assert connection.recv(1) == b"x"
                session = connection.session


def perform(words, otherwise=oracle.perform):
    match words:
        case ["workers", count]:
            return workers(int(count))
        case ["visit", times]:
            visit(int(times))
            return {}
        case ["crowd", clients]:
            crowd(pair_of(small), int(clients))
            return {}
        case ["stay", times]:
            stay(pair_of(small), int(times))
            return {}
        case ["strangers", times]:
            for _ in range(int(times)):
                pair_of(small).connect()
            return {}
        case ["names", times]:
            stay(pair_of(names), int(times), name="a.test")
            return {}
        case _:
            return otherwise(words)


if __name__ == "__main__":
    oracle.SCENARIOS = {scenario.__name__: scenario for scenario in SCENARIOS}
    oracle.perform = perform
    oracle.main()
