/* Keeps as many contexts alive as it is told to, each used once: a handshake is
 * begun with it, which counts. Says so, and waits for the end of its input. */

#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 0;
    for (long i = 0; i < count; i++) {
        SSL_CTX *context = SSL_CTX_new(TLS_client_method());
        SSL *connection = context ? SSL_new(context) : NULL;
        if (connection == NULL)
            return 1;
        SSL_set_bio(connection, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
        if (SSL_connect(connection) == 1)
            return 1;
        SSL_free(connection);
    }
    puts("ready");
    fflush(stdout);
    getchar();
    return 0;
}
