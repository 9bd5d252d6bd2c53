/*
 * Where the fields are that sslsess learns, by the declarations that the
 * library itself was compiled from. Compiled with the flags of the library's
 * own files, to assembly only: the lines that begin with @ are the answer, so
 * nothing has to be run, and a cross compiler will do.
 */
#include <stddef.h>

#include "ssl/ssl_local.h"
#include "crypto/lhash/lhash_local.h"

#define SAY(kind, name, offset) \
    __asm__ volatile("\n@" kind " " name " %c0" : : "i"(offset))
#define FIELD(name, member) SAY("layout", name, offsetof(SSL_CTX, member))
/* A setting has a width too, and may be in parts of what it is told in. */
#define SETTING_IN(name, member, parts) \
    __asm__ volatile("\n@setting " name " %c0 %c1 %c2" \
                     : : "i"(offsetof(SSL_CTX, member)), \
                         "i"(sizeof(((SSL_CTX *)0)->member)), "i"(parts))
#define SETTING(name, member) SETTING_IN(name, member, 1)

/*
 * 3.2 put a common part, with ctx, in front of what a TLS connection has, and
 * counts time in nanoseconds (include/internal/time.h).
 */
#if OPENSSL_VERSION_NUMBER >= 0x30200000L
# define CONNECTION SSL_CONNECTION
# define IN_A_SECOND 1000000000
#else
# define CONNECTION SSL
# define IN_A_SECOND 1
#endif

void offsets(void);
void offsets(void)
{
    FIELD("connect", stats.sess_connect);
    FIELD("connect_renegotiate", stats.sess_connect_renegotiate);
    FIELD("connect_good", stats.sess_connect_good);
    FIELD("accept", stats.sess_accept);
    FIELD("accept_renegotiate", stats.sess_accept_renegotiate);
    FIELD("accept_good", stats.sess_accept_good);
    FIELD("misses", stats.sess_miss);
    FIELD("timeouts", stats.sess_timeout);
    FIELD("cache_full", stats.sess_cache_full);
    FIELD("hits", stats.sess_hit);
    FIELD("cb_hits", stats.sess_cb_hit);
    FIELD("references", references);
    FIELD("sessions", sessions);
    SAY("layout", "num_items", offsetof(struct lhash_st, num_items));
    SAY("layout", "ssl_to_ctx", offsetof(struct ssl_st, ctx));
    SAY("layout", "ssl_to_session_ctx", offsetof(CONNECTION, session_ctx));

    SETTING("cache_mode", session_cache_mode);
    SETTING("cache_size", session_cache_size);
    SETTING_IN("timeout", session_timeout, IN_A_SECOND);
    SETTING("num_tickets", num_tickets);
    SETTING("options", options);
    SETTING("min_protocol", min_proto_version);
    SETTING("max_protocol", max_proto_version);
    SETTING("new_callback", new_session_cb);
    SETTING("get_callback", get_session_cb);
    SETTING("remove_callback", remove_session_cb);
    SETTING("session_id_context_length", sid_ctx_length);
    SETTING("verify_mode", verify_mode);
}
