/* execkill COUNT: so many processes, one after the other, whose second thread execs while the first kills them all. */
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static void *
begin(void *unused)
{
    execl("/bin/true", "true", (char *)0);
    return unused;
}

int
main(int count, char **words)
{
    (void)count;
    srand(1);
    for (int i = 0; i < atoi(words[1]); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            pthread_t thread;
            pthread_create(&thread, 0, begin, 0);
            pause();
        }
        usleep((unsigned)(200 + rand() % 600));
        kill(pid, SIGKILL);
        waitpid(pid, 0, 0);
    }
    return 0;
}
