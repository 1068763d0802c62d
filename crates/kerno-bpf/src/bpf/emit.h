/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The event plane: one ring an object. Every attempt to emit is counted, and every one the
 * ring had no room for, so that (records read) + lost == emitted holds exactly.
 */
#ifndef KERNO_EMIT_H
#define KERNO_EMIT_H

#include "counters.h"
#include "kernel.h"

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20); /* the loader overrides it */
} events SEC(".maps");

/* The reader sleeps until this many bytes wait (or its own timer fires); 0 wakes it for every event. */
const volatile __u32 cfg_wakeup_bytes = 0;

static __always_inline void *event_reserve_bytes(__u64 bytes)
{
	struct event_counters *c = event_counters();
	void *record;

	if (!c)
		return NULL;
	__sync_fetch_and_add(&c->emitted, 1);
	record = bpf_ringbuf_reserve(&events, bytes, 0);
	if (!record)
		__sync_fetch_and_add(&c->lost, 1);
	return record;
}

/* A zeroed record of the ring, or NULL (counted) when the ring is full. The size must be a constant. */
#define event_reserve(type)                                                                                            \
	({                                                                                                             \
		type *__record = event_reserve_bytes(sizeof(type));                                                    \
		if (__record)                                                                                          \
			__builtin_memset(__record, 0, sizeof(type));                                                   \
		__record;                                                                                              \
	})

static __always_inline void event_submit(void *record)
{
	__u64 waiting;

	if (!cfg_wakeup_bytes) {
		bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
		return;
	}
	/*
	 * Wake when the level crosses the mark, not for each event above it: the reader that was woken drains all, and
	 * its timer covers a crossing that two CPUs stepped over together.
	 */
	waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
	bpf_ringbuf_submit(record, waiting >= cfg_wakeup_bytes && waiting < cfg_wakeup_bytes + 4096
					   ? BPF_RB_FORCE_WAKEUP
					   : BPF_RB_NO_WAKEUP);
}

#endif
