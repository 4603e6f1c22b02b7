/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store.h - the record of which children are healthy, and where it is kept.
 *
 *   {"clean_shutdown": false,
 *    "children": [{"uuid": "...", "healthy": true}, ...],
 *    "generation": "0123456789abcdef",
 *    "size": 1073741824,
 *    "label": "v1"}
 *
 * A control plane reads it to know from which replicas a volume can be rebuilt, so the first two
 * members are as it knows them. The third is ours: the write-intent records on the children
 * (intent.h) carry the same number, and are void if it differs. An engine that rewrites the record
 * without it makes them void, which is right: it did not keep them. The fourth is the bytes
 * that were asked for, last: a volume that grew is not made again as it was, since hosts would see
 * its end missing, and what lies there would not be rebuilt. The fifth says where the data begins
 * on each child (geometry.h): read from elsewhere it is garbage, and written there it is lost.
 *
 * A record has one writer: two processes that serve the same replicas would each overwrite what the
 * other wrote, and the second would take the life of the first for a crash. Where others can reach
 * the same record the store has a lock for it. A nexus takes it before it touches a child, and
 * keeps it until it writes no record any more (record_writer.c). It ends with the process, however
 * that ends.
 *
 * Owner:  whoever makes a store; it outlives every nexus that uses it.
 * Thread: all calls in a task on the primary; they may take as long as they like, the nexus
 *         has its own time limit (retire.c). A store never has two puts of one key at work.
 */
#ifndef ASHLAR_NEXUS_STORE_H
#define ASHLAR_NEXUS_STORE_H

#include "base/err.h"
#include "base/uuid.h"
#include "reactor/task.h"

enum {
	RECORD_CHILDREN_MAX = 16,
	RECORD_TEXT_MAX = 4096, /* bytes of JSON with the NUL */
	STORE_KEY_MAX = 256,    /* with the NUL */
};

struct nexus_record {
	bool is_clean;       /* it was shut down or destroyed in order */
	uint64_t generation; /* 0: not ours */
	uint64_t size;       /* bytes asked; 0: not ours */
	uint8_t label;       /* enum nexus_label; 0: it does not say */
	unsigned nchildren;
	struct {
		struct uuid uuid;
		bool is_healthy;
	} child[RECORD_CHILDREN_MAX];
};

/* JSON in @text; it always fits. */
void record_format(const struct nexus_record *record, char text[RECORD_TEXT_MAX]);
/* -EINVAL with what is wrong. Members it does not know are ignored. */
int record_parse(const char *text, size_t len, struct nexus_record *ret,
		 struct err *err) WARN_UNUSED;

struct store_lock; /* the store's own */

struct nexus_store {
	const char *name; /* for messages */
	/*
	 * Both or neither; neither: nobody else can reach the records. -EBUSY: another nexus has
	 * it, @err says who. Other errors: the store is of no use.
	 */
	int (*lock)(struct nexus_store *store, const char *key, struct store_lock **ret,
		    struct err *err) MAY_SUSPEND;
	void (*unlock)(struct nexus_store *store, struct store_lock *lock) MAY_SUSPEND;
	int (*put)(struct nexus_store *store, const char *key, const char *text,
		   struct err *err) MAY_SUSPEND;
	/* -ENOENT: there is none. */
	int (*get)(struct nexus_store *store, const char *key, char text[RECORD_TEXT_MAX],
		   struct err *err) MAY_SUSPEND;
	int (*del)(struct nexus_store *store, const char *key, struct err *err) MAY_SUSPEND;
	void (*free)(struct nexus_store *store);
};

/* Forgotten when the process ends. NULL: no memory. */
struct nexus_store *store_memory_new(void);
/*
 * One file per key in @dir, which is made if it is not there. A put is durable when it returns: a
 * new file, synced, renamed over the old one, the directory synced. A lock is one of a file beside
 * it, KEY.lock, which has the process id of its owner and goes with it if that ends in order.
 */
int store_file_new(const char *dir, struct nexus_store **ret,
		   struct err *err) MAY_SUSPEND WARN_UNUSED;
static inline void store_free(struct nexus_store *store)
{
	if (store != NULL)
		store->free(store);
}

#endif
