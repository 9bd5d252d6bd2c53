/* Asks a server for its answer, each time over a new TLS connection, as fast as it
 * can. Its arguments: a port of 127.0.0.1, how many connections there are at the same
 * time, and the processors it may run on (a mask, 0 for all).
 *
 * Each line that it reads is `MODE MILLISECONDS CONNECTIONS`: it goes on for so long, or
 * until it has made so many, if these are not 0. Then it prints how many it made, what
 * they took in nanoseconds, and how many of them were resumed. To resume, each of those
 * that go on at the same time takes what the server gave it in its last one, and a first
 * one that is not counted. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 64

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

/* What is asked for. */
static size_t mode;
static long until;
static atomic_long left;

static atomic_long made, resumed;
static __thread SSL_SESSION *latest;
static pthread_barrier_t begin, end;

static void check(int well, const char *what)
{
    if (!well) {
        perror(what);
        _exit(1);
    }
}

static long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000L + time.tv_nsec;
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

static void *connections(void *unused)
{
    SSL_SESSION *session = NULL;
    size_t of = MODES;

    for (;;) {
        pthread_barrier_wait(&begin);
        if (of != mode) {
            SSL_SESSION_free(session);
            session = NULL;
            of = mode;
        }
        if (modes[of].resumed && session == NULL) {
            ask(of, NULL);
            session = latest;
            latest = NULL;
            check(session != NULL, "to get a session");
        }
        pthread_barrier_wait(&end);
        pthread_barrier_wait(&begin);
        while ((until == 0 || now() < until) && atomic_fetch_sub(&left, 1) > 0) {
            if (ask(of, session))
                atomic_fetch_add(&resumed, 1);
            atomic_fetch_add(&made, 1);
            if (modes[of].resumed && latest != NULL) {
                SSL_SESSION_free(session);
                session = latest;
                latest = NULL;
            }
        }
        pthread_barrier_wait(&end);
    }
    return unused;
}

static void run_on(unsigned long mask)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (int cpu = 0; cpu < 64; cpu++)
        if (mask >> cpu & 1)
            CPU_SET(cpu, &set);
    check(sched_setaffinity(0, sizeof set, &set) == 0, "to stay on these processors");
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
    long milliseconds, count;
    pthread_t thread;

    int threads = argc == 4 ? atoi(argv[2]) : 0;
    check(threads > 0 && threads <= MOST, "to understand the arguments");
    server.sin_port = htons(atoi(argv[1]));
    server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (strtoul(argv[3], NULL, 0) != 0)
        run_on(strtoul(argv[3], NULL, 0));
    for (size_t m = 0; m < MODES; m++)
        prepare(m);
    pthread_barrier_init(&begin, NULL, threads + 1);
    pthread_barrier_init(&end, NULL, threads + 1);
    for (int n = 0; n < threads; n++)
        check(pthread_create(&thread, NULL, connections, NULL) == 0, "to start a thread");
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (sscanf(line, "%15s %ld %ld", name, &milliseconds, &count) != 3)
            return 1;
        for (mode = 0; mode < MODES && strcmp(modes[mode].name, name) != 0; mode++)
            ;
        check(mode < MODES, "to know the mode");
        /* Sessions, where they are missing. */
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&end);
        made = 0;
        resumed = 0;
        left = count ? count : 1L << 40;
        long start = now();
        until = milliseconds ? start + milliseconds * 1000000L : 0;
        pthread_barrier_wait(&begin);
        pthread_barrier_wait(&end);
        printf("%ld %ld %ld\n", made, now() - start, resumed);
        fflush(stdout);
    }
    return 0;
}
