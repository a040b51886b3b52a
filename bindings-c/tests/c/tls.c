/* TLS: tls CERTIFICATE KEY OTHER, PEM files: a self-signed certificate for "localhost" with its key, and
   another certificate that has nothing to do with it. */
#include "check.h"

static roletalk_string read_file(const char *path) {
    static char room[3][8192];
    static int used;
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL && used < 3);
    char *text = room[used++];
    size_t len = fread(text, 1, sizeof room[0], file);
    CHECK(len > 0 && len < sizeof room[0]);
    fclose(file);
    return roletalk_string_of(text, len);
}

static void echo(void *user_data, const roletalk_incoming *in) {
    (void)user_data;
    OK(roletalk_context_respond(in->context, in->data));
}

/* What the listener is told of a handshake that fails, as an event and in the log. */

typedef struct {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    char event[512], record[512];
    int32_t level;
} heard;

static void keep(heard *h, char *to, roletalk_string text) {
    pthread_mutex_lock(&h->mutex);
    snprintf(to, sizeof h->event, "%.*s", ROLETALK_ARG(text));
    pthread_cond_broadcast(&h->changed);
    pthread_mutex_unlock(&h->mutex);
}

static void on_event(void *user_data, const roletalk_event *event) {
    heard *h = (heard *)user_data;
    if (event->kind == ROLETALK_EVENT_CONNECTION_CLOSED && event->status == ROLETALK_STATUS_TLS)
        keep(h, h->event, event->text);
}

static void on_record(void *user_data, const roletalk_log_record *record) {
    heard *h = (heard *)user_data;
    static const char begin[] = "TLS refused";
    if (record->text.len < sizeof begin || memcmp(record->text.data, begin, sizeof begin - 1))
        return;
    h->level = record->level;
    keep(h, h->record, record->text);
}

static void refusal_is_told(roletalk_peer server, roletalk_peer client, roletalk_string address,
                            const roletalk_connect_options *dialing) {
    static heard h = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, "", "", 0};
    roletalk_operation subscription;
    OK(roletalk_peer_on_event(server, HANDLER(roletalk_event_handler, on_event, &h),
                              &subscription));
    OK(roletalk_log(ROLETALK_LOG_WARN, HANDLER(roletalk_log_handler, on_record, &h)));
    EXPECT(ROLETALK_STATUS_CONNECT_FAILED, roletalk_peer_connect(client, address, dialing, NULL));
    struct timespec limit;
    clock_gettime(CLOCK_REALTIME, &limit);
    limit.tv_sec += LIMIT_S;
    pthread_mutex_lock(&h.mutex);
    while (!h.event[0] || !h.record[0])
        if (pthread_cond_timedwait(&h.changed, &h.mutex, &limit) == ETIMEDOUT) FAIL("not told");
    pthread_mutex_unlock(&h.mutex);
    /* From where, why, and what to do. */
    static const char *const parts[] = {"with 127.0.0.1:", "received fatal alert",
                                        "does not accept this side's certificate"};
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (!strstr(h.event, parts[i])) FAIL("%s", h.event);
    CHECK(strstr(h.record, "remote=127.0.0.1:") && strstr(h.record, "received fatal alert"));
    CHECK(h.level == ROLETALK_LOG_WARN);
    OK(roletalk_operation_cancel(subscription));
    OK(roletalk_operation_free(subscription));
    OK(roletalk_log(ROLETALK_LOG_OFF, HANDLER(roletalk_log_handler, NULL, NULL)));
}

/* What both ends have shown: certificates, and keys that are proved on this connection only. */

typedef struct {
    int dialed, checked, upgrades;
    /* The name of the other one's own key. */
    char peer[64];
} shown;

static void check_certificate(void *user_data, const roletalk_certificate *certificate) {
    CHECK(certificate->struct_size == sizeof *certificate);
    CHECK(is(certificate->subject, "CN=own"));
    CHECK(certificate->name_count == 1 && is(certificate->names[0], "dns:localhost"));
    CHECK(certificate->fingerprint.len == 64 && certificate->expires > 1000000000);
    ((shown *)user_data)->upgrades++;
}

static void check_identity(void *user_data, const roletalk_identity *identity) {
    shown *s = (shown *)user_data;
    CHECK(identity->dialed == s->dialed && is(identity->key, "k"));
    CHECK(is(identity->peer, s->peer));
    CHECK(identity->certificate != NULL);
    check_certificate(s, identity->certificate);
    s->checked++;
}

static void check_unit(void *user_data, roletalk_unit unit) {
    OK(roletalk_unit_each_identity(unit, check_identity, user_data));
}

static void on_upgrade(void *user_data, roletalk_upgrade upgrade) {
    OK(roletalk_upgrade_certificate(upgrade, check_certificate, user_data));
    OK(roletalk_upgrade_allow(upgrade, roletalk_string_of(NULL, 0)));
}

static void both_ends_are_known(roletalk_string certificate, roletalk_string key) {
    shown listener = {0, 0, 0, ""}, dialer = {1, 0, 0, ""};
    static const uint8_t own[32] = {7};
    roletalk_limits limits = patient_limits();
    roletalk_pair secret;
    secret.key = ROLETALK_STR("k");
    secret.value = ROLETALK_STR("secret");
    roletalk_peer_options options;
    memset(&options, 0, sizeof options);
    options.struct_size = sizeof options;
    options.limits = &limits;
    options.keys = &secret;
    options.key_count = 1;
    options.channel_binding = ROLETALK_CHANNEL_BINDING_REQUIRE;
    roletalk_peer client, server;
    options.peer_key = own;
    OK(roletalk_peer_new(&options, &client));
    options.peer_key = NULL;
    /* The id begins with the name of the key. */
    char id[64];
    size_t id_len;
    OK(roletalk_peer_id(client, id, sizeof id, &id_len));
    snprintf(listener.peer, sizeof listener.peer, "%.44s", id);
    CHECK(id_len > 45 && memcmp(id, "key-", 4) == 0 && id[44] == '-');
    options.authenticate = HANDLER(roletalk_authenticate_handler, on_upgrade, &listener);
    OK(roletalk_peer_new(&options, &server));
    roletalk_listen_options listening;
    memset(&listening, 0, sizeof listening);
    listening.struct_size = sizeof listening;
    listening.tls_certificates = certificate;
    listening.tls_key = key;
    listening.tls_client_ca = certificate;
    roletalk_listener secure;
    OK(roletalk_peer_listen(server, ROLETALK_STR("127.0.0.1:0"), &listening, &secure));
    char url[128];
    size_t len;
    OK(roletalk_listener_url(secure, url, sizeof url, &len));
    roletalk_connect_options dialing;
    memset(&dialing, 0, sizeof dialing);
    dialing.struct_size = sizeof dialing;
    dialing.once = 1;
    dialing.tls_ca = dialing.tls_certificates = certificate;
    dialing.tls_key = key;
    dialing.tls_server_name = ROLETALK_STR("localhost");
    roletalk_unit unit;
    OK(roletalk_peer_connect(client, roletalk_string_of(url, len), &dialing, &unit));
    check_unit(&dialer, unit);
    CHECK(dialer.checked == 1);
    OK(roletalk_unit_free(unit));
    roletalk_role role;
    roletalk_destination to;
    OK(roletalk_peer_role(server, ROLETALK_STR("r"), 1, &role));
    OK(roletalk_role_handle(role, ROLETALK_KIND_REQUEST, ROLETALK_STR("echo"),
                            HANDLER(roletalk_incoming_handler, echo, NULL)));
    OK(roletalk_peer_destination(client, ROLETALK_STR("r"), &to));
    OK(roletalk_destination_ready(to, LIMIT_S * 1000));
    OK(roletalk_destination_request(to, ROLETALK_STR("echo"), txt("hi"), NULL, NULL));
    OK(roletalk_peer_each_unit(server, check_unit, &listener));
    CHECK(listener.checked == 1 && listener.upgrades == 2);
    OK(roletalk_peer_close(client));
    OK(roletalk_peer_close(server));
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    const roletalk_string certificate = read_file(argv[1]), key = read_file(argv[2]);
    const roletalk_string stranger = read_file(argv[3]);
    pair p;
    p.server = new_peer("server", ROLETALK_CALLBACKS_THREAD);
    p.client = new_peer("client", ROLETALK_CALLBACKS_THREAD);
    OK(roletalk_peer_role(p.server, ROLETALK_STR("r"), 1, &p.role));
    handle(&p, ROLETALK_KIND_REQUEST, "echo", echo, NULL);

    roletalk_listen_options listening;
    memset(&listening, 0, sizeof listening);
    listening.struct_size = sizeof listening;
    listening.tls_certificates = certificate;
    roletalk_listener listener;
    /* A certificate without its key, and with what is no key. */
    EXPECT(ROLETALK_STATUS_TLS,
           roletalk_peer_listen(p.server, ROLETALK_STR("127.0.0.1:0"), &listening, &listener));
    listening.tls_key = ROLETALK_STR("no key");
    EXPECT(ROLETALK_STATUS_TLS,
           roletalk_peer_listen(p.server, ROLETALK_STR("127.0.0.1:0"), &listening, &listener));
    listening.tls_key = key;
    OK(roletalk_peer_listen(p.server, ROLETALK_STR("127.0.0.1:0"), &listening, &listener));
    char url[128];
    size_t len;
    OK(roletalk_listener_url(listener, url, sizeof url, &len));
    const roletalk_string secure = roletalk_string_of(url, len);
    CHECK(len > 6 && memcmp(url, "wss://", 6) == 0);

    roletalk_connect_options dialing;
    memset(&dialing, 0, sizeof dialing);
    dialing.struct_size = sizeof dialing;
    dialing.once = 1;
    /* Nobody whom the system trusts has signed it; nor has the stranger. */
    EXPECT(ROLETALK_STATUS_CONNECT_FAILED, roletalk_peer_connect(p.client, secure, &dialing, NULL));
    dialing.tls_server_name = ROLETALK_STR("localhost");
    dialing.tls_ca = stranger;
    EXPECT(ROLETALK_STATUS_CONNECT_FAILED, roletalk_peer_connect(p.client, secure, &dialing, NULL));
    dialing.tls_ca = ROLETALK_STR("no certificate");
    EXPECT(ROLETALK_STATUS_TLS, roletalk_peer_connect(p.client, secure, &dialing, NULL));
    /* The right authority, but another name. */
    dialing.tls_ca = certificate;
    dialing.tls_server_name = ROLETALK_STR("elsewhere");
    EXPECT(ROLETALK_STATUS_CONNECT_FAILED, roletalk_peer_connect(p.client, secure, &dialing, NULL));
    roletalk_string why = roletalk_last_error();
    CHECK(memmem(why.data, why.len, "is for another name", 19) != NULL);
    CHECK(memmem(why.data, why.len, secure.data, secure.len) != NULL);
    refusal_is_told(p.server, p.client, secure, &dialing);
    /* Without TLS. */
    char plain[128];
    int plain_len = snprintf(plain, sizeof plain, "ws%.*s", (int)len - 3, url + 3);
    EXPECT(ROLETALK_STATUS_CONNECT_FAILED,
           roletalk_peer_connect(p.client, roletalk_string_of(plain, (size_t)plain_len), &dialing,
                                 NULL));

    dialing.tls_server_name = ROLETALK_STR("localhost");
    OK(roletalk_peer_connect(p.client, secure, &dialing, NULL));
    OK(roletalk_peer_destination(p.client, ROLETALK_STR("r"), &p.to));
    OK(roletalk_destination_ready(p.to, LIMIT_S * 1000));
    OK(roletalk_destination_request(p.to, ROLETALK_STR("echo"), txt("hi"), NULL, NULL));
    close_pair(&p);
    both_ends_are_known(certificate, key);
    puts("tls: ok");
    return 0;
}
