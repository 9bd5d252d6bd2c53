/*
 * Where the fields are that sslsess learns of AWS-LC and BoringSSL, by the
 * declarations that the library itself was compiled from. Compiled to assembly
 * only: the lines that begin with @ are the answer.
 */
#include <stddef.h>

#include "ssl/internal.h"

#define SAY(name, offset) \
    __asm__ volatile("\n@layout " name " %c0" : : "i"(offset))
#define FIELD(name, member) SAY(name, offsetof(ssl_ctx_st, member))

void offsets();
void offsets()
{
#ifdef OPENSSL_IS_AWSLC
    FIELD("connect", stats.sess_connect);
    FIELD("connect_renegotiate", stats.sess_connect_renegotiate);
    FIELD("connect_good", stats.sess_connect_good);
    FIELD("accept", stats.sess_accept);
    FIELD("accept_good", stats.sess_accept_good);
    FIELD("misses", stats.sess_miss);
    FIELD("timeouts", stats.sess_timeout);
    FIELD("cache_full", stats.sess_cache_full);
    FIELD("hits", stats.sess_hit);
    FIELD("cb_hits", stats.sess_cb_hit);
    FIELD("references", references_);
#else
    FIELD("references", references);
#endif
    FIELD("sessions", sessions);
    SAY("ssl_to_ctx", offsetof(ssl_st, ctx));
}
