/*
 * Stands for musl's C library where a library that was built for it is loaded
 * by glibc's loader, to be asked a few questions: what glibc links statically
 * is here, everything else is found in glibc's library.
 */
int atexit(void (*function)(void));
int atexit(void (*function)(void))
{
    (void)function;
    return 0;
}
