/*
 * Where the number of items is in the hash table of AWS-LC and BoringSSL: its
 * declaration is in the source file that uses it.
 */
#include <stddef.h>

#include "crypto/lhash/lhash.c"

void offsets(void);
void offsets(void)
{
    __asm__ volatile("\n@layout num_items %c0"
                     : : "i"(offsetof(struct lhash_st, num_items)));
}
