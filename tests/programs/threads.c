/* threads one-by-one|at-once COUNT */
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

static void *
nothing(void *argument)
{
    return argument;
}

static void *
hold(void *argument)
{
    pause();
    return argument;
}

int
main(int count, char **words)
{
    pthread_attr_t small;
    int alive = words[1][0] == 'a';
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    for (int i = 0; i < atoi(words[count - 1]); i++) {
        pthread_t thread;
        if (pthread_create(&thread, &small, alive ? hold : nothing, 0)) return 1;
        if (!alive) pthread_join(thread, 0);
    }
    return 0;
}
