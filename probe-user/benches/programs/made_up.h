/* A made-up SSL_CTX and a connection, as in OpenSSL 3.0: the offsets stand in made_up.rs
 * as well. */

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
