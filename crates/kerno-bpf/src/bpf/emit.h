/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The event plane: one ring a signal. Every attempt to emit is counted, and every one the
 * ring had no room for, so that (records read) + lost == emitted holds exactly.
 */
#ifndef KERNO_EMIT_H
#define KERNO_EMIT_H

#include "counters.h"
#include "kernel.h"

/* The loader sets the size; this is the least that every kernel takes, whose pages may have 64 KiB. */
#define RING(name)                                                                                                     \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                                                    \
		__uint(max_entries, 1 << 16);                                                                          \
	} name SEC(".maps")

#if SIGNALS == 1
#define EVENTS events
RING(events);
#else
/* Declared beside the numbers of the signals. */
#define EVENTS OF_SIGNAL(events)

/*
 * Set while the programs run: signals that were stopped, while others still need the programs, emit nothing any more.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SIGNALS);
	__type(key, __u32);
	__type(value, __u32);
} stopped SEC(".maps");
#endif

/* The reader sleeps until this many bytes wait (or its own timer fires); 0 wakes it for every event. */
const volatile __u32 cfg_wakeup_bytes[SIGNALS] = {};

static __always_inline bool emits(__u32 signal)
{
#if SIGNALS > 1
	__u32 *off = bpf_map_lookup_elem(&stopped, &signal);

	return off && !*off;
#else
	return true;
#endif
}

static __always_inline void *event_reserve_bytes(__u32 signal, void *ring, __u64 bytes)
{
	struct event_counters *c;
	void *record;

	if (!emits(signal))
		return NULL;
	c = event_counters(signal);
	if (!c)
		return NULL;
	__sync_fetch_and_add(&c->emitted, 1);
	record = bpf_ringbuf_reserve(ring, bytes, 0);
	if (!record)
		__sync_fetch_and_add(&c->lost, 1);
	return record;
}

/* A zeroed record of the signal's ring, or NULL (counted) when that is full. The size must be a constant. */
#define event_reserve(type)                                                                                            \
	({                                                                                                             \
		type *__record = event_reserve_bytes(SIGNAL, &EVENTS, sizeof(type));                                   \
		if (__record)                                                                                          \
			__builtin_memset(__record, 0, sizeof(type));                                                   \
		__record;                                                                                              \
	})

#define event_submit(record) event_submit_to(SIGNAL, &EVENTS, record)
static __always_inline void event_submit_to(__u32 signal, void *ring, void *record)
{
	__u64 waiting;

	if (!cfg_wakeup_bytes[signal]) {
		bpf_ringbuf_submit(record, BPF_RB_FORCE_WAKEUP);
		return;
	}
	/*
	 * Wake when the level crosses the mark, not for each event above it: the reader that was woken drains all, and
	 * its timer covers a crossing that two CPUs stepped over together.
	 */
	waiting = bpf_ringbuf_query(ring, BPF_RB_AVAIL_DATA);
	bpf_ringbuf_submit(record, waiting >= cfg_wakeup_bytes[signal] && waiting < cfg_wakeup_bytes[signal] + 4096
					   ? BPF_RB_FORCE_WAKEUP
					   : BPF_RB_NO_WAKEUP);
}

#endif
