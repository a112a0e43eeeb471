/* Compression for filtered PNG rows, as zlib data (RFC 1950, RFC 1951). */
#ifndef DEFLATE_H
#define DEFLATE_H

/* What stb_image_write calls (STBIW_ZLIB_COMPRESS). The result is malloc'd; NULL where memory runs out. */
unsigned char *zlib_compress(const unsigned char *data, int length, int *out_length);

#endif
