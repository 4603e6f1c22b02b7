/* SPDX-License-Identifier: Apache-2.0 */
/*
 * net.h - the simulated network: struct net over virtual time.
 *
 * Owner:  streams and listeners belong to those who made or accepted them, as with net_tcp.
 * Thread: one.
 * Rules:  bytes arrive in order and whole, or the connection breaks; everything else may happen:
 *         any cut of what is sent and received, any delay, silence, a window that closes.
 */
#ifndef SIM_NET_H
#define SIM_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "reactor/stream.h"

extern const struct net net_sim;

struct simnet_opts {
	uint64_t latency_min_ns, latency_mean_ns; /* of one way */
	uint32_t window_max;                      /* bytes under way and unread, per direction */
	uint32_t window_min;                      /* no connection has less; 0: down to 1 byte */
	bool is_cutting; /* send and recv take any part of what they could */
};

/* A quiet network, no connection. The world must run; net_set(&net_sim) is the caller's. */
void simnet_start(const struct simnet_opts *opts);
/* Everything must be closed: returns how many ends and listeners are not. */
unsigned simnet_stop(void);

/* Connections made from now on come from this address (default "10.0.0.1"). */
void simnet_from(const char *host);

/* While @is_cut nothing passes between the two; nobody is told. */
void simnet_partition(const char *host_a, const char *host_b, bool is_cut);
/* All traffic @factor times slower. 1: as ever. */
void simnet_slow(unsigned factor);

/* Connections with both ends open. */
unsigned simnet_count(void);
/* From now on the two below strike connections with this host only; NULL: with any. */
void simnet_aim(const char *host);
/* Break one of them, drawn by the seed: both ends get -ECONNRESET. False: there is none. */
bool simnet_drop(void);
/* One end learns that the connection broke, the other only hears silence. */
bool simnet_half_open(void);

/*
 * The machine @host dies: all its ends break; who talked to it hears nothing, or, by the dice and
 * once the machine is back, that nobody knows the connection.
 */
void simnet_crash(const char *host);

struct simnet_stats {
	uint64_t connects, refused, timeouts, drops, half_opens, partitions;
	uint64_t bytes, cuts; /* cuts: sends and receives that took less than they could */
};
const struct simnet_stats *simnet_stats(void);

#endif
