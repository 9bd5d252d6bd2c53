/*
 * Asks a library where its fields are by calling its own functions with
 * contexts and connections that are made up: memory in which each value tells
 * where it stands. Prints the same lines as offsets.c.
 *
 * accessors FILE [FUNCTION=ADDRESS ...]   addresses of functions that FILE has
 *                                         in .symtab only
 * SSLSESS_ASK=1 LD_PRELOAD=accessors.so PROGRAM
 *                                         asks a program that has the library
 *                                         inside and exports it
 *
 * Nothing is said of what a function does not tell in this way: a call that
 * faults, or returns what is not in the memory that it was given.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Larger than any SSL_CTX, SSL and LHASH; in 8-byte slots. */
#define SLOTS 1024
static uint64_t object[SLOTS];

/* A page for each slot, to point to. */
#define PAGE 8192
static uint64_t *pages;

/* A megabyte for each slot that nobody may touch. */
#define FAR 0x100000
static char *guarded;

static sigjmp_buf fault;
static char *fault_address;

static void *library;
static uintptr_t base;
static int given_count;
static char **given;

static void on_fault(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    fault_address = info->si_addr;
    siglongjmp(fault, 1);
}

/* A function of the library; NULL if it has none of that name. */
static void *function(const char *name)
{
    size_t length = strlen(name);
    void *found = dlsym(library, name);
    int i;

    for (i = 0; found == NULL && i < given_count; i++) {
        if (strncmp(given[i], name, length) == 0 && given[i][length] == '=')
            found = (void *)(base + strtoull(given[i] + length + 1, NULL, 16));
    }
    return found;
}

/* Every 32 bits say which they are. */
#define NUMBER 0x10000
static void fill_with_numbers(void)
{
    uint32_t *words = (uint32_t *)object;
    int i;

    for (i = 0; i < 2 * SLOTS; i++)
        words[i] = NUMBER + i;
}

/* Where a value of that memory stands; -1: it is not of that memory. */
static long place_of_int(uint64_t value)
{
    uint32_t index = (uint32_t)value - NUMBER;

    return index < 2 * SLOTS ? (long)index * 4 : -1;
}

static long place_of_word(uint64_t value)
{
    long place = place_of_int(value);

    return place % 8 == 0 && value >> 32 == (uint32_t)value + 1 ? place : -1;
}

static void say(const char *kind, const char *name, long place)
{
    if (place >= 0)
        printf("@%s %s %ld\n", kind, name, place);
}

typedef long ctrl_function(void *ctx, int cmd, long larg, void *parg);
typedef uint64_t get_function(void *object);
typedef int set_id_function(void *ctx, const unsigned char *id, unsigned int length);
typedef void *set_ctx_function(void *ssl, void *ctx);

/* An int of the context, or the other way round a word, by its command. */
static void ask_ctrl(const char *kind, const char *name, int command, int is_word)
{
    ctrl_function *ctrl = (ctrl_function *)function("SSL_CTX_ctrl");
    long value;

    if (ctrl == NULL || sigsetjmp(fault, 1) != 0)
        return;
    fill_with_numbers();
    value = ctrl(object, command, 0, NULL);
    say(kind, name, is_word ? place_of_word(value) : place_of_int(value));
}

/* A word, or an int that stands alone, by a function that returns it. */
static void ask_get(const char *kind, const char *name, const char *get_name)
{
    get_function *get = (get_function *)function(get_name);
    uint64_t value;

    if (get == NULL || sigsetjmp(fault, 1) != 0)
        return;
    fill_with_numbers();
    value = get(object);
    say(kind, name, value >> 32 == 0 ? place_of_int(value) : place_of_word(value));
}

/* An int, by a function whose result has no upper half to speak of. */
static void ask_get_int(const char *kind, const char *name, const char *get_name)
{
    get_function *get = (get_function *)function(get_name);

    if (get == NULL || sigsetjmp(fault, 1) != 0)
        return;
    fill_with_numbers();
    say(kind, name, place_of_int((uint32_t)get(object)));
}

/* The number of sessions is read out of what the context points to. */
static void ask_number(void)
{
    ctrl_function *ctrl = (ctrl_function *)function("SSL_CTX_ctrl");
    uint64_t value, pointer, item;
    int i, j;

    if (ctrl == NULL || sigsetjmp(fault, 1) != 0)
        return;
    for (i = 0; i < SLOTS; i++) {
        object[i] = (uintptr_t)pages + (uint64_t)i * PAGE;
        for (j = 0; j < PAGE / 8; j++)
            pages[i * (PAGE / 8) + j] = 0x40000000 | i << 12 | j;
    }
    value = ctrl(object, 20, 0, NULL); /* SSL_CTRL_SESS_NUMBER */
    pointer = value >> 12 & 0x3ff;
    item = value & 0xfff;
    if (value >> 30 == 1 && value >> 22 == 0x100) {
        say("layout", "sessions", (long)pointer * 8);
        say("layout", "num_items", (long)item * 8);
    }
}

/* The timeout is in seconds, or in nanoseconds which come back as seconds. */
static void ask_timeout(void)
{
    get_function *get = (get_function *)function("SSL_CTX_get_timeout");
    uint64_t value;
    int i;

    if (get == NULL || sigsetjmp(fault, 1) != 0)
        return;
    for (i = 0; i < SLOTS; i++)
        object[i] = (uint64_t)(i + 1) * 1000000000;
    value = get(object);
    if (value >= 1000000000 && value % 1000000000 == 0)
        value /= 1000000000;
    say("setting", "timeout", value >= 1 && value <= SLOTS ? (long)(value - 1) * 8 : -1);
}

/* The reference count is what changes. */
static void ask_references(void)
{
    get_function *up_ref = (get_function *)function("SSL_CTX_up_ref");
    uint32_t *words = (uint32_t *)object;
    long place = -1;
    int i;

    if (up_ref == NULL || sigsetjmp(fault, 1) != 0)
        return;
    fill_with_numbers();
    up_ref(object);
    for (i = 0; i < 2 * SLOTS; i++) {
        if (words[i] == (uint32_t)NUMBER + i)
            continue;
        if (place >= 0 || words[i] != (uint32_t)NUMBER + i + 1)
            return;
        place = (long)i * 4;
    }
    say("layout", "references", place);
}

/* The length of the id is written as a word. */
static void ask_id_length(void)
{
    set_id_function *set = (set_id_function *)function("SSL_CTX_set_session_id_context");
    long place = -1;
    int i;

    if (set == NULL || sigsetjmp(fault, 1) != 0)
        return;
    fill_with_numbers();
    set(object, (const unsigned char *)"\xff\xff\xff", 3);
    for (i = 0; i < SLOTS; i++) {
        if (object[i] != 3)
            continue;
        if (place >= 0)
            return;
        place = (long)i * 8;
    }
    say("setting", "session_id_context_length", place);
}

/*
 * SSL_set_SSL_CTX(ssl, NULL) goes back to the first context of a connection,
 * and looks for its certificate there, where it faults.
 */
static void ask_session_ctx(void)
{
    set_ctx_function *set = (set_ctx_function *)function("SSL_set_SSL_CTX");
    long place;
    int i;

    if (set == NULL)
        return;
    for (i = 0; i < SLOTS; i++)
        object[i] = (uintptr_t)guarded + (uint64_t)i * FAR;
    /* Since 3.2 an SSL begins with its type: SSL_TYPE_SSL_CONNECTION. */
    object[0] = 0;
    if (sigsetjmp(fault, 1) == 0) {
        set(object, NULL);
        return;
    }
    place = (fault_address - guarded) / FAR;
    if (fault_address > guarded && place < SLOTS)
        say("layout", "ssl_to_session_ctx", place * 8);
}

static int ask(void)
{
    struct sigaction action;

    pages = mmap(NULL, (size_t)SLOTS * PAGE, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    guarded = mmap(NULL, (size_t)SLOTS * FAR, PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED || guarded == MAP_FAILED)
        return 1;
    memset(&action, 0, sizeof(action));
    action.sa_sigaction = on_fault;
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGBUS, &action, NULL);

    /* SSL_CTRL_SESS_CONNECT and so on, include/openssl/ssl.h */
    ask_ctrl("layout", "connect", 21, 0);
    ask_ctrl("layout", "connect_good", 22, 0);
    ask_ctrl("layout", "connect_renegotiate", 23, 0);
    ask_ctrl("layout", "accept", 24, 0);
    ask_ctrl("layout", "accept_good", 25, 0);
    ask_ctrl("layout", "accept_renegotiate", 26, 0);
    ask_ctrl("layout", "hits", 27, 0);
    ask_ctrl("layout", "cb_hits", 28, 0);
    ask_ctrl("layout", "misses", 29, 0);
    ask_ctrl("layout", "timeouts", 30, 0);
    ask_ctrl("layout", "cache_full", 31, 0);
    ask_references();
    ask_number();
    ask_get("layout", "ssl_to_ctx", "SSL_get_SSL_CTX");
    ask_session_ctx();

    ask_ctrl("setting", "cache_size", 43, 1);
    ask_ctrl("setting", "cache_mode", 45, 0);
    ask_ctrl("setting", "min_protocol", 130, 0);
    ask_ctrl("setting", "max_protocol", 131, 0);
    ask_timeout();
    ask_get("setting", "num_tickets", "SSL_CTX_get_num_tickets");
    ask_get("setting", "options", "SSL_CTX_get_options");
    ask_get("setting", "new_callback", "SSL_CTX_sess_get_new_cb");
    ask_get("setting", "get_callback", "SSL_CTX_sess_get_get_cb");
    ask_get("setting", "remove_callback", "SSL_CTX_sess_get_remove_cb");
    ask_get_int("setting", "verify_mode", "SSL_CTX_get_verify_mode");
    ask_id_length();
    fflush(stdout);
    return 0;
}

/* In a program that has the library inside: before the program itself starts. */
static void __attribute__((constructor)) preloaded(void)
{
    if (getenv("SSLSESS_ASK") != NULL) {
        library = RTLD_DEFAULT;
        _Exit(ask());
    }
}

int main(int argc, char **argv)
{
    struct link_map *map;

    library = argc > 1 ? dlopen(argv[1], RTLD_LAZY | RTLD_GLOBAL) : NULL;
    if (library == NULL || dlinfo(library, RTLD_DI_LINKMAP, &map) != 0) {
        fprintf(stderr, "%s\n", argc > 1 ? dlerror() : "no file is given");
        return 1;
    }
    base = map->l_addr;
    given = argv + 2;
    given_count = argc - 2;
    return ask();
}
