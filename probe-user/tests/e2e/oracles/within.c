/* What a libssl with its libcrypto in the same file looks like to who reads its
 * accessors: the number of sessions is counted by a call, not by a jump. */

struct hash {
  char before[0x50];
  unsigned long down_load;
  unsigned long num_items;
};

struct ssl_ctx {
  char before[0x30];
  struct hash *sessions;
  char between[0x40];
  int counters[11];
  int references;
};

unsigned long OPENSSL_LH_num_items(const struct hash *hash) {
  return hash ? hash->num_items : 0;
}

/* Second witnesses of where they are. */
unsigned long OPENSSL_LH_get_down_load(const struct hash *hash) { return hash->down_load; }

struct hash *SSL_CTX_sessions(struct ssl_ctx *ctx) { return ctx->sessions; }

struct ssl_ctx *SSL_CTX_new(void) { return 0; }

void SSL_CTX_free(struct ssl_ctx *ctx) { __atomic_fetch_sub(&ctx->references, 1, __ATOMIC_RELAXED); }

long SSL_CTX_ctrl(struct ssl_ctx *ctx, int cmd) {
  switch (cmd) {
    case 20:
      return OPENSSL_LH_num_items(ctx->sessions);
    case 21:
      return ctx->counters[0];
    default:
      return 0;
  }
}
