/* Serving until a signal. */
#include <signal.h>
#include <sys/wait.h>

#include "check.h"

static volatile sig_atomic_t own_signals;

static void own_handler(int signal) {
    (void)signal;
    own_signals++;
}

static void install(int signal, void (*handler)(int)) {
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_handler = handler;
    CHECK(sigaction(signal, &action, NULL) == 0);
}

/* What the process does on a signal: its own handler, or another one. */
static int is_own(int signal) {
    struct sigaction now;
    CHECK(sigaction(signal, NULL, &now) == 0);
    return now.sa_handler == own_handler;
}

typedef struct {
    roletalk_peer peer;
    uint64_t limit_ms;
    int32_t finished;
    sleeper sleeping;
} server;

static void *serve_in(void *argument) {
    server *s = (server *)argument;
    s->finished = -1;
    sleeper_begin(&s->sleeping);
    OK(roletalk_peer_serve(s->peer, s->limit_ms, &s->finished));
    EXPECT(ROLETALK_STATUS_INVALID_HANDLE, roletalk_peer_close(s->peer));
    return NULL;
}

static counter waiting;
static roletalk_context kept;

static void wait_handler(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_defer(in->context, &kept));
    EXPECT(ROLETALK_STATUS_WOULD_DEADLOCK,
           roletalk_peer_serve(*(roletalk_peer *)user_data, 0, NULL));
    count(&waiting);
}

static void on_reply(void *user_data, const roletalk_reply *reply) {
    *(roletalk_status *)user_data = reply->status;
    count(&waiting);
}

static counter lost;

static void on_event(void *user_data, const roletalk_event *event) {
    (void)user_data;
    if (event->kind == ROLETALK_EVENT_DESTINATION_LOST) count(&lost);
}

/* What runs may finish; afterwards signals are the program's again. */
static void one(int signal, int32_t callbacks, int finishes) {
    pair p;
    counter_init(&waiting);
    counter_init(&lost);
    p.server = new_peer("server", callbacks);
    p.client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    listen_and_connect(&p);
    roletalk_peer inside = p.server;
    handle(&p, ROLETALK_KIND_REQUEST, "wait", wait_handler, &inside);
    OK(roletalk_peer_on_event(p.client, HANDLER(roletalk_event_handler, on_event, NULL), NULL));
    server s;
    s.peer = p.server;
    s.limit_ms = finishes ? LIMIT_S * 1000 : 10;
    counter_init(&s.sleeping.begun);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, serve_in, &s) == 0);
    while (is_own(SIGINT) || is_own(SIGTERM)) sched_yield();
    roletalk_status status = ROLETALK_STATUS_INTERNAL;
    OK(roletalk_destination_request_async(p.to, ROLETALK_STR("wait"), txt("x"), NULL,
                                          HANDLER(roletalk_reply_handler, on_reply, &status),
                                          NULL));
    wait_count(&waiting, 1);
    CHECK(kill(getpid(), signal) == 0);
    /* It offers its roles no longer. */
    wait_count(&lost, 1);
    if (finishes) OK(roletalk_context_respond(kept, txt("x")));
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(s.finished == finishes);
    wait_count(&waiting, 2);
    CHECK((status == ROLETALK_STATUS_OK) == finishes);
    if (!finishes) (void)roletalk_context_reject(kept, ROLETALK_STR("too late"));
    int before = own_signals;
    CHECK(is_own(SIGINT) && is_own(SIGTERM));
    CHECK(raise(SIGINT) == 0 && raise(SIGTERM) == 0 && own_signals == before + 2);
    OK(roletalk_peer_close(p.client));
    counter_destroy(&waiting);
    counter_destroy(&lost);
}

/* One signal is for all; and a handler that the program sets meanwhile stays. */
static void several(void) {
    server s[3];
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) {
        s[i].peer = new_peer("server", i);
        s[i].limit_ms = ROLETALK_DRAIN_LIMIT_MS;
        counter_init(&s[i].sleeping.begun);
        CHECK(pthread_create(&threads[i], NULL, serve_in, &s[i]) == 0);
    }
    for (int i = 0; i < 3; i++) wait_until_asleep(&s[i].sleeping);
    /* One that is closed by somebody else, and the others go on. */
    OK(roletalk_peer_close(s[1].peer));
    CHECK(pthread_join(threads[1], NULL) == 0 && s[1].finished == 1);
    install(SIGINT, SIG_IGN);
    CHECK(kill(getpid(), SIGTERM) == 0);
    CHECK(pthread_join(threads[0], NULL) == 0 && s[0].finished == 1);
    CHECK(pthread_join(threads[2], NULL) == 0 && s[2].finished == 1);
    CHECK(is_own(SIGTERM));
    install(SIGINT, own_handler);
}

/* A process that serves, and does not come to an end. */
static int serve_for_ever(void) {
    pair p = connect_pair(ROLETALK_CALLBACKS_THREAD);
    counter_init(&waiting);
    roletalk_peer inside = p.server;
    handle(&p, ROLETALK_KIND_REQUEST, "wait", wait_handler, &inside);
    roletalk_status status;
    OK(roletalk_destination_request_async(p.to, ROLETALK_STR("wait"), txt("x"), NULL,
                                          HANDLER(roletalk_reply_handler, on_reply, &status),
                                          NULL));
    wait_count(&waiting, 1);
    server s;
    s.peer = p.server;
    s.limit_ms = LIMIT_S * 1000;
    counter_init(&s.sleeping.begun);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, serve_in, &s) == 0);
    struct sigaction now;
    do {
        sched_yield();
        CHECK(sigaction(SIGTERM, NULL, &now) == 0);
    } while (now.sa_handler == SIG_DFL);
    CHECK(write(1, "serving\n", 8) == 8);
    /* Draining begins: the signal was seen. */
    do {
        sched_yield();
        CHECK(sigaction(SIGTERM, NULL, &now) == 0);
    } while (now.sa_handler != SIG_DFL);
    CHECK(write(1, "draining\n", 9) == 9);
    pthread_join(thread, NULL);
    return 0;
}

static void second_signal(const char *program, int first, int second) {
    int from[2];
    CHECK(pipe(from) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        dup2(from[1], 1);
        execl(program, program, "for-ever", (char *)NULL);
        _exit(127);
    }
    close(from[1]);
    char line[16];
    int ended;
    CHECK(read(from[0], line, 8) == 8);
    CHECK(kill(child, first) == 0);
    CHECK(read(from[0], line, 9) == 9);
    CHECK(kill(child, second) == 0);
    CHECK(waitpid(child, &ended, 0) == child && WIFSIGNALED(ended) && WTERMSIG(ended) == second);
    close(from[0]);
}

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "for-ever")) return serve_for_ever();
    /* With the default actions of a child. */
    second_signal(argv[0], SIGTERM, SIGTERM);
    second_signal(argv[0], SIGINT, SIGTERM);
    second_signal(argv[0], SIGTERM, SIGINT);
    install(SIGINT, own_handler);
    install(SIGTERM, own_handler);
    one(SIGTERM, ROLETALK_CALLBACKS_THREAD, 1);
    one(SIGINT, ROLETALK_CALLBACKS_POLL, 1);
    one(SIGINT, ROLETALK_CALLBACKS_THREAD, 0);
    several();
    puts("serve: ok");
    return 0;
}
