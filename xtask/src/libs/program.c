/* A program that has OpenSSL inside. */
#include <stddef.h>

void *TLS_method(void);
void *SSL_CTX_new(const void *method);
void SSL_CTX_free(void *ctx);
long SSL_CTX_ctrl(void *ctx, int cmd, long larg, void *parg);

int main(void)
{
    void *ctx = SSL_CTX_new(TLS_method());
    long number;

    if (ctx == NULL)
        return 1;
    number = SSL_CTX_ctrl(ctx, 20, 0, NULL); /* SSL_CTRL_SESS_NUMBER */
    SSL_CTX_free(ctx);
    return number == 0 ? 0 : 1;
}
