"""Plays TLS scenarios in memory with the libssl of AWS-LC or BoringSSL, and
tells what its own functions say of its contexts: of the values that it counts.

LIBSSL and LIBCRYPTO name the files, VALUES the values.
"""

import ctypes
import json
import os
import sys
from ctypes import CFUNCTYPE, c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p

TLS12, TLS13 = 0x0303, 0x0304

# include/openssl/ssl.h of both.
SSL_OP_NO_TICKET = 1 << 14
SSL_SESS_CACHE_CLIENT = 1
SSL_SESS_CACHE_SERVER = 2
SSL_SESS_CACHE_NO_INTERNAL = 0x300
SSL_FILETYPE_PEM = 1
SSL_ERROR_WANT_READ = 2

NEW_SESSION = CFUNCTYPE(c_int, c_void_p, c_void_p)
GET_SESSION = CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_int, c_void_p)
SERVERNAME = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)

# Results and arguments of what is called. In both libraries these are
# functions, where OpenSSL has macros.
FUNCTIONS = {
    "BIO_new": (c_void_p, [c_void_p]),
    "BIO_s_mem": (c_void_p, []),
    "BIO_up_ref": (c_int, [c_void_p]),
    "ERR_clear_error": (None, []),
    "SSL_CTX_free": (None, [c_void_p]),
    "SSL_CTX_new": (c_void_p, [c_void_p]),
    "SSL_CTX_sess_number": (c_size_t, [c_void_p]),
    "SSL_CTX_sess_set_cache_size": (c_ulong, [c_void_p, c_ulong]),
    "SSL_CTX_sess_set_get_cb": (None, [c_void_p, c_void_p]),
    "SSL_CTX_sess_set_new_cb": (None, [c_void_p, c_void_p]),
    "SSL_CTX_set_max_proto_version": (c_int, [c_void_p, c_int]),
    "SSL_CTX_set_min_proto_version": (c_int, [c_void_p, c_int]),
    "SSL_CTX_set_options": (c_uint, [c_void_p, c_uint]),
    "SSL_CTX_set_session_cache_mode": (c_int, [c_void_p, c_int]),
    "SSL_CTX_set_tlsext_servername_callback": (c_int, [c_void_p, c_void_p]),
    "SSL_CTX_use_PrivateKey_file": (c_int, [c_void_p, c_char_p, c_int]),
    "SSL_CTX_use_certificate_file": (c_int, [c_void_p, c_char_p, c_int]),
    "SSL_SESSION_free": (None, [c_void_p]),
    "SSL_SESSION_get_id": (c_void_p, [c_void_p, c_void_p]),
    "SSL_SESSION_set_time": (ctypes.c_uint64, [c_void_p, ctypes.c_uint64]),
    "SSL_do_handshake": (c_int, [c_void_p]),
    "SSL_free": (None, [c_void_p]),
    "SSL_get_error": (c_int, [c_void_p, c_int]),
    "SSL_get_servername": (c_char_p, [c_void_p, c_int]),
    "SSL_get_session": (c_void_p, [c_void_p]),
    "SSL_new": (c_void_p, [c_void_p]),
    "SSL_read": (c_int, [c_void_p, c_void_p, c_int]),
    "SSL_session_reused": (c_int, [c_void_p]),
    "SSL_set_SSL_CTX": (c_void_p, [c_void_p, c_void_p]),
    "SSL_set_accept_state": (None, [c_void_p]),
    "SSL_set_bio": (None, [c_void_p, c_void_p, c_void_p]),
    "SSL_set_connect_state": (None, [c_void_p]),
    "SSL_set_session": (c_int, [c_void_p, c_void_p]),
    "SSL_set_tlsext_host_name": (c_int, [c_void_p, c_char_p]),
    "SSL_shutdown": (c_int, [c_void_p]),
    "SSL_write": (c_int, [c_void_p, c_void_p, c_int]),
    "TLS_method": (c_void_p, []),
}

VALUES = os.environ["VALUES"].split()


def load():
    """The functions, as attributes."""
    functions = type("Functions", (), {})()
    # First the one that the other is linked to: it is then this very file.
    names = (os.environ["LIBCRYPTO"], os.environ["LIBSSL"])
    libraries = [ctypes.CDLL(name, ctypes.RTLD_GLOBAL) for name in names]
    signatures = dict(FUNCTIONS)
    signatures |= {f"SSL_CTX_sess_{n}": (c_int, [c_void_p]) for n in VALUES if n != "number"}
    for name, (result, arguments) in signatures.items():
        function = next(getattr(lib, name) for lib in libraries if hasattr(lib, name))
        function.restype, function.argtypes = result, arguments
        setattr(functions, name, function)
    return functions


C = load()

# What is kept alive: (scenario, SSL_CTX), sessions, and what C calls back.
CONTEXTS = []
SESSIONS = []
CALLBACKS = []


def check(result):
    assert result == 1, f"a call failed: {result}"


class Pair:
    """A server's context and a client's."""

    def __init__(self, name, version, tickets=True):
        self.server, self.client = C.SSL_CTX_new(C.TLS_method()), C.SSL_CTX_new(C.TLS_method())
        certificate, key = os.environ["CERTIFICATE"].encode(), os.environ["KEY"].encode()
        check(C.SSL_CTX_use_certificate_file(self.server, certificate, SSL_FILETYPE_PEM))
        check(C.SSL_CTX_use_PrivateKey_file(self.server, key, SSL_FILETYPE_PEM))
        for ctx in (self.server, self.client):
            check(C.SSL_CTX_set_min_proto_version(ctx, version))
            check(C.SSL_CTX_set_max_proto_version(ctx, version))
            if not tickets:
                C.SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET)
            CONTEXTS.append((name, ctx))
        self.offered = []

        @NEW_SESSION
        def keep(_connection, session):
            SESSIONS.append(session)
            self.offered.append(session)
            return 1  # The reference is ours now.

        CALLBACKS.append(keep)
        mode = SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL
        C.SSL_CTX_set_session_cache_mode(self.client, mode)
        C.SSL_CTX_sess_set_new_cb(self.client, keep)

    def open(self, session=None, name=None):
        """A connection: the client's side and the server's."""
        client, server = C.SSL_new(self.client), C.SSL_new(self.server)
        to_server, to_client = C.BIO_new(C.BIO_s_mem()), C.BIO_new(C.BIO_s_mem())
        # Each is what one side writes and the other reads.
        C.BIO_up_ref(to_server), C.BIO_up_ref(to_client)
        C.SSL_set_bio(client, to_client, to_server)
        C.SSL_set_bio(server, to_server, to_client)
        C.SSL_set_connect_state(client)
        C.SSL_set_accept_state(server)
        if name:
            check(C.SSL_set_tlsext_host_name(client, name))
        if session:
            check(C.SSL_set_session(client, session))
        try:
            shake(client, server)
            send(server, client)
        except ConnectionError:
            close(client, server)
            raise
        return client, server

    def connect(self, session=None, expect_reused=None, **how):
        """One connection, closed by both sides; the session that the client got."""
        client, server = self.open(session, **how)
        reused = bool(C.SSL_session_reused(client))
        if expect_reused is not None:
            assert reused == expect_reused, f"reused: {reused}"
        close(client, server)
        return self.offered[-1] if self.offered else session


def close(client, server):
    for side in (client, server, client):
        C.SSL_shutdown(side)
    C.SSL_free(client), C.SSL_free(server)
    C.ERR_clear_error()


def send(sender, receiver):
    """One byte; before it come the tickets of TLS 1.3."""
    check(C.SSL_write(sender, b"x", 1))
    check(C.SSL_read(receiver, ctypes.create_string_buffer(1), 1))


def shake(client, server):
    """Takes turns until both sides are done."""
    open_sides = [client, server]
    for _ in range(20):
        for side in list(open_sides):
            C.ERR_clear_error()
            result = C.SSL_do_handshake(side)
            if result > 0:
                open_sides.remove(side)
            elif C.SSL_get_error(side, result) != SSL_ERROR_WANT_READ:
                raise ConnectionError("the handshake failed")
        if not open_sides:
            return
    raise RuntimeError("the handshake does not end")


def resume(pair, times, **how):
    session = None
    for i in range(times):
        session = pair.connect(session, expect_reused=i > 0, **how)


def tls12_session_ids(name):
    resume(Pair(name, TLS12, tickets=False), 5)


def tls12_tickets(name):
    resume(Pair(name, TLS12), 6)


def tls13_tickets(name):
    resume(Pair(name, TLS13), 7)


def not_resumed(name):
    pair = Pair(name, TLS12, tickets=False)
    for _ in range(3):
        pair.connect(expect_reused=False)


def unknown_session(name):
    """A session that another server made: a miss."""
    pair, other = Pair(name, TLS12, tickets=False), Pair(name, TLS12, tickets=False)
    session = other.connect()
    pair.connect(session, expect_reused=False)


def expired(name):
    """The server finds the session, and that its time is over."""
    pair = Pair(name, TLS12, tickets=False)
    client, server = pair.open()
    # The object in the server's cache itself: it was made long ago.
    C.SSL_SESSION_set_time(C.SSL_get_session(server), 1)
    close(client, server)
    pair.connect(pair.offered[-1], expect_reused=False)


def full_cache(name):
    pair = Pair(name, TLS12, tickets=False)
    C.SSL_CTX_sess_set_cache_size(pair.server, 2)
    for _ in range(5):
        pair.connect(expect_reused=False)


def external_cache(name):
    pair = Pair(name, TLS12, tickets=False)
    cache = {}

    def key(session):
        length = c_uint()
        return ctypes.string_at(C.SSL_SESSION_get_id(session, ctypes.byref(length)), length.value)

    @NEW_SESSION
    def keep(_connection, session):
        cache[key(session)] = session
        SESSIONS.append(session)
        return 1

    @GET_SESSION
    def find(_connection, name, length, copy):
        # It takes a reference of its own.
        c_int.from_address(copy).value = 1
        return cache.get(ctypes.string_at(name, length))

    CALLBACKS.extend((keep, find))
    mode = SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL
    C.SSL_CTX_set_session_cache_mode(pair.server, mode)
    C.SSL_CTX_sess_set_new_cb(pair.server, keep)
    C.SSL_CTX_sess_set_get_cb(pair.server, find)
    resume(pair, 4)


def sni_switch(name):
    for version in (TLS12, TLS13):
        pair, other = Pair(name, version), Pair(name, version)

        @SERVERNAME
        def choose(side, _alert, _argument, chosen=other.server):
            if C.SSL_get_servername(side, 0) == b"a.test":
                assert C.SSL_set_SSL_CTX(side, chosen) == chosen
            return 0

        CALLBACKS.append(choose)
        C.SSL_CTX_set_tlsext_servername_callback(pair.server, choose)
        for host in (b"a.test", b"a.test", b"b.test"):
            pair.connect(name=host)


def failed_handshake(name):
    pair, other = Pair(name, TLS12), Pair(name, TLS13)
    pair.server = other.server
    try:
        pair.connect()
    except ConnectionError:
        return
    raise AssertionError("there is no version in common")


def patterned(name):
    """Every counter has a value of its own, also those that nothing above
    moves: written to where the library's functions read them."""
    pair = Pair(name, TLS12)
    pair.connect()
    size = 0x400
    pattern = b"".join(i.to_bytes(4, "little") for i in range(size // 4))
    made_up = ctypes.create_string_buffer(pattern, size)
    for i, counter in enumerate(VALUES):
        if counter != "number":
            says = getattr(C, f"SSL_CTX_sess_{counter}")
            offset = 4 * says(ctypes.addressof(made_up))
            c_int.from_address(pair.server + offset).value = (-1) ** i * (1000 + i)
            assert says(pair.server) == (-1) ** i * (1000 + i)


SCENARIOS = {
    f.__name__: f
    for f in (
        tls12_session_ids,
        tls12_tickets,
        tls13_tickets,
        not_resumed,
        unknown_session,
        expired,
        full_cache,
        external_cache,
        sni_switch,
        failed_handshake,
        patterned,
    )
}


def told():
    return [
        {
            "scenario": scenario,
            "ctx": hex(ctx),
            "stats": {name: getattr(C, f"SSL_CTX_sess_{name}")(ctx) for name in VALUES},
        }
        for scenario, ctx in CONTEXTS
    ]


def perform(words):
    match words:
        case ["scenarios"]:
            return {"scenarios": list(SCENARIOS)}
        case ["run", name]:
            SCENARIOS[name](name)
        case ["stats"]:
            return {"contexts": told()}
        case ["free"]:
            while SESSIONS:
                C.SSL_SESSION_free(SESSIONS.pop())
            while CONTEXTS:
                C.SSL_CTX_free(CONTEXTS.pop()[1])
        case ["exit"]:
            # Without freeing anything.
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
