/* TLS: tls CERTIFICATE KEY OTHER, PEM files: a self-signed certificate for "localhost" with its key, and
   another certificate that has nothing to do with it. */
#include "check.h"

static rt_string read_file(const char *path) {
    static char room[3][8192];
    static int used;
    FILE *file = fopen(path, "rb");
    CHECK(file != NULL && used < 3);
    char *text = room[used++];
    size_t len = fread(text, 1, sizeof room[0], file);
    CHECK(len > 0 && len < sizeof room[0]);
    fclose(file);
    return rt_string_of(text, len);
}

static void echo(void *user_data, const rt_incoming *in) {
    (void)user_data;
    OK(rt_context_respond(in->context, in->data));
}

int main(int argc, char **argv) {
    CHECK(argc == 4);
    const rt_string certificate = read_file(argv[1]), key = read_file(argv[2]);
    const rt_string stranger = read_file(argv[3]);
    pair p;
    p.server = new_peer("server", RT_CALLBACKS_THREAD);
    p.client = new_peer("client", RT_CALLBACKS_THREAD);
    OK(rt_peer_role(p.server, RT_STR("r"), 0, &p.role));
    handle(&p, RT_REQUEST, "echo", echo, NULL);

    rt_listen_options listening;
    memset(&listening, 0, sizeof listening);
    listening.struct_size = sizeof listening;
    listening.tls_certificates = certificate;
    rt_listener listener;
    /* A certificate without its key, and with what is no key. */
    EXPECT(RT_TLS, rt_peer_listen(p.server, RT_STR("127.0.0.1:0"), &listening, &listener));
    listening.tls_key = RT_STR("no key");
    EXPECT(RT_TLS, rt_peer_listen(p.server, RT_STR("127.0.0.1:0"), &listening, &listener));
    listening.tls_key = key;
    OK(rt_peer_listen(p.server, RT_STR("127.0.0.1:0"), &listening, &listener));
    char url[128];
    size_t len;
    OK(rt_listener_url(listener, url, sizeof url, &len));
    const rt_string secure = rt_string_of(url, len);
    CHECK(len > 6 && memcmp(url, "wss://", 6) == 0);

    rt_connect_options dialing;
    memset(&dialing, 0, sizeof dialing);
    dialing.struct_size = sizeof dialing;
    dialing.once = 1;
    /* Nobody whom the system trusts has signed it; nor has the stranger. */
    EXPECT(RT_CONNECT_FAILED, rt_peer_connect(p.client, secure, &dialing, NULL));
    dialing.tls_server_name = RT_STR("localhost");
    dialing.tls_ca = stranger;
    EXPECT(RT_CONNECT_FAILED, rt_peer_connect(p.client, secure, &dialing, NULL));
    dialing.tls_ca = RT_STR("no certificate");
    EXPECT(RT_TLS, rt_peer_connect(p.client, secure, &dialing, NULL));
    /* The right authority, but another name. */
    dialing.tls_ca = certificate;
    dialing.tls_server_name = RT_STR("elsewhere");
    EXPECT(RT_CONNECT_FAILED, rt_peer_connect(p.client, secure, &dialing, NULL));
    /* Without TLS. */
    char plain[128];
    int plain_len = snprintf(plain, sizeof plain, "ws%.*s", (int)len - 3, url + 3);
    EXPECT(RT_CONNECT_FAILED,
           rt_peer_connect(p.client, rt_string_of(plain, (size_t)plain_len), &dialing, NULL));

    dialing.tls_server_name = RT_STR("localhost");
    OK(rt_peer_connect(p.client, secure, &dialing, NULL));
    OK(rt_peer_destination(p.client, RT_STR("r"), &p.to));
    OK(rt_destination_ready(p.to, LIMIT_S * 1000));
    OK(rt_destination_request(p.to, RT_STR("echo"), txt("hi"), NULL, NULL));
    close_pair(&p);
    puts("tls: ok");
    return 0;
}
