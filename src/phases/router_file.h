/* router.h5: what prune hands on, and its checkpoint. */
#ifndef PHASES_ROUTER_FILE_H
#define PHASES_ROUTER_FILE_H

#include "models/unet.h"
#include "phases/lineage.h"
#include "router/router.h"

/* The router with all that it is defined by. */
struct routing {
    char *config_text;                /* the teacher's config.json; owned */
    char teacher_id[SHA256_HEX_SIZE]; /* the teacher's content id */
    struct lineage lineage;
    struct unet *unet; /* for its unit table: no weights in memory; owned, or borrowed from the teacher */
    bool owns_unet;
    struct unit_macs macs; /* at latents[0] x latents[1], tokens; owned */
    int64_t latents[2], tokens;
    double budget;         /* p, of the total MACs */
    struct router *router; /* owned */
};

void routing_clear(struct routing *routing);

/* Reads all but the training state. `backend` is for the network's record alone. Local. Free with
 * routing_clear. */
bool routing_read(struct h5_reader *reader, struct backend *backend, struct routing *routing,
                  struct fault *fault);
/* The same of a finished file, whose masks must leave every expert a network (unet_check_shape). */
bool routing_open(const char *path, struct backend *backend, struct routing *routing, struct fault *fault);

/* Writes the same. */
bool routing_write(const struct routing *routing, struct h5_writer *writer, struct fault *fault);

/* Refuses (EXIT_CODE_INPUT) a router and a teacher that do not belong together. The names are for messages.
 */
bool routing_check_teacher(const struct routing *routing, const char *router_name, const char *teacher_id,
                           const char *teacher_name, struct fault *fault);

/* The mask of expert k, [entries] 1 = kept, as a shape; it lies in masks[K, entries] of router_masks. */
struct unet_shape routing_shape(const struct routing *routing, const uint8_t *masks, int64_t k);

/* MACs of each sliced expert over the teacher's, ratio[K], at any latents: counted on the sliced networks
 * themselves. */
void routing_total_ratios(const struct routing *routing, int64_t height, int64_t width, double *ratio);

#endif
