/* Certificates that change while peers run: reload CERTIFICATE KEY OTHER OTHER-KEY EXPIRED EXPIRED-KEY [ROTATIONS]: two
   self-signed certificates for "localhost" with their keys, and one that has expired, as PEM files; and how often they
   change. */
#include "check.h"

static roletalk_string read_file(const char *path) {
    static char room[6][8192];
    static int used;
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL && used < 6);
    char *text = room[used++];
    size_t len = fread(text, 1, sizeof room[0], file);
    CHECK(len > 0 && len < sizeof room[0]);
    fclose(file);
    return roletalk_string_of(text, len);
}

static void put(const char *name, roletalk_string content) {
    put_file(own_path(name), content);
}

static void put_identity(roletalk_string certificate, roletalk_string key) {
    put("tls.crt", certificate);
    put("tls.key", key);
}

static void echo(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_respond(in->context, in->data));
}

typedef struct {
    counter reloaded, failed, expired;
} told;

static void on_event(void *user_data, const roletalk_event *event) {
    told *t = (told *)user_data;
    if (event->kind == ROLETALK_EVENT_TLS_RELOADED) {
        CHECK(event->expires_ms > 0);
        count(&t->reloaded);
    }
    if (event->kind != ROLETALK_EVENT_TLS_RELOAD_FAILED) return;
    CHECK(event->status == ROLETALK_STATUS_TLS);
    CHECK(memmem(event->text.data, event->text.len, "tls.crt", 7) != NULL);
    count(&t->failed);
    if (memmem(event->text.data, event->text.len, "has expired", 11) != NULL) count(&t->expired);
}

/* Somebody new connects, who trusts this, and leaves. */
static roletalk_status dial(roletalk_string url, roletalk_string ca) {
    roletalk_connect_options dialing;
    memset(&dialing, 0, sizeof dialing);
    dialing.struct_size = sizeof dialing;
    dialing.once = 1;
    dialing.tls_ca = ca;
    dialing.tls_server_name = ROLETALK_STR("localhost");
    roletalk_peer peer = new_peer("newcomer", ROLETALK_CALLBACKS_THREAD);
    roletalk_status status = roletalk_peer_connect(peer, url, &dialing, NULL);
    OK(roletalk_peer_close(peer));
    return status;
}

int main(int argc, char **argv) {
    CHECK(argc == 7 || argc == 8);
    /* The last one gives the other certificate, as PEM. */
    const int rotations = argc > 7 ? atoi(argv[7]) : 105;
    CHECK(rotations % 6 == 3);
    roletalk_string certificates[2], keys[2];
    for (int i = 0; i < 2; i++) {
        certificates[i] = read_file(argv[1 + 2 * i]);
        keys[i] = read_file(argv[2 + 2 * i]);
    }
    const roletalk_string expired = read_file(argv[5]), expired_key = read_file(argv[6]);
    put_identity(certificates[0], keys[0]);
    put("ca.crt", certificates[0]);

    static told t;
    counter_init(&t.reloaded);
    counter_init(&t.failed);
    counter_init(&t.expired);
    pair p;
    p.server = new_peer("server", ROLETALK_CALLBACKS_THREAD);
    p.client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    OK(roletalk_peer_on_event(p.server, HANDLER(roletalk_event_handler, on_event, &t), NULL));
    OK(roletalk_peer_role(p.server, ROLETALK_STR("r"), 1, &p.role));
    handle(&p, ROLETALK_KIND_REQUEST, "echo", echo, NULL);
    uint64_t expires;
    OK(roletalk_peer_get_tls_expires(p.server, &expires));
    CHECK(expires == 0);
    OK(roletalk_peer_reload_tls(p.server));

    /* Files that are not there, and files beside PEM. */
    roletalk_listen_options listening;
    memset(&listening, 0, sizeof listening);
    listening.struct_size = sizeof listening;
    listening.tls_certificates_file = ROLETALK_STR("/no/such/file");
    listening.tls_key_file = ROLETALK_STR("/no/such/file");
    roletalk_listener listener;
    EXPECT(ROLETALK_STATUS_TLS,
           roletalk_peer_listen(p.server, ROLETALK_STR("127.0.0.1:0"), &listening, &listener));
    char crt[320], key[320], ca[320];
    snprintf(crt, sizeof crt, "%s", own_path("tls.crt"));
    snprintf(key, sizeof key, "%s", own_path("tls.key"));
    snprintf(ca, sizeof ca, "%s", own_path("ca.crt"));
    listening.tls_certificates_file = roletalk_string_of(crt, strlen(crt));
    listening.tls_key_file = roletalk_string_of(key, strlen(key));
    listening.tls_key = keys[0];
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_peer_listen(p.server, ROLETALK_STR("127.0.0.1:0"), &listening, &listener));
    listening.tls_key = ROLETALK_STR("");
    listening.tls_watch_ms = 5;
    OK(roletalk_peer_listen(p.server, ROLETALK_STR("127.0.0.1:0"), &listening, &listener));
    char url[128];
    size_t len;
    OK(roletalk_listener_url(listener, url, sizeof url, &len));
    const roletalk_string secure = roletalk_string_of(url, len);
    OK(roletalk_peer_get_tls_expires(p.server, &expires));
    CHECK(expires > (uint64_t)time(NULL) * 1000);

    /* A client stays connected, and asks all the time. */
    roletalk_connect_options dialing;
    memset(&dialing, 0, sizeof dialing);
    dialing.struct_size = sizeof dialing;
    dialing.tls_ca_file = roletalk_string_of(ca, strlen(ca));
    dialing.tls_server_name = ROLETALK_STR("localhost");
    OK(roletalk_peer_connect(p.client, secure, &dialing, NULL));
    OK(roletalk_peer_destination(p.client, ROLETALK_STR("r"), &p.to));
    OK(roletalk_destination_ready(p.to, LIMIT_S * 1000));

    /* By watching, by a call, with PEM: the other certificate each time. */
    for (int n = 1; n <= rotations; n++) {
        const int now = n % 2;
        if (n % 3 == 0) {
            OK(roletalk_listener_replace_tls(listener, certificates[now], keys[now],
                                             ROLETALK_STR("")));
        } else {
            put_identity(certificates[now], keys[now]);
            if (n % 3 == 1) OK(roletalk_peer_reload_tls(p.server));
        }
        /* Watching takes a moment. */
        for (time_t begun = time(NULL); dial(secure, certificates[now]) != ROLETALK_STATUS_OK;)
            if (time(NULL) - begun > LIMIT_S) FAIL("%d is not taken", n);
        EXPECT(ROLETALK_STATUS_CONNECT_FAILED, dial(secure, certificates[1 - now]));
        OK(roletalk_destination_request(p.to, ROLETALK_STR("echo"), txt("hi"), NULL, NULL));
    }

    wait_count(&t.reloaded, 1);

    /* What cannot be used changes nothing, and says so. */
    put_identity(expired, expired_key);
    wait_count(&t.expired, 1);
    EXPECT(ROLETALK_STATUS_TLS, roletalk_peer_reload_tls(p.server));
    roletalk_string why = roletalk_last_error();
    CHECK(memmem(why.data, why.len, "what was in force stays", 23) != NULL);
    EXPECT(ROLETALK_STATUS_TLS,
           roletalk_listener_replace_tls(listener, certificates[0], keys[1], ROLETALK_STR("")));
    OK(dial(secure, certificates[1]));

    /* The dialer's side. */
    put("ca.crt", ROLETALK_STR("no certificate"));
    EXPECT(ROLETALK_STATUS_TLS, roletalk_peer_reload_tls(p.client));
    put("ca.crt", certificates[1]);
    OK(roletalk_peer_reload_tls(p.client));
    OK(roletalk_peer_replace_tls(p.client, secure, certificates[0], ROLETALK_STR(""),
                                 ROLETALK_STR("")));
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT,
           roletalk_peer_replace_tls(p.client, ROLETALK_STR("ws://127.0.0.1:1"), certificates[0],
                                     ROLETALK_STR(""), ROLETALK_STR("")));
    OK(roletalk_destination_request(p.to, ROLETALK_STR("echo"), txt("hi"), NULL, NULL));

    /* Networks and ports of acquaintance. */
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.acquaintance_networks = ROLETALK_STR("intranet");
    roletalk_peer other;
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_peer_new(&options, &other));
    options.acquaintance_networks = ROLETALK_STR("public, 10.0.0.0/8");
    options.acquaintance_ports = ROLETALK_STR("0");
    EXPECT(ROLETALK_STATUS_INVALID_ARGUMENT, roletalk_peer_new(&options, &other));
    options.acquaintance_ports = ROLETALK_STR("9000-9100");
    OK(roletalk_peer_new(&options, &other));
    OK(roletalk_peer_close(other));

    close_pair(&p);
    CHECK(unlink(own_path("tls.crt")) == 0 && unlink(own_path("tls.key")) == 0);
    CHECK(unlink(own_path("ca.crt")) == 0 && rmdir(own_directory()) == 0);
    puts("reload: ok");
    return 0;
}
