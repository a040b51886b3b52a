/* Streams a file to role "store".
 *
 *   send_file URL FILE
 */
#include "example.h"

int main(int argc, char **argv) {
    if (argc != 3) return fprintf(stderr, "send_file URL FILE\n"), 2;
    FILE *file = fopen(argv[2], "rb");
    if (!file) return perror(argv[2]), 1;
    roletalk_peer peer;
    roletalk_destination store;
    roletalk_writable stream;
    MUST(roletalk_peer_new(NULL, &peer));
    MUST(roletalk_peer_connect(peer, text(argv[1]), NULL, NULL));
    MUST(roletalk_peer_destination(peer, ROLETALK_STR("store"), &store));
    MUST(roletalk_destination_ready(store, 10000));
    MUST(roletalk_destination_writable(store, ROLETALK_STR("upload"),
                                       roletalk_data_text(text(argv[2])), NULL, &stream, NULL));
    static char piece[64 << 10];
    size_t len, total = 0;
    while ((len = fread(piece, 1, sizeof piece, file)) > 0) {
        MUST(roletalk_writable_write(stream, piece, len, -1, NULL));
        total += len;
    }
    fclose(file);
    /* Returns when the other side has read everything. */
    MUST(roletalk_writable_finish(stream, -1));
    MUST(roletalk_writable_close(stream));
    printf("%zu bytes\n", total);
    MUST(roletalk_peer_close(peer));
    return 0;
}
