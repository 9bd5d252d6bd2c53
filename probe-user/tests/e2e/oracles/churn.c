/* Makes contexts by the thousand, forks and executes other programs, and tells
 * what SSL_CTX_sess_* say: with a libssl of one's own (LIBSSL, LIBCRYPTO).
 * Speaks the language of the other oracles. A handshake is begun and not
 * finished: that counts, and is cheap. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <linux/sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST 100000
/* openssl/ssl.h */
#define SSL_CTRL_SESS_CONNECT 21
#define SSL_CTRL_SESS_ACCEPT 24

static void *libssl, *libcrypto;
static void *(*new_context)(const void *);
static void (*free_context)(void *);
static long (*control)(void *, int, long, void *);
static void *(*new_connection)(void *);
static void (*free_connection)(void *);
static void (*set_bio)(void *, void *, void *);
static int (*do_accept)(void *);
static int (*do_connect)(void *);
static const void *(*method)(void);
static void *(*new_bio)(const void *);
static const void *(*memory)(void);

/* Contexts that are kept alive. */
static void *kept[MOST];
static int count;

static void require(int good, const char *what)
{
    if (!good) {
        fprintf(stderr, "churn: %s failed\n", what);
        exit(1);
    }
}

static void *function(void *library, const char *name)
{
    void *found = dlsym(library, name);
    require(found != NULL, name);
    return found;
}

static void load(void)
{
    libcrypto = dlopen(getenv("LIBCRYPTO"), RTLD_NOW | RTLD_GLOBAL);
    require(libcrypto != NULL, "LIBCRYPTO");
    libssl = dlopen(getenv("LIBSSL"), RTLD_NOW | RTLD_GLOBAL);
    require(libssl != NULL, "LIBSSL");
    *(void **)&new_context = function(libssl, "SSL_CTX_new");
    *(void **)&free_context = function(libssl, "SSL_CTX_free");
    *(void **)&control = function(libssl, "SSL_CTX_ctrl");
    *(void **)&new_connection = function(libssl, "SSL_new");
    *(void **)&free_connection = function(libssl, "SSL_free");
    *(void **)&set_bio = function(libssl, "SSL_set_bio");
    *(void **)&do_accept = function(libssl, "SSL_accept");
    *(void **)&do_connect = function(libssl, "SSL_connect");
    *(void **)&method = function(libssl, "TLS_method");
    *(void **)&new_bio = function(libcrypto, "BIO_new");
    *(void **)&memory = function(libcrypto, "BIO_s_mem");
}

/* Begins so many handshakes. */
static void use(void *context, int times, int (*begin)(void *))
{
    for (int i = 0; i < times; i++) {
        void *connection = new_connection(context);
        require(connection != NULL, "SSL_new");
        set_bio(connection, new_bio(memory()), new_bio(memory()));
        begin(connection);
        free_connection(connection);
    }
}

static void *made(int times, int (*begin)(void *))
{
    void *context = new_context(method());
    require(context != NULL, "SSL_CTX_new");
    use(context, times, begin);
    return context;
}

/* Contexts that are used and freed, one after the other: what they said, and the
 * how-many-th at its address the last one is. */
static void make(int contexts, int times, int (*begin)(void *))
{
    long accept = 0, connect = 0, again = 0;
    void *first = NULL;
    for (int i = 0; i < contexts; i++) {
        void *context = made(times, begin);
        accept += control(context, SSL_CTRL_SESS_ACCEPT, 0, NULL);
        connect += control(context, SSL_CTRL_SESS_CONNECT, 0, NULL);
        if (i == 0)
            first = context;
        again += context == first;
        free_context(context);
    }
    printf("{\"accept\": %ld, \"connect\": %ld, \"first\": \"%p\", \"again\": %ld}\n", accept,
           connect, first, again);
}

static void tell(FILE *out)
{
    fprintf(out, "{\"pid\": %d, \"contexts\": [", getpid());
    for (int i = 0; i < count; i++)
        fprintf(out, "%s{\"scenario\": \"churn\", \"ctx\": \"%p\", \"stats\": {\"accept\": %ld, \"connect\": %ld}}",
                i ? ", " : "", kept[i], control(kept[i], SSL_CTRL_SESS_ACCEPT, 0, NULL),
                control(kept[i], SSL_CTRL_SESS_CONNECT, 0, NULL));
    fprintf(out, "]}\n");
}

/* Memory for all that OpenSSL makes, if it is to have its own. Nothing is given back. */
#define ARENA (256ul << 20)
#define HEAD 16ul

static char *arena;
static size_t taken;

static void *arena_malloc(size_t size, const char *file, int line)
{
    char *at = arena + taken + HEAD;
    taken += (size + HEAD + 15) & ~15ul;
    require(taken <= ARENA, "arena");
    *(size_t *)(at - HEAD) = size;
    return at;
}

static void *arena_realloc(void *old, size_t size, const char *file, int line)
{
    void *new = arena_malloc(size, file, line);
    if (old != NULL) {
        size_t had = *(size_t *)((char *)old - HEAD);
        memcpy(new, old, had < size ? had : size);
    }
    return new;
}

static void arena_free(void *old, const char *file, int line)
{
}

static void take_arena(void)
{
    int (*set)(void *(*)(size_t, const char *, int), void *(*)(void *, size_t, const char *, int),
               void (*)(void *, const char *, int));
    *(void **)&set = function(libcrypto, "CRYPTO_set_mem_functions");
    arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    require(arena != MAP_FAILED, "mmap");
    require(set(arena_malloc, arena_realloc, arena_free) == 1, "CRYPTO_set_mem_functions");
    printf("{}\n");
}

static void protect(int protection)
{
    require(mprotect(arena, ARENA, protection) == 0, "mprotect");
    printf("{}\n");
}

/* The child that goes on with the commands that are for it. */
static FILE *to_child, *from_child;

static void serve(FILE *commands);

static void fork_off(void)
{
    int commands[2], answers[2];
    require(pipe(commands) == 0 && pipe(answers) == 0, "pipe");
    int child = fork();
    require(child >= 0, "fork");
    if (child == 0) {
        close(commands[1]);
        dup2(answers[1], 1);
        serve(fdopen(commands[0], "r"));
        _exit(0);
    }
    close(commands[0]);
    close(answers[1]);
    to_child = fdopen(commands[1], "w");
    from_child = fdopen(answers[0], "r");
    printf("{\"child\": %d}\n", child);
}

static void ask_child(const char *command)
{
    static char answer[1 << 20];
    fputs(command, to_child);
    fflush(to_child);
    require(fgets(answer, sizeof answer, from_child) != NULL, "the child");
    fputs(answer, stdout);
}

/* A child with a pid of one's choice, if nobody has it, makes so many contexts and
 * is gone without freeing any. */
static void child_at(int pid, int contexts)
{
    pid_t wanted = pid;
    struct clone_args args = {.exit_signal = SIGCHLD, .set_tid = (uintptr_t)&wanted, .set_tid_size = 1};
    long child = syscall(SYS_clone3, &args, sizeof args);
    require(child >= 0, "clone3");
    if (child == 0) {
        for (int i = 0; i < contexts; i++)
            made(1, do_accept);
        _exit(0);
    }
    int status;
    require(waitpid(child, &status, 0) == child && status == 0, "waitpid");
    printf("{\"child\": %ld}\n", child);
}

static void serve(FILE *commands)
{
    static char line[4096], path[4096];
    while (fgets(line, sizeof line, commands)) {
        int a, b;
        if (sscanf(line, "make %d %d", &a, &b) == 2) {
            make(a, b, do_accept);
        } else if (sscanf(line, "make-clients %d %d", &a, &b) == 2) {
            make(a, b, do_connect);
        } else if (sscanf(line, "keep %d %d", &a, &b) == 2) {
            for (int i = 0; i < a; i++)
                kept[count++] = made(b, do_accept);
            printf("{}\n");
        } else if (sscanf(line, "use %d", &a) == 1) {
            for (int i = 0; i < count; i++)
                use(kept[i], a, do_accept);
            printf("{}\n");
        } else if (!strcmp(line, "free\n")) {
            while (count > 0)
                free_context(kept[--count]);
            printf("{}\n");
        } else if (!strcmp(line, "stats\n")) {
            tell(stdout);
        } else if (!strcmp(line, "arena\n")) {
            take_arena();
        } else if (!strcmp(line, "protect nothing\n")) {
            protect(PROT_READ | PROT_WRITE);
        } else if (!strcmp(line, "protect from-writing\n")) {
            protect(PROT_READ);
        } else if (!strcmp(line, "protect from-reading\n")) {
            protect(PROT_NONE);
        } else if (!strcmp(line, "fork\n")) {
            fork_off();
        } else if (!strncmp(line, "child ", 6)) {
            ask_child(line + 6);
        } else if (sscanf(line, "child-at %d %d", &a, &b) == 2) {
            child_at(a, b);
        } else if (sscanf(line, "make-and-exec %d %s", &a, path) == 2) {
            for (int i = 0; i < a; i++)
                kept[count++] = made(1, do_accept);
            execl(path, path, NULL);
            require(0, "execl");
        } else {
            printf("{\"error\": \"no such command\"}\n");
        }
        fflush(stdout);
    }
}

int main(void)
{
    load();
    printf("{\"ready\": true}\n");
    fflush(stdout);
    serve(stdin);
    return 0;
}
