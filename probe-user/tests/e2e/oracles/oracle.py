"""Plays TLS scenarios in memory, and tells what Python's ssl module says of
its contexts (`SSLContext.session_stats`: eleven of the twelve)."""

import ctypes
import gc
import json
import os
import ssl
import sys
import threading
import time

LIBSSL = ctypes.CDLL("libssl.so.3")
LIBSSL.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
LIBSSL.SSL_CTX_ctrl.restype = ctypes.c_long
LIBSSL.SSL_CTX_set_timeout.argtypes = [ctypes.c_void_p, ctypes.c_long]
LIBSSL.SSL_CTX_get_timeout.argtypes = [ctypes.c_void_p]
LIBSSL.SSL_CTX_get_timeout.restype = ctypes.c_long
LIBSSL.SSL_CTX_set_session_id_context.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint]
for _function in ("sess_set_new_cb", "sess_set_get_cb", "sess_set_remove_cb"):
    getattr(LIBSSL, f"SSL_CTX_{_function}").argtypes = [ctypes.c_void_p, ctypes.c_void_p]
for _function in ("sess_get_new_cb", "sess_get_get_cb", "sess_get_remove_cb"):
    getattr(LIBSSL, f"SSL_CTX_{_function}").argtypes = [ctypes.c_void_p]
    getattr(LIBSSL, f"SSL_CTX_{_function}").restype = ctypes.c_void_p
LIBSSL.SSL_set_SSL_CTX.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
LIBSSL.SSL_set_SSL_CTX.restype = ctypes.c_void_p
LIBSSL.SSL_CTX_set_cert_cb.argtypes = [ctypes.c_void_p] * 3
CERT_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
SSL_CTRL_SET_SESS_CACHE_SIZE = 42
SSL_CTRL_GET_SESS_CACHE_SIZE = 43
SSL_CTRL_SET_SESS_CACHE_MODE = 44
SSL_CTRL_GET_SESS_CACHE_MODE = 45
SSL_CTRL_GET_MIN_PROTO_VERSION = 130
SSL_CTRL_GET_MAX_PROTO_VERSION = 131
SSL_CTRL_SESS_CB_HIT = 28

TLS12 = ssl.TLSVersion.TLSv1_2
TLS13 = ssl.TLSVersion.TLSv1_3

# What is kept alive: (scenario, context).
CONTEXTS = []
# What C code calls.
CALLBACKS = []


def address(context):
    """The SSL_CTX of a context: the first member after the object's header."""
    return ctypes.c_void_p.from_address(id(context) + 16).value


class Pair:
    """A server's context and a client's."""

    def __init__(self, name, version, tickets=True, client_certs=False):
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.server.load_cert_chain(os.environ["CERTIFICATE"], os.environ["KEY"])
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.client.load_verify_locations(os.environ["CERTIFICATE"])
        for context in (self.server, self.client):
            context.minimum_version = context.maximum_version = version
            if not tickets:
                context.options |= ssl.OP_NO_TICKET
            CONTEXTS.append((name, context))

    def connect(self, session=None, name="localhost", drive="handshake", good=True):
        """One connection, closed by both sides; the client's session."""
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.client.wrap_bio(to_client, to_server, server_hostname=name, session=session)
        server = self.server.wrap_bio(to_server, to_client, server_side=True)
        try:
            shake(client, server, drive)
        except ssl.SSLError:
            if good:
                raise
            return None
        server.write(b"x")
        assert client.read(1) == b"x"
        session = client.session
        for side in (client, server, client):
            try:
                side.unwrap()
            except ssl.SSLError:
                pass
        return session


def shake(client, server, drive):
    done = set()
    for _ in range(20):
        for side in (client, server):
            if side in done:
                continue
            try:
                if drive == "handshake":
                    side.do_handshake()
                elif side is server:
                    # Both sides only read or write: libssl shakes hands by itself.
                    side.write(b"hello")
                else:
                    side.read(5)
                done.add(side)
            except ssl.SSLWantReadError:
                pass
        if len(done) == 2:
            return
    raise RuntimeError("the handshake does not end")


def resume(pair, times, **how):
    session = None
    for _ in range(times):
        session = pair.connect(session, **how) or session


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
        pair.connect()


def unknown_session(name):
    """A session that another server made: a miss."""
    pair, other = Pair(name, TLS12, tickets=False), Pair(name, TLS12, tickets=False)
    pair.client, session = other.client, other.connect()
    pair.connect(session)


def expired(name):
    pair = Pair(name, TLS12, tickets=False)
    LIBSSL.SSL_CTX_set_timeout(address(pair.server), 1)
    session = pair.connect()
    time.sleep(2.1)
    pair.connect(session)


def full_cache(name):
    pair = Pair(name, TLS12, tickets=False)
    LIBSSL.SSL_CTX_ctrl(address(pair.server), SSL_CTRL_SET_SESS_CACHE_SIZE, 3, None)
    sessions = [pair.connect() for _ in range(9)]
    pair.connect(sessions[0])
    pair.connect(sessions[-1])


def sni_switch(name):
    for version in (TLS12, TLS13):
        pair, other = Pair(name, version), Pair(name, version)
        chosen = other.server

        def choose(side, host, _context, chosen=chosen):
            if host == "a.test":
                side.context = chosen

        pair.server.sni_callback = choose
        resume(pair, 4, name="a.test")
        resume(pair, 2, name="b.test")


def late_switch(name):
    """To another context when the server name is dealt with: no `accept` is moved."""
    for version in (TLS12, TLS13):
        pair, other = Pair(name, version), Pair(name, version)
        chosen = address(other.server)

        def choose(side, _argument, chosen=chosen):
            LIBSSL.SSL_set_SSL_CTX(side, chosen)
            return 1

        CALLBACKS.append(CERT_CALLBACK(choose))
        callback = ctypes.cast(CALLBACKS[-1], ctypes.c_void_p)
        LIBSSL.SSL_CTX_set_cert_cb(address(pair.server), callback, None)
        resume(pair, 3)


def hello_retry_request(name):
    pair = Pair(name, TLS13)
    # The client offers a share of X25519 first.
    pair.server.set_ecdh_curve("secp384r1")
    resume(pair, 3)


def failed_handshakes(name):
    # No version in common.
    pair = Pair(name, TLS12)
    pair.server.minimum_version = pair.server.maximum_version = TLS13
    pair.connect(good=False)
    # A name that the certificate does not have.
    for version in (TLS12, TLS13):
        pair = Pair(name, version)
        pair.connect(name="wrong.test", good=False)
        pair.connect()


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
        sni_switch,
        late_switch,
        hello_retry_request,
        failed_handshakes,
        driven_by_reads_and_writes,
    )
}


def threads(count, each):
    """Many threads on one server context, each a client context of its own."""
    shared = Pair("threads", TLS12)
    pairs = [shared] + [Pair("threads", TLS12) for _ in range(count - 1)]
    for pair in pairs:
        pair.server = shared.server
    workers = [threading.Thread(target=resume, args=(pair, each)) for pair in pairs]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def slow(count, milliseconds):
    """Handshakes with a pause in their midst; how long each side took at most and at
    least, in nanoseconds."""
    pair = Pair("slow", TLS13)
    most = least = 0
    for _ in range(count):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = pair.client.wrap_bio(to_client, to_server, server_hostname="localhost")
        server = pair.server.wrap_bio(to_server, to_client, server_side=True)
        before = time.monotonic_ns()
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
        inner = time.monotonic_ns()
        time.sleep(milliseconds / 1000)
        least += time.monotonic_ns() - inner
        shake(client, server, "handshake")
        most += time.monotonic_ns() - before
    return {"most": most, "least": least}


def begin(count):
    """Handshakes that start, and do not get far."""
    pair = Pair("begun", TLS13)
    globals()["BEGUN"] = begun = []
    for _ in range(count):
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = pair.client.wrap_bio(to_client, to_server, server_hostname="localhost")
        server = pair.server.wrap_bio(to_server, to_client, server_side=True)
        for side in (client, server):
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                pass
        begun.append((client, server))


def complete(count):
    """Some of these go on."""
    begun = globals()["BEGUN"]
    for client, server in begun[:count]:
        shake(client, server, "handshake")
    del begun[:count]


def late(count):
    pair = Pair("late", TLS12)
    resume(pair, count)
    globals()["LATE"] = pair


def fork(count):
    """A child goes on with copies of the contexts, and tells of them."""
    pair = Pair("fork", TLS12)
    resume(pair, count)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resume(pair, 5)
        os.write(writer, json.dumps(told()).encode())
        os.close(writer)
        # Wait to be killed: the contexts live meanwhile.
        threading.Event().wait()
    os.close(writer)
    resume(pair, 3)
    text = b""
    while chunk := os.read(reader, 65536):
        text += chunk
    return {"child": child, "contexts": json.loads(text)}


def hide_and_die():
    """Is killed with memory that nobody can read: that of the contexts."""
    libc = ctypes.CDLL(None)
    mprotect, kill, own = libc.mprotect, libc.kill, ctypes.c_int(os.getpid())
    mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    page = 4096
    starts = [ctypes.c_void_p(address(context) & -page) for _, context in CONTEXTS]
    length, nothing, signal = ctypes.c_size_t(2 * page), ctypes.c_int(0), ctypes.c_int(9)
    for start in starts:
        mprotect(start, length, nothing)
    kill(own, signal)


def churn(count):
    """Contexts that are used three times and freed, one after the other."""
    for _ in range(count):
        pair = Pair("churn", TLS12, tickets=False)
        resume(pair, 3)
        pair = None
        CONTEXTS.clear()


def told():
    return [
        {
            "scenario": scenario,
            "ctx": hex(address(context)),
            "stats": {
                **context.session_stats(),
                "cb_hits": LIBSSL.SSL_CTX_ctrl(address(context), SSL_CTRL_SESS_CB_HIT, 0, None),
            },
        }
        for scenario, context in CONTEXTS
    ]


def varied(seconds):
    """Contexts whose settings are not the defaults, each used once."""
    number = 0
    for version in (TLS12, TLS13):
        for tickets in (True, False):
            number += 1
            pair = Pair(f"varied {number}", version, tickets)
            ctx = address(pair.server)
            LIBSSL.SSL_CTX_set_timeout(ctx, seconds + number)
            LIBSSL.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_SESS_CACHE_SIZE, 1000 * number, None)
            LIBSSL.SSL_CTX_ctrl(ctx, SSL_CTRL_SET_SESS_CACHE_MODE, 0x302 if tickets else 0x3, None)
            LIBSSL.SSL_CTX_set_session_id_context(ctx, b"some name", number)
            pair.server.num_tickets = number
            pair.server.verify_mode = ssl.CERT_OPTIONAL if tickets else ssl.CERT_NONE
            pair.connect()


def settings():
    """What the library's own functions say, and Python's attributes."""
    said = []
    for scenario, context in CONTEXTS:
        ctx = address(context)
        ctrl = lambda command: LIBSSL.SSL_CTX_ctrl(ctx, command, 0, None)
        said.append(
            {
                "scenario": scenario,
                "ctx": hex(ctx),
                "settings": {
                    "cache_mode": ctrl(SSL_CTRL_GET_SESS_CACHE_MODE),
                    "cache_size": ctrl(SSL_CTRL_GET_SESS_CACHE_SIZE),
                    "timeout": LIBSSL.SSL_CTX_get_timeout(ctx),
                    "num_tickets": context.num_tickets,
                    "options": int(context.options),
                    "min_protocol": ctrl(SSL_CTRL_GET_MIN_PROTO_VERSION),
                    "max_protocol": ctrl(SSL_CTRL_GET_MAX_PROTO_VERSION),
                    "new_callback": LIBSSL.SSL_CTX_sess_get_new_cb(ctx) is not None,
                    "get_callback": LIBSSL.SSL_CTX_sess_get_get_cb(ctx) is not None,
                    "remove_callback": LIBSSL.SSL_CTX_sess_get_remove_cb(ctx) is not None,
                    "verify_mode": LIBSSL.SSL_CTX_get_verify_mode(ctypes.c_void_p(ctx)),
                },
            }
        )
    return said


def perform(words):
    match words:
        case ["varied", seconds]:
            varied(int(seconds))
        case ["lengthen", seconds]:
            for _, context in CONTEXTS:
                timeout = LIBSSL.SSL_CTX_get_timeout(address(context))
                LIBSSL.SSL_CTX_set_timeout(address(context), timeout + int(seconds))
        case ["settings"]:
            return {"contexts": settings()}
        case ["scenarios"]:
            return {"scenarios": list(SCENARIOS)}
        case ["run", name]:
            SCENARIOS[name](name)
        case ["threads", count, each]:
            threads(int(count), int(each))
        case ["churn", count]:
            churn(int(count))
        case ["slow", count, milliseconds]:
            return slow(int(count), int(milliseconds))
        case ["begin", count]:
            begin(int(count))
        case ["complete", count]:
            complete(int(count))
        case ["late", count]:
            late(int(count))
        case ["again"]:
            globals()["LATE"].connect()
        case ["fork", count]:
            return fork(int(count))
        case ["stats"]:
            gc.collect()
            return {"contexts": told()}
        case ["free"]:
            for _, context in CONTEXTS:
                if context.protocol == ssl.PROTOCOL_TLS_SERVER:
                    context.sni_callback = None
            CONTEXTS.clear()
            globals().pop("LATE", None)
            globals().pop("BEGUN", None)
            gc.collect()
        case ["hide_and_die"]:
            hide_and_die()
        case ["exec_beside_a_thread", *command]:
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            os.execvp(command[0], command)
        case ["exec", *command]:
            os.execvp(command[0], command)
        case ["exit"]:
            # Without freeing anything.
            os._exit(0)
        case _:
            raise ValueError(f"no such command: {words}")
    return {}


def abandon():
    """Ends the main thread; another one goes on with the commands."""
    threading.Thread(target=serve).start()
    ctypes.CDLL(None).pthread_exit(None)


def serve():
    # Not an iterator over the lines, which two threads cannot share.
    while line := sys.stdin.readline():
        if line.split() == ["abandon"]:
            abandon()
        try:
            answer = perform(line.split())
        except Exception as error:  # The test shows it.
            answer = {"error": repr(error)}
        print(json.dumps(answer), flush=True)


def main():
    print(json.dumps({"ready": True}), flush=True)
    serve()


if __name__ == "__main__":
    main()
