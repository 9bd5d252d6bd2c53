/* Handshakes in memory, both ends in one thread, with two copies of a libssl (its
 * arguments) in turns: one may have probes and the other not, and what else happens on
 * the machine happens to both. A copy called `-` is what LD_PRELOAD put in front of
 * everything, and what it passes calls on to.
 *
 * Each line that it reads is `MODE ROUNDS PAIRS`. For each round it makes so many
 * handshakes with one copy, then with the other, and prints what each pair took of the
 * processor, in nanoseconds. Then a line with `=`, and for each copy the addresses of
 * the server's and of the client's context, and how many pairs were made with them in
 * all; then the longest time between the ends of two pairs in nanoseconds. With no
 * rounds, it goes on until there is another line, and prints no rounds. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FUNCTIONS(X)                                                           \
    X(SSL_CTX_new) X(SSL_CTX_ctrl) X(SSL_CTX_use_certificate)                  \
    X(SSL_CTX_use_PrivateKey) X(SSL_CTX_set_options) X(SSL_CTX_sess_set_new_cb)\
    X(TLS_server_method) X(TLS_client_method) X(SSL_new) X(SSL_free)           \
    X(SSL_set_bio) X(SSL_set_session) X(SSL_SESSION_free) X(SSL_accept)        \
    X(SSL_connect) X(SSL_read) X(SSL_shutdown) X(SSL_session_reused)       \
    X(SSL_CTX_set_timeout)

/* The functions of one copy. */
struct libssl {
#define DECLARE(name) __typeof__(name) *name;
    FUNCTIONS(DECLARE)
};

struct mode {
    const char *name;
    int version;
    int resumed;
};

static const struct mode modes[] = {
    { "full13", TLS1_3_VERSION, 0 },
    { "resumed13", TLS1_3_VERSION, 1 },
    { "resumed12", TLS1_2_VERSION, 1 },
};

#define MODES (sizeof modes / sizeof *modes)

/* What one copy does in one mode. */
struct side {
    const struct libssl *lib;
    const struct mode *mode;
    SSL_CTX *server, *client;
    /* To resume. */
    SSL_SESSION *session;
    long pairs;
};

/* The session that a client was given last. */
static SSL_SESSION *latest;
static long longest;

static void check(int well, const char *what)
{
    if (!well) {
        fprintf(stderr, "%s failed\n", what);
        exit(1);
    }
}

static long at(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
}

static struct libssl load(const char *path)
{
    struct libssl lib;
    void *handle = RTLD_DEFAULT;

    if (strcmp(path, "-") != 0) {
        handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
        check(handle != NULL, path);
    }
#define FIND(name)                                                             \
    lib.name = (__typeof__(lib.name))dlsym(handle, #name);                     \
    check(lib.name != NULL, #name);
    FUNCTIONS(FIND)
    return lib;
}

static int keep(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    latest = session;
    return 1;
}

static struct side begin(const struct libssl *lib, const struct mode *mode,
                         X509 *certificate, EVP_PKEY *key)
{
    struct side side = { lib, mode, NULL, NULL, NULL, 0 };

    side.server = lib->SSL_CTX_new(lib->TLS_server_method());
    side.client = lib->SSL_CTX_new(lib->TLS_client_method());
    check(side.server && side.client, "SSL_CTX_new");
    check(lib->SSL_CTX_use_certificate(side.server, certificate) == 1
              && lib->SSL_CTX_use_PrivateKey(side.server, key) == 1,
          "the certificate");
    SSL_CTX *both[] = { side.server, side.client };
    for (int i = 0; i < 2; i++) {
        lib->SSL_CTX_set_timeout(both[i], 86400);
        lib->SSL_CTX_ctrl(both[i], SSL_CTRL_SET_MIN_PROTO_VERSION, mode->version, NULL);
        lib->SSL_CTX_ctrl(both[i], SSL_CTRL_SET_MAX_PROTO_VERSION, mode->version, NULL);
    }
    lib->SSL_CTX_ctrl(side.server, SSL_CTRL_SET_GROUPS_LIST, 0, "P-256");
    lib->SSL_CTX_ctrl(side.client, SSL_CTRL_SET_GROUPS_LIST, 0, "P-256");
    lib->SSL_CTX_ctrl(side.client, SSL_CTRL_SET_SESS_CACHE_MODE,
                      SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL, NULL);
    lib->SSL_CTX_sess_set_new_cb(side.client, keep);
    return side;
}

/* One handshake; with the side's session, if it has one. Says whether it was resumed. */
static int pair(struct side *side)
{
    const struct libssl *lib = side->lib;
    SSL *server = lib->SSL_new(side->server), *client = lib->SSL_new(side->client);
    BIO *up = BIO_new(BIO_s_mem()), *down = BIO_new(BIO_s_mem());
    char byte;
    int accepted = 0, connected = 0;

    check(server && client && up && down, "SSL_new");
    BIO_up_ref(up);
    BIO_up_ref(down);
    lib->SSL_set_bio(client, down, up);
    lib->SSL_set_bio(server, up, down);
    if (side->session != NULL)
        lib->SSL_set_session(client, side->session);
    for (int turn = 0; turn < 10 && !(accepted && connected); turn++) {
        connected = lib->SSL_connect(client) == 1;
        accepted = lib->SSL_accept(server) == 1;
    }
    check(accepted && connected, "the handshake");
    /* The tickets of TLS 1.3 come behind it. */
    lib->SSL_read(client, &byte, 1);
    int reused = lib->SSL_session_reused(client);
    lib->SSL_shutdown(client);
    lib->SSL_shutdown(server);
    lib->SSL_free(client);
    lib->SSL_free(server);
    side->pairs++;
    if (latest != NULL && side->mode->resumed) {
        lib->SSL_SESSION_free(side->session);
        side->session = latest;
    } else {
        lib->SSL_SESSION_free(latest);
    }
    latest = NULL;
    return reused;
}

/* So many handshakes as the mode says; returns what a pair took. */
static double batch(struct side *side, long pairs)
{
    if (side->mode->resumed && side->session == NULL)
        pair(side);
    long start = at(CLOCK_THREAD_CPUTIME_ID), before = at(CLOCK_MONOTONIC);
    for (long i = 0; i < pairs; i++) {
        check(pair(side) == side->mode->resumed, "to resume, or not to");
        long now = at(CLOCK_MONOTONIC);
        if (now - before > longest)
            longest = now - before;
        before = now;
    }
    return (double)(at(CLOCK_THREAD_CPUTIME_ID) - start) / pairs;
}

static int input(void)
{
    struct pollfd in = { .fd = 0, .events = POLLIN };
    return poll(&in, 1, 0) != 0;
}

int main(int argc, char **argv)
{
    struct libssl libs[2];
    struct side sides[MODES][2];
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    char line[64], name[16];
    long rounds, pairs;

    check(argc == 3 && key && certificate, "to begin");
    X509_set_pubkey(certificate, key);
    X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
    X509_gmtime_adj(X509_getm_notAfter(certificate), 86400);
    X509_sign(certificate, key, EVP_sha256());
    for (int copy = 0; copy < 2; copy++) {
        libs[copy] = load(argv[1 + copy]);
        for (size_t m = 0; m < MODES; m++)
            sides[m][copy] = begin(&libs[copy], &modes[m], certificate, key);
    }
    /* No line is read before it is asked for. */
    setvbuf(stdin, NULL, _IONBF, 0);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "%15s %ld %ld", name, &rounds, &pairs) != 3)
            return 1;
        size_t m = 0;
        while (m < MODES && strcmp(modes[m].name, name) != 0)
            m++;
        check(m < MODES, "to know the mode");
        longest = 0;
        for (long round = 0; rounds ? round < rounds : !input(); round++) {
            double took[2];
            for (int n = 0; n < 2; n++) {
                int copy = (n + round) % 2;
                took[copy] = batch(&sides[m][copy], pairs);
            }
            if (rounds)
                printf("%.0f %.0f\n", took[0], took[1]);
        }
        puts("=");
        for (int copy = 0; copy < 2; copy++) {
            struct side *side = &sides[m][copy];
            printf("%lu %lu %ld\n", (unsigned long)side->server,
                   (unsigned long)side->client, side->pairs);
        }
        printf("%ld\n", longest);
        fflush(stdout);
    }
    return 0;
}
