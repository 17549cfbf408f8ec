#include "phases/contact_sheet.h"

#include "base/check.h"
#include "io/image.h"

#include <stdlib.h>
#include <string.h>

enum { GAP = 4, GROUND = 200 }; // pixels between pictures, and their grey

struct contact_sheet contact_sheet_new(int rows, int columns, int tile_height, int tile_width, int zoom)
{
    struct contact_sheet sheet = {.rows = rows,
                                  .columns = columns,
                                  .tile_height = tile_height,
                                  .tile_width = tile_width,
                                  .zoom = zoom,
                                  .height = GAP + rows * (tile_height * zoom + GAP),
                                  .width = GAP + columns * (tile_width * zoom + GAP)};
    size_t bytes = (size_t)sheet.height * (size_t)sheet.width * 3;
    sheet.rgb = check_malloc(bytes);
    memset(sheet.rgb, GROUND, bytes);
    return sheet;
}

void contact_sheet_clear(struct contact_sheet *sheet)
{
    free(sheet->rgb);
    *sheet = (struct contact_sheet){0};
}

void contact_sheet_put(struct contact_sheet *sheet, int row, int column, const uint8_t *tile)
{
    CHECK(row >= 0 && row < sheet->rows && column >= 0 && column < sheet->columns,
          "place %d, %d of a sheet of %d x %d", row, column, sheet->rows, sheet->columns);
    int zoom = sheet->zoom, top = GAP + row * (sheet->tile_height * zoom + GAP),
        left = GAP + column * (sheet->tile_width * zoom + GAP);
    for (int y = 0; y < sheet->tile_height * zoom; y++)
        for (int x = 0; x < sheet->tile_width * zoom; x++)
            memcpy(sheet->rgb + 3 * ((size_t)(top + y) * (size_t)sheet->width + (size_t)(left + x)),
                   tile + 3 * (y / zoom * sheet->tile_width + x / zoom), 3);
}

bool contact_sheet_write(const struct contact_sheet *sheet, const char *path, struct fault *fault)
{
    return image_write_png(path, sheet->height, sheet->width, sheet->rgb, NULL, 0, fault);
}
