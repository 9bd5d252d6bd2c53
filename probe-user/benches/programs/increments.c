/* Adds one to a counter of a made-up SSL_CTX again and again, as libssl does it,
 * in functions that are the same but for what stands behind the `lock add` and for
 * who attaches what there. Reads a number of rounds and of calls in each; prints for
 * each round the nanoseconds of the processor that a call of each function took; and
 * at the end each counter, with the address of its context. Keeps all of it until
 * the end of its input. */

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* As in OpenSSL 3.0: the offsets stand in hits.rs as well. */
struct hash {
    char before[0x70];
    unsigned long num_items;
};

struct context {
    char before[0x30];
    struct hash *sessions;
    char between[0x40];
    int counters[11];
    int references;
    char behind[0x200];
};

struct connection {
    char before[0x9a8];
    struct context *ctx;
};

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
            ".size " name ", . - " name "\n"                                   \
            ".popsection\n")

COUNTING("bare", "", "jmp 1f");
COUNTING("floor_jmp", "", "jmp 1f");
COUNTING("floor_nop", "", "nop");
COUNTING("ours_jmp", "", "jmp 1f");
COUNTING("ours_nop", "", "nop");
COUNTING("ours_field", "", "jmp 1f");
/* How GCC begins functions; the kernel executes this out of line. */
COUNTING("naive", "endbr64\n", "jmp 1f");

typedef void counting(struct connection *);

counting bare, floor_jmp, floor_nop, ours_jmp, ours_nop, ours_field, naive;

static counting *const functions[] = { bare,     floor_jmp,  floor_nop, ours_jmp,
                                       ours_nop, ours_field, naive };

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
    for (long round = 0; round < rounds; round++) {
        double took[FUNCTIONS];

        for (size_t n = 0; n < FUNCTIONS; n++) {
            /* Each is first in its turn. */
            size_t i = (n + round) % FUNCTIONS;
            double start = now();

            for (long call = 0; call < calls; call++)
                functions[i](connections[i]);
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
