/* When it is told to, makes as many contexts as its argument says, and uses each
 * once: a handshake is begun with it, which counts. Says so, and keeps them until
 * the end of its input. */

#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    long count = argc > 1 ? atol(argv[1]) : 0;
    getchar();
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
