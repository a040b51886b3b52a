/* Streams a file to role "store".
 *
 *   send_file URL FILE
 */
#include "example.h"

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "send_file URL FILE\n"), 2;
    FILE *file = fopen(argv[2], "rb");
    if (!file) return perror(argv[2]), 1;
    rt_peer peer;
    rt_destination store;
    rt_writable stream;
    MUST(rt_peer_new(NULL, &peer));
    MUST(rt_peer_connect(peer, text(argv[1]), NULL, NULL));
    MUST(rt_peer_destination(peer, RT_STR("store"), &store));
    MUST(rt_destination_ready(store, 10000));
    MUST(rt_destination_writable(store, RT_STR("upload"), rt_text(text(argv[2])), NULL, &stream,
                                 NULL));
    static char piece[64 << 10];
    size_t len, total = 0;
    while ((len = fread(piece, 1, sizeof piece, file)) > 0) {
        MUST(rt_writable_write(stream, piece, len, -1, NULL));
        total += len;
    }
    fclose(file);
    /* Returns when the other side has read everything. */
    MUST(rt_writable_finish(stream, -1));
    MUST(rt_writable_close(stream));
    printf("%zu bytes\n", total);
    MUST(rt_peer_close(peer));
    return 0;
}
