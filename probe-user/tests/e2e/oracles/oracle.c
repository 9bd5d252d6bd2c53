/* Plays TLS scenarios in memory, and tells what SSL_CTX_sess_* say of its
 * contexts: all twelve. Speaks the language of the other oracles. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/ssl.h>

/* Contexts that are kept alive, two for each pair. */
#define MOST 128

static struct {
    const char *scenario;
    SSL_CTX *ctx;
} contexts[MOST];
static int count;

/* A server's context and a client's, and the client's last session. */
struct pair {
    SSL_CTX *server, *client;
    SSL_SESSION *session;
};

static void require(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "oracle: %s failed\n", what);
        exit(1);
    }
}

static SSL_CTX *keep(const char *scenario, SSL_CTX *ctx)
{
    require(ctx != NULL && count < MOST, "SSL_CTX_new");
    contexts[count].scenario = scenario;
    contexts[count++].ctx = ctx;
    return ctx;
}

/* The newest session of the client that is being served: TLS 1.3 sends them
 * after the handshake. */
static SSL_SESSION *newest;

static int new_session(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(newest);
    newest = session;
    return 1;
}

static struct pair new_pair(const char *scenario, int version, int tickets)
{
    struct pair pair = {keep(scenario, SSL_CTX_new(TLS_server_method())),
                        keep(scenario, SSL_CTX_new(TLS_client_method())), NULL};
    SSL_CTX *both[] = {pair.server, pair.client};
    for (int i = 0; i < 2; i++) {
        SSL_CTX_set_min_proto_version(both[i], version);
        SSL_CTX_set_max_proto_version(both[i], version);
        if (!tickets)
            SSL_CTX_set_options(both[i], SSL_OP_NO_TICKET);
    }
    require(SSL_CTX_use_certificate_chain_file(pair.server, getenv("CERTIFICATE")), "certificate");
    require(SSL_CTX_use_PrivateKey_file(pair.server, getenv("KEY"), SSL_FILETYPE_PEM), "key");
    SSL_CTX_set_session_id_context(pair.server, (const unsigned char *)"oracle", 6);
    SSL_CTX_set_session_cache_mode(pair.client,
                                   SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL_STORE);
    SSL_CTX_sess_set_new_cb(pair.client, new_session);
    return pair;
}

/* One connection, closed by both sides. Says whether the handshake was good. */
static int connect_once(struct pair *pair, SSL_SESSION *session, const char *name, int by_reading)
{
    BIO *to_server, *to_client;
    SSL *client = SSL_new(pair->client), *server = SSL_new(pair->server);
    require(client && server && BIO_new_bio_pair(&to_server, 1 << 16, &to_client, 1 << 16), "SSL_new");
    SSL_set_bio(client, to_server, to_server);
    SSL_set_bio(server, to_client, to_client);
    SSL_set_connect_state(client);
    SSL_set_accept_state(server);
    SSL_set_tlsext_host_name(client, name);
    if (session)
        SSL_set_session(client, session);
    char byte = 0;
    int good = 0;
    for (int round = 0; round < 20 && !good; round++) {
        if (by_reading) {
            /* Both only read or write: libssl shakes hands by itself. */
            good = SSL_read(client, &byte, 1) == 1;
            if (!good)
                SSL_write(server, "x", 1);
        } else {
            int client_done = SSL_do_handshake(client) == 1;
            good = SSL_do_handshake(server) == 1 && client_done;
        }
    }
    if (good) {
        SSL_write(server, "x", 1);
        require(SSL_read(client, &byte, 1) == 1, "SSL_read");
        SSL_shutdown(client);
        SSL_shutdown(server);
        SSL_shutdown(client);
        SSL_SESSION_free(pair->session);
        pair->session = newest;
        newest = NULL;
    }
    SSL_free(client);
    SSL_free(server);
    return good;
}

static void resume(struct pair *pair, int times, const char *name, int by_reading)
{
    for (int i = 0; i < times; i++) {
        SSL_SESSION *session = pair->session;
        pair->session = NULL;
        require(connect_once(pair, session, name, by_reading), "the handshake");
        if (pair->session == NULL)
            pair->session = session;
        else
            SSL_SESSION_free(session);
    }
}

static void done(struct pair *pair)
{
    SSL_SESSION_free(pair->session);
    pair->session = NULL;
}

static void tls12_session_ids(const char *scenario)
{
    struct pair pair = new_pair(scenario, TLS1_2_VERSION, 0);
    resume(&pair, 5, "localhost", 0);
    done(&pair);
}

static void tls12_tickets(const char *scenario)
{
    struct pair pair = new_pair(scenario, TLS1_2_VERSION, 1);
    resume(&pair, 6, "localhost", 0);
    done(&pair);
}

static void tls13_tickets(const char *scenario)
{
    struct pair pair = new_pair(scenario, TLS1_3_VERSION, 1);
    resume(&pair, 7, "localhost", 0);
    done(&pair);
}

static void tls13_no_ticket(const char *scenario)
{
    struct pair pair = new_pair(scenario, TLS1_3_VERSION, 0);
    resume(&pair, 4, "localhost", 0);
    done(&pair);
}

/* A session that another server made: a miss, for both sides. */
static void unknown_session(const char *scenario)
{
    struct pair pair = new_pair(scenario, TLS1_2_VERSION, 0);
    struct pair other = new_pair(scenario, TLS1_2_VERSION, 0);
    resume(&other, 1, "localhost", 0);
    pair.client = other.client;
    pair.session = other.session;
    resume(&pair, 1, "localhost", 0);
    done(&pair);
}

/* A session that is too old by the time it comes back. */
static void expired(const char *scenario)
{
    struct pair pair = new_pair(scenario, TLS1_2_VERSION, 0);
    SSL_CTX_set_timeout(pair.server, 1);
    resume(&pair, 1, "localhost", 0);
    time_t now = time(NULL);
    while (time(NULL) < now + 3)
        usleep(100000);
    resume(&pair, 1, "localhost", 0);
    done(&pair);
}

static void full_cache(const char *scenario)
{
    struct pair pair = new_pair(scenario, TLS1_2_VERSION, 0);
    SSL_CTX_sess_set_cache_size(pair.server, 3);
    for (int i = 0; i < 9; i++)
        require(connect_once(&pair, NULL, "localhost", 0), "the handshake");
    done(&pair);
}

/* A cache outside of the context: one session, or none. */
static SSL_SESSION *outside;

static int put_outside(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(outside);
    outside = session;
    return 1;
}

static SSL_SESSION *get_outside(SSL *ssl, const unsigned char *id, int length, int *copy)
{
    (void)ssl, (void)id, (void)length;
    *copy = 1;
    return outside;
}

static void external_cache(const char *scenario)
{
    struct pair pair = new_pair(scenario, TLS1_2_VERSION, 0);
    SSL_CTX_set_session_cache_mode(pair.server, SSL_SESS_CACHE_SERVER | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(pair.server, put_outside);
    SSL_CTX_sess_set_get_cb(pair.server, get_outside);
    resume(&pair, 4, "localhost", 0);
    SSL_SESSION_free(outside);
    outside = NULL;
    done(&pair);
}

static int choose(SSL *ssl, int *alert, void *chosen)
{
    (void)alert;
    const char *name = SSL_get_servername(ssl, TLSEXT_NAMETYPE_host_name);
    if (name && strcmp(name, "a.test") == 0)
        SSL_set_SSL_CTX(ssl, chosen);
    return SSL_TLSEXT_ERR_OK;
}

static void sni_switch(const char *scenario)
{
    int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (int i = 0; i < 2; i++) {
        struct pair pair = new_pair(scenario, versions[i], 1);
        struct pair other = new_pair(scenario, versions[i], 1);
        SSL_CTX_set_tlsext_servername_callback(pair.server, choose);
        SSL_CTX_set_tlsext_servername_arg(pair.server, other.server);
        resume(&pair, 4, "a.test", 0);
        resume(&pair, 2, "b.test", 0);
        done(&pair);
    }
}

/* No version in common. */
static void failed_handshakes(const char *scenario)
{
    struct pair pair = new_pair(scenario, TLS1_2_VERSION, 1);
    SSL_CTX_set_max_proto_version(pair.server, TLS1_3_VERSION);
    SSL_CTX_set_min_proto_version(pair.server, TLS1_3_VERSION);
    require(!connect_once(&pair, NULL, "localhost", 0), "failing");
}

static void driven_by_reads_and_writes(const char *scenario)
{
    struct pair pair = new_pair(scenario, TLS1_2_VERSION, 1);
    resume(&pair, 4, "localhost", 1);
    done(&pair);
    pair = new_pair(scenario, TLS1_3_VERSION, 1);
    resume(&pair, 4, "localhost", 1);
    done(&pair);
}

static const struct {
    const char *name;
    void (*play)(const char *);
} scenarios[] = {
#define SCENARIO(name) {#name, name}
    SCENARIO(tls12_session_ids), SCENARIO(tls12_tickets),     SCENARIO(tls13_tickets),
    SCENARIO(tls13_no_ticket),   SCENARIO(unknown_session),   SCENARIO(expired),
    SCENARIO(full_cache),        SCENARIO(external_cache),    SCENARIO(sni_switch),
    SCENARIO(failed_handshakes), SCENARIO(driven_by_reads_and_writes),
};
#define SCENARIOS (int)(sizeof(scenarios) / sizeof(scenarios[0]))

static void tell(void)
{
    printf("{\"contexts\": [");
    for (int i = 0; i < count; i++) {
        SSL_CTX *ctx = contexts[i].ctx;
        printf("%s{\"scenario\": \"%s\", \"ctx\": \"%p\", \"stats\": {", i ? ", " : "",
               contexts[i].scenario, (void *)ctx);
        printf("\"number\": %ld, ", SSL_CTX_sess_number(ctx));
        printf("\"connect\": %ld, ", SSL_CTX_sess_connect(ctx));
        printf("\"connect_good\": %ld, ", SSL_CTX_sess_connect_good(ctx));
        printf("\"connect_renegotiate\": %ld, ", SSL_CTX_sess_connect_renegotiate(ctx));
        printf("\"accept\": %ld, ", SSL_CTX_sess_accept(ctx));
        printf("\"accept_good\": %ld, ", SSL_CTX_sess_accept_good(ctx));
        printf("\"accept_renegotiate\": %ld, ", SSL_CTX_sess_accept_renegotiate(ctx));
        printf("\"hits\": %ld, ", SSL_CTX_sess_hits(ctx));
        printf("\"cb_hits\": %ld, ", SSL_CTX_sess_cb_hits(ctx));
        printf("\"misses\": %ld, ", SSL_CTX_sess_misses(ctx));
        printf("\"timeouts\": %ld, ", SSL_CTX_sess_timeouts(ctx));
        printf("\"cache_full\": %ld}}", SSL_CTX_sess_cache_full(ctx));
    }
    printf("]}\n");
}

static void perform(const char *command)
{
    if (strcmp(command, "scenarios") == 0) {
        printf("{\"scenarios\": [");
        for (int i = 0; i < SCENARIOS; i++)
            printf("%s\"%s\"", i ? ", " : "", scenarios[i].name);
        printf("]}\n");
    } else if (strncmp(command, "run ", 4) == 0) {
        for (int i = 0; i < SCENARIOS; i++)
            if (strcmp(command + 4, scenarios[i].name) == 0)
                scenarios[i].play(scenarios[i].name);
        printf("{}\n");
    } else if (strcmp(command, "stats") == 0) {
        tell();
    } else if (strcmp(command, "pid") == 0) {
        printf("{\"pid\": %d}\n", (int)getpid());
    } else if (strcmp(command, "free") == 0) {
        while (count > 0)
            SSL_CTX_free(contexts[--count].ctx);
        printf("{}\n");
    } else if (strcmp(command, "exit") == 0) {
        /* Without freeing anything. */
        _exit(0);
    } else {
        printf("{\"error\": \"no such command\"}\n");
    }
}

int main(void)
{
    char line[256];
    printf("{\"ready\": true}\n");
    fflush(stdout);
    while (fgets(line, sizeof(line), stdin)) {
        line[strcspn(line, "\n")] = 0;
        perform(line);
        fflush(stdout);
    }
    return 0;
}
