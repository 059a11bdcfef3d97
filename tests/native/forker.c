/* A fork that calls none of Python's hooks: in the child nothing goes on but the recorder. */
#include <time.h>
#include <unistd.h>

__attribute__((visibility("default"))) long fork_for(long milliseconds) {
    pid_t child = fork();
    if (!child) {
        nanosleep(&(struct timespec){milliseconds / 1000, milliseconds % 1000 * 1000000}, NULL);
        _exit(0);
    }
    return child;
}
