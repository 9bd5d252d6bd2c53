"""Contexts that are idle, and what looks like them, beside what oracle.py plays."""

import ctypes
import gc
import os
import ssl
import threading

import oracle

played = oracle.perform

# What is kept alive.
LOOKALIKES = []

# The places of an SSL_CTX that have its marks lie within this, in every release.
COPIED = 0x100

# Where Debian's libssl 3.0 has them: what looks like a context has to be made
# by somebody who knows.
METHOD, SESSIONS, REFERENCES = 0x8, 0x30, 0xA4


def contexts_of(scenario):
    return [context for name, context in oracle.CONTEXTS if name == scenario]


def forget(scenario):
    """Frees contexts; where they were."""
    freed = [hex(oracle.address(context)) for context in contexts_of(scenario)]
    oracle.CONTEXTS[:] = [(name, c) for name, c in oracle.CONTEXTS if name != scenario]
    gc.collect()
    return freed


def word(number):
    return number.to_bytes(8, "little")


def nearly(context, no_hash):
    """Bytes of a context, each time with one mark that is wrong. They are changed in
    place: nowhere an exact copy is left behind."""
    bytes_of = bytearray(COPIED)
    in_place = (ctypes.c_char * COPIED).from_buffer(bytes_of)
    ctypes.memmove(in_place, oracle.address(context), COPIED)

    def put(offset, word):
        kept = bytes(bytes_of[offset : offset + len(word)])
        bytes_of[offset : offset + len(word)] = word
        return kept

    references = put(REFERENCES, bytes(4))
    yield bytes(bytes_of)
    put(REFERENCES, b"\xff\xff\xff\xff")
    yield bytes(bytes_of)
    method = int.from_bytes(bytes_of[METHOD : METHOD + 8], "little")
    put(METHOD, word(method + 8))
    put(REFERENCES, references)
    yield bytes(bytes_of)
    put(SESSIONS, word(no_hash))
    put(METHOD, word(method))
    yield bytes(bytes_of)
    put(SESSIONS, word(0x10))
    yield bytes(bytes_of)
    put(SESSIONS, word(method))
    yield bytes(bytes_of)
    yield word(method) * (COPIED // 8)


def lookalikes(scenario, mebibytes):
    """Fills so much memory with what is nearly a context; and, of the first of a
    scenario, with exact copies."""
    no_hash = ctypes.create_string_buffer(4096)
    kinds = [ctypes.string_at(oracle.address(contexts_of(scenario)[0]), COPIED)]
    kinds.extend(nearly(oracle.CONTEXTS[0][1], ctypes.addressof(no_hash)))
    # As many as make a mebibyte.
    mebibyte = b"".join(kinds) * ((1 << 20) // (COPIED * len(kinds)))
    memory = bytearray(mebibytes << 20)
    for at in range(0, len(memory), 1 << 20):
        memory[at : at + (1 << 20)] = mebibyte
    LOOKALIKES.extend([no_hash, memory])


def connect(scenario):
    """One connection between the first two contexts of a scenario, of which the first serves."""
    server, client = contexts_of(scenario)[:2]
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server, server_hostname="localhost"),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    oracle.shake(*sides, "handshake")


def stale(scenario):
    """Copies contexts byte by byte, and frees them: the copies still have
    references, and point to hashes that are gone."""
    contexts = contexts_of(scenario)
    copies = [bytearray(ctypes.string_at(oracle.address(c), COPIED)) for c in contexts]
    LOOKALIKES.extend(copies)
    # So that the allocator's fastest lists are full, which leave least in what is freed.
    sizes = [ctypes.create_string_buffer(size) for size in (72, 104) for _ in range(16)]
    contexts = None
    del sizes
    return forget(scenario)


def perform(words):
    match words:
        case ["unused", count]:
            for _ in range(int(count)):
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                oracle.CONTEXTS.append(("unused", context))
        case ["forget", scenario]:
            return {"freed": forget(scenario)}
        case ["lookalikes", scenario, mebibytes]:
            lookalikes(scenario, int(mebibytes))
        case ["stale", scenario]:
            return {"freed": stale(scenario)}
        case ["connect", scenario]:
            connect(scenario)
        case ["forked"]:
            child = os.fork()
            if child == 0:
                # Wait to be killed, without having used anything.
                threading.Event().wait()
            return {"child": child}
        case _:
            return played(words)
    return {}


if __name__ == "__main__":
    oracle.perform = perform
    oracle.main()
