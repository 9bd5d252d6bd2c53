/* Asks a server for its answer, each time over a new TLS connection. Its argument: a port
 * of 127.0.0.1.
 *
 * Each line that it reads is `MODE CONNECTIONS`. It makes so many, one after the other,
 * and prints how many of them were resumed. To resume, it takes what the server gave it
 * in the last one; the very first one is not counted. */

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct mode {
    const char *name;
    int version;
    int resumed;
};

static const struct mode modes[] = {
    { "full13", TLS1_3_VERSION, 0 },
    { "resumed13", TLS1_3_VERSION, 1 },
    { "full12", TLS1_2_VERSION, 0 },
    { "resumed12", TLS1_2_VERSION, 1 },
};

#define MODES (sizeof modes / sizeof *modes)

static const char request[] = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

static SSL_CTX *contexts[MODES];
static struct sockaddr_in server = { .sin_family = AF_INET };

static SSL_SESSION *latest;

static void check(int well, const char *what)
{
    if (!well) {
        perror(what);
        _exit(1);
    }
}

static int keep(SSL *ssl, SSL_SESSION *session)
{
    (void)ssl;
    SSL_SESSION_free(latest);
    latest = session;
    return 1;
}

/* Who verifies nothing takes less time of the processor that is not the server's. */
static int trust(X509_STORE_CTX *store, void *argument)
{
    (void)store;
    (void)argument;
    return 1;
}

/* One connection, with a session if there is one. Says whether it was resumed. */
static int ask(size_t m, SSL_SESSION *session)
{
    char answer[4096];
    int length, all = 0;
    int yes = 1;
    struct linger at_once = { 1, 0 };
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    SSL *ssl = SSL_new(contexts[m]);

    check(fd >= 0 && ssl != NULL, "to begin");
    check(connect(fd, (struct sockaddr *)&server, sizeof server) == 0, "to connect");
    /* The request does not wait until the server has acknowledged the handshake. */
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    /* No port waits for what may still come: there are not enough of them. */
    setsockopt(fd, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    SSL_set_fd(ssl, fd);
    if (session != NULL) {
        /* One of TLS 1.3 is good for one connection, and not all servers give another. */
        SSL_SESSION *copy = SSL_SESSION_dup(session);
        SSL_set_session(ssl, copy);
        SSL_SESSION_free(copy);
    }
    check(SSL_connect(ssl) == 1, "the handshake");
    check(SSL_write(ssl, request, sizeof request - 1) == sizeof request - 1, "to ask");
    while ((length = SSL_read(ssl, answer, sizeof answer)) > 0)
        all += length;
    check(all > 0, "to get an answer");
    int reused = SSL_session_reused(ssl);
    /* Else the session would be no good any more. */
    SSL_set_quiet_shutdown(ssl, 1);
    SSL_shutdown(ssl);
    SSL_free(ssl);
    close(fd);
    return reused;
}

/* So many connections; says how many were resumed. */
static long connections(size_t m, long count)
{
    static SSL_SESSION *sessions[MODES];
    long resumed = 0;

    if (modes[m].resumed && sessions[m] == NULL) {
        ask(m, NULL);
        sessions[m] = latest;
        latest = NULL;
        check(sessions[m] != NULL, "to get a session");
    }
    while (count-- > 0) {
        resumed += ask(m, sessions[m]);
        if (modes[m].resumed && latest != NULL) {
            SSL_SESSION_free(sessions[m]);
            sessions[m] = latest;
            latest = NULL;
        }
    }
    return resumed;
}

static void prepare(size_t m)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    check(context != NULL, "SSL_CTX_new");
    SSL_CTX_set_min_proto_version(context, modes[m].version);
    SSL_CTX_set_max_proto_version(context, modes[m].version);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep);
    SSL_CTX_set_cert_verify_callback(context, trust, NULL);
    /* Many servers end without saying so. */
    SSL_CTX_set_options(context, SSL_OP_IGNORE_UNEXPECTED_EOF);
    contexts[m] = context;
}

int main(int argc, char **argv)
{
    char line[64], name[16];
    long count;
    size_t m;

    check(argc == 2, "to understand the arguments");
    server.sin_port = htons(atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (m = 0; m < MODES; m++)
        prepare(m);
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "%15s %ld", name, &count) != 2)
            return 1;
        for (m = 0; m < MODES && strcmp(modes[m].name, name) != 0; m++)
            ;
        check(m < MODES, "to know the mode");
        printf("%ld\n", connections(m, count));
        fflush(stdout);
    }
    return 0;
}
