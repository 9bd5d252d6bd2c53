/* Adds one to a counter of a made-up SSL_CTX again and again, as libssl does it,
 * in functions that are the same but for what stands behind the `lock add` and for
 * who attaches what there. Reads a number of rounds and of calls in each; prints the
 * names of the functions; for each round the nanoseconds of the processor that a call
 * of each took; and at the end each counter, with the address of its context. Keeps
 * all of it until the end of its input. */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "made_up.h"

#define ACCEPT_GOOD "0x8c"

/* The place for a probe is `NAME_place`. */
#define COUNTING(name, entry, instruction)                                     \
    __asm__(".pushsection .text\n"                                             \
            ".p2align 6\n"                                                     \
            ".globl " name ", " name "_place\n"                                \
            ".type " name ", @function\n"                                      \
            ".type " name "_place, @function\n" name ":\n" entry               \
            "mov 0x9a8(%rdi), %rax\n"                                          \
            "lock addl $1, " ACCEPT_GOOD "(%rax)\n" name "_place:\n"           \
            instruction "\n"                                                   \
            "1: ret\n"                                                         \
            "2: ret\n"                                                         \
            ".size " name ", . - " name "\n"                                   \
            ".popsection\n")

/* What the kernel emulates, and how. */
#define EMULATED(X)                                                            \
    X(nop, "nop")                                                              \
    X(jmp, "jmp 1f")                                                           \
    X(jcc, "jne 1f")                                                           \
    X(call, "call 2f")                                                         \
    X(push, "push %rax\n pop %rax")

/* Without a probe; with a program that does nothing; with ours, which takes the
 * context from %rax, or from the connection in %rdi. */
#define FOUR(kind, instruction)                                                \
    COUNTING("bare_" #kind, "", instruction);                                  \
    COUNTING("floor_" #kind, "", instruction);                                 \
    COUNTING("register_" #kind, "", instruction);                              \
    COUNTING("connection_" #kind, "", instruction);

EMULATED(FOUR)
/* What the kernel executes out of line. */
COUNTING("bare_stepped", "", "mov %rax, %rcx");
COUNTING("floor_stepped", "", "mov %rax, %rcx");
/* How GCC begins functions; the kernel executes this out of line, too. */
COUNTING("naive", "endbr64\n", "jmp 1f");

#define NAMES(X)                                                               \
    EMULATED(X) X##_ONE(bare_stepped) X##_ONE(floor_stepped) X##_ONE(naive)

#define DECLARE_ONE(name) void name(struct connection *);
#define DECLARE(kind, instruction)                                             \
    DECLARE_ONE(bare_##kind) DECLARE_ONE(floor_##kind)                         \
    DECLARE_ONE(register_##kind) DECLARE_ONE(connection_##kind)
NAMES(DECLARE)

struct function {
    const char *name;
    void (*call)(struct connection *);
};

#define LIST_ONE(name) { #name, name },
#define LIST(kind, instruction)                                                \
    LIST_ONE(bare_##kind) LIST_ONE(floor_##kind)                               \
    LIST_ONE(register_##kind) LIST_ONE(connection_##kind)
static const struct function functions[] = { NAMES(LIST) };

#define FUNCTIONS (sizeof functions / sizeof *functions)

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &at);
    return at.tv_sec * 1e9 + at.tv_nsec;
}

int main(void)
{
    long rounds, calls;
    struct hash hash = { .num_items = 7 };
    struct connection *connections[FUNCTIONS];

    for (size_t i = 0; i < FUNCTIONS; i++) {
        struct context *ctx = calloc(1, sizeof *ctx);
        connections[i] = calloc(1, sizeof *connections[i]);
        ctx->sessions = &hash;
        ctx->references = 1;
        connections[i]->ctx = ctx;
    }
    if (scanf("%ld %ld", &rounds, &calls) != 2)
        return 1;
    for (size_t i = 0; i < FUNCTIONS; i++)
        printf("%s%c", functions[i].name, i + 1 < FUNCTIONS ? ' ' : '\n');
    for (long round = 0; round < rounds; round++) {
        double took[FUNCTIONS];

        for (size_t n = 0; n < FUNCTIONS; n++) {
            /* Each is first in its turn. */
            size_t i = (n + round) % FUNCTIONS;
            double start = now();

            for (long call = 0; call < calls; call++)
                functions[i].call(connections[i]);
            took[i] = (now() - start) / calls;
        }
        for (size_t i = 0; i < FUNCTIONS; i++)
            printf("%.2f%c", took[i], i + 1 < FUNCTIONS ? ' ' : '\n');
    }
    for (size_t i = 0; i < FUNCTIONS; i++)
        printf("%lu %d\n", (unsigned long)connections[i]->ctx,
               connections[i]->ctx->counters[5]);
    fflush(stdout);
    while (getchar() != EOF)
        ;
    return 0;
}
