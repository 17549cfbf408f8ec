/* A sheet of small pictures of one size, in rows and columns, as a PNG. */
#ifndef PHASES_CONTACT_SHEET_H
#define PHASES_CONTACT_SHEET_H

#include "base/fault.h"

#include <stdint.h>

struct contact_sheet {
    int rows, columns;
    int tile_height, tile_width; /* of a picture, pixels */
    int zoom;                    /* each pixel is shown as zoom x zoom */
    int height, width;           /* of the sheet */
    uint8_t *rgb;                /* [height, width, 3] owned */
};

/* An empty sheet. Free with contact_sheet_clear. */
struct contact_sheet contact_sheet_new(int rows, int columns, int tile_height, int tile_width, int zoom);
void contact_sheet_clear(struct contact_sheet *sheet);

/* Puts a picture [tile_height, tile_width, 3] into a place. */
void contact_sheet_put(struct contact_sheet *sheet, int row, int column, const uint8_t *tile);

bool contact_sheet_write(const struct contact_sheet *sheet, const char *path, struct fault *fault);

#endif
