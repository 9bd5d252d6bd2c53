"""Plays TLS scenarios in memory with any libssl, through its C functions, and
tells what `SSL_CTX_ctrl` says of its contexts: all twelve values.

LIBSSL and LIBCRYPTO name the files. If they are one, OpenSSL is linked into it
statically, and its functions are taken from `.symtab`, exported or not.
"""

import ctypes
import json
import os
import struct
import sys
from ctypes import CFUNCTYPE, c_char_p, c_int, c_long, c_size_t, c_uint64, c_void_p

TLS12, TLS13 = 0x0303, 0x0304

# include/openssl/ssl.h; the same in 1.1.1 and 4.0.
SSL_CTRL_SET_SESS_CACHE_SIZE = 42
SSL_CTRL_SET_SESS_CACHE_MODE = 44
SSL_CTRL_SET_TLSEXT_SERVERNAME_CB = 53
SSL_CTRL_SET_TLSEXT_HOSTNAME = 55
SSL_CTRL_SET_GROUPS_LIST = 92
SSL_CTRL_SET_MIN_PROTO_VERSION = 123
SSL_CTRL_SET_MAX_PROTO_VERSION = 124
SSL_OP_NO_TICKET = 1 << 14
SSL_SESS_CACHE_SERVER = 2
SSL_SESS_CACHE_NO_INTERNAL = 0x300
SSL_FILETYPE_PEM = 1
SSL_ERROR_WANT_READ = 2
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

NEW_SESSION = CFUNCTYPE(c_int, c_void_p, c_void_p)
GET_SESSION = CFUNCTYPE(c_void_p, c_void_p, c_void_p, c_int, c_void_p)
SERVERNAME = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)

# Results and arguments of what is called.
FUNCTIONS = {
    "BIO_new": (c_void_p, [c_void_p]),
    "BIO_s_mem": (c_void_p, []),
    "BIO_up_ref": (c_int, [c_void_p]),
    "ERR_clear_error": (None, []),
    "SSL_CTX_callback_ctrl": (c_long, [c_void_p, c_int, c_void_p]),
    "SSL_CTX_ctrl": (c_long, [c_void_p, c_int, c_long, c_void_p]),
    "SSL_CTX_free": (None, [c_void_p]),
    "SSL_CTX_new": (c_void_p, [c_void_p]),
    "SSL_CTX_sess_set_get_cb": (None, [c_void_p, c_void_p]),
    "SSL_CTX_sess_set_new_cb": (None, [c_void_p, c_void_p]),
    "SSL_CTX_set_options": (c_uint64, [c_void_p, c_uint64]),
    "SSL_CTX_use_PrivateKey_file": (c_int, [c_void_p, c_char_p, c_int]),
    "SSL_CTX_use_certificate_file": (c_int, [c_void_p, c_char_p, c_int]),
    "SSL_SESSION_free": (None, [c_void_p]),
    "SSL_SESSION_get_id": (c_void_p, [c_void_p, c_void_p]),
    "SSL_SESSION_set_time": (c_long, [c_void_p, c_long]),
    "SSL_ctrl": (c_long, [c_void_p, c_int, c_long, c_void_p]),
    "SSL_do_handshake": (c_int, [c_void_p]),
    "SSL_free": (None, [c_void_p]),
    "SSL_get1_session": (c_void_p, [c_void_p]),
    "SSL_get_error": (c_int, [c_void_p, c_int]),
    "SSL_get_servername": (c_char_p, [c_void_p, c_int]),
    "SSL_get_session": (c_void_p, [c_void_p]),
    "SSL_new": (c_void_p, [c_void_p]),
    "SSL_read": (c_int, [c_void_p, c_void_p, c_int]),
    "SSL_renegotiate": (c_int, [c_void_p]),
    "SSL_renegotiate_pending": (c_int, [c_void_p]),
    "SSL_session_reused": (c_int, [c_void_p]),
    "SSL_set_SSL_CTX": (c_void_p, [c_void_p, c_void_p]),
    "SSL_set_accept_state": (None, [c_void_p]),
    "SSL_set_bio": (None, [c_void_p, c_void_p, c_void_p]),
    "SSL_set_connect_state": (None, [c_void_p]),
    "SSL_set_session": (c_int, [c_void_p, c_void_p]),
    "SSL_shutdown": (c_int, [c_void_p]),
    "SSL_write": (c_int, [c_void_p, c_void_p, c_int]),
    "TLS_method": (c_void_p, []),
}


def local_functions(path):
    """Addresses of the functions in a file's `.symtab`, by name."""
    with open(path, "rb") as file:
        data = file.read()
    (table,) = struct.unpack_from("<Q", data, 0x28)
    entry, count = struct.unpack_from("<HH", data, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * entry) for i in range(count)]
    symtab = next(section for section in sections if section[1] == 2)
    _, _, _, _, start, size, link, _, _, _ = symtab
    strings = sections[link][4]
    found = {}
    for at in range(start, start + size, 24):
        name, info, _, section, value, _ = struct.unpack_from("<IBBHQQ", data, at)
        if info & 15 == 2 and section:
            name = data[strings + name : data.index(b"\0", strings + name)]
            found[name.decode()] = value
    return found


def load():
    """The functions, as attributes."""
    libssl, libcrypto = os.environ["LIBSSL"], os.environ["LIBCRYPTO"]
    functions = type("Functions", (), {})()
    if libssl == libcrypto:
        ctypes.CDLL(libssl)
        addresses = local_functions(libssl)
        with open("/proc/self/maps") as maps:
            base = min(int(m.split("-")[0], 16) for m in maps if m.rstrip().endswith(libssl))
        for name, (result, arguments) in FUNCTIONS.items():
            function = CFUNCTYPE(result, *arguments)(base + addresses[name])
            setattr(functions, name, function)
        return functions
    # First the one that the other is linked to: it is then this very file.
    libraries = [ctypes.CDLL(libcrypto, ctypes.RTLD_GLOBAL), ctypes.CDLL(libssl)]
    for name, (result, arguments) in FUNCTIONS.items():
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
            check(C.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MIN_PROTO_VERSION, version, None))
            check(C.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_MAX_PROTO_VERSION, version, None))
            if not tickets:
                C.SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET)
            CONTEXTS.append((name, ctx))

    def open(self, session=None, name=None, drive="handshake"):
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
            check(C.SSL_ctrl(client, SSL_CTRL_SET_TLSEXT_HOSTNAME, 0, name))
        if session:
            check(C.SSL_set_session(client, session))
        try:
            shake(client, server, drive)
        except ConnectionError:
            close(client, server)
            raise
        return client, server

    def connect(self, session=None, expect_reused=None, **how):
        """One connection, closed by both sides; the client's session."""
        client, server = self.open(session, **how)
        send(server, client)
        reused = bool(C.SSL_session_reused(client))
        if expect_reused is not None:
            assert reused == expect_reused, f"reused: {reused}"
        session = C.SSL_get1_session(client)
        SESSIONS.append(session)
        close(client, server)
        return session


def close(client, server):
    for side in (client, server, client):
        C.SSL_shutdown(side)
    C.SSL_free(client), C.SSL_free(server)
    C.ERR_clear_error()


def send(sender, receiver):
    """One byte; with it come the tickets of TLS 1.3."""
    check(C.SSL_write(sender, b"x", 1))
    check(C.SSL_read(receiver, ctypes.create_string_buffer(1), 1))


def shake(client, server, drive):
    """Takes turns until both sides are done."""
    steps = {
        "handshake": (C.SSL_do_handshake, C.SSL_do_handshake),
        # Both sides only read or write: libssl shakes hands by itself.
        "read and write": (
            lambda side: C.SSL_read(side, ctypes.create_string_buffer(5), 5),
            lambda side: C.SSL_write(side, b"hello", 5),
        ),
    }[drive]
    open_sides = {client: steps[0], server: steps[1]}
    for _ in range(20):
        for side, step in list(open_sides.items()):
            C.ERR_clear_error()
            result = step(side)
            if result > 0:
                del open_sides[side]
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


def tls13_no_ticket(name):
    resume(Pair(name, TLS13, tickets=False), 4)


def not_resumed(name):
    pair = Pair(name, TLS13)
    for _ in range(3):
        pair.connect(expect_reused=False)


def unknown_session(name):
    """A session that another server made: a miss."""
    pair, other = Pair(name, TLS12, tickets=False), Pair(name, TLS12, tickets=False)
    pair.client, session = other.client, other.connect()
    pair.connect(session, expect_reused=False)


def expired(name):
    """The server finds the session, and that its time is over."""
    pair = Pair(name, TLS12, tickets=False)
    client, server = pair.open()
    # The object in the server's cache itself: it was made long ago.
    C.SSL_SESSION_set_time(C.SSL_get_session(server), 1)
    session = C.SSL_get1_session(client)
    SESSIONS.append(session)
    close(client, server)
    pair.connect(session, expect_reused=False)


def full_cache(name):
    pair = Pair(name, TLS12, tickets=False)
    C.SSL_CTX_ctrl(pair.server, SSL_CTRL_SET_SESS_CACHE_SIZE, 1, None)
    sessions = [pair.connect() for _ in range(4)]
    pair.connect(sessions[0], expect_reused=False)


def external_cache(name):
    pair = Pair(name, TLS12, tickets=False)
    cache = {}

    def key(session):
        length = ctypes.c_uint()
        return ctypes.string_at(C.SSL_SESSION_get_id(session, ctypes.byref(length)), length.value)

    @NEW_SESSION
    def keep(_connection, session):
        cache[key(session)] = session
        SESSIONS.append(session)
        return 1  # The reference is ours now.

    @GET_SESSION
    def find(_connection, name, length, copy):
        # It takes a reference of its own.
        ctypes.c_int.from_address(copy).value = 1
        return cache.get(ctypes.string_at(name, length))

    CALLBACKS.extend((keep, find))
    mode = SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL
    C.SSL_CTX_ctrl(pair.server, SSL_CTRL_SET_SESS_CACHE_MODE, mode, None)
    C.SSL_CTX_sess_set_new_cb(pair.server, keep)
    C.SSL_CTX_sess_set_get_cb(pair.server, find)
    resume(pair, 4)


def renegotiation(name):
    pair = Pair(name, TLS12)
    client, server = pair.open()
    for _ in range(2):
        check(C.SSL_renegotiate(server))
        check(C.SSL_do_handshake(server))
        buffer = ctypes.create_string_buffer(1)
        for _ in range(20):
            # The client answers the request while it reads.
            for side in (client, server):
                C.SSL_read(side, buffer, 1)
            if not C.SSL_renegotiate_pending(server):
                break
        assert not C.SSL_renegotiate_pending(server)
        send(server, client)
        send(client, server)
    close(client, server)


def sni_switch(name):
    for version in (TLS12, TLS13):
        pair, other = Pair(name, version), Pair(name, version)

        @SERVERNAME
        def choose(side, _alert, _argument, chosen=other.server):
            if C.SSL_get_servername(side, 0) == b"a.test":
                assert C.SSL_set_SSL_CTX(side, chosen) == chosen
            return 0

        CALLBACKS.append(choose)
        C.SSL_CTX_callback_ctrl(pair.server, SSL_CTRL_SET_TLSEXT_SERVERNAME_CB, choose)
        resume(pair, 4, name=b"a.test")
        resume(pair, 2, name=b"b.test")


def hello_retry_request(name):
    pair = Pair(name, TLS13)
    # The client offers a share of another group first.
    check(C.SSL_CTX_ctrl(pair.server, SSL_CTRL_SET_GROUPS_LIST, 0, b"P-384"))
    resume(pair, 3)


def failed_handshakes(name):
    pair, other = Pair(name, TLS12), Pair(name, TLS13)
    pair.server = other.server
    try:
        pair.connect()
    except ConnectionError:
        return
    raise AssertionError("there is no version in common")


def driven_by_reads_and_writes(name):
    for version in (TLS12, TLS13):
        resume(Pair(name, version), 4, drive="read and write")


SCENARIOS = {
    f.__name__: f
    for f in (
        tls12_session_ids,
        tls12_tickets,
        tls13_tickets,
        tls13_no_ticket,
        not_resumed,
        unknown_session,
        expired,
        full_cache,
        external_cache,
        renegotiation,
        sni_switch,
        hello_retry_request,
        failed_handshakes,
        driven_by_reads_and_writes,
    )
}


def value(ctx, command):
    return C.SSL_CTX_ctrl(ctx, command, 0, None)


def told():
    return [
        {
            "scenario": scenario,
            "ctx": hex(ctx),
            "stats": {name: value(ctx, command) for name, command in VALUES.items()},
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
            for _, ctx in CONTEXTS:
                C.SSL_CTX_free(ctx)
            CONTEXTS.clear()
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
