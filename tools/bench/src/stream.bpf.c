/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Fills a ring of the library's with records, many for each run, so that the kernel is not the limit. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define RECORDS 256 /* a run */

struct record {
	__u64 words[16];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096); /* the library's own is taken */
} events SEC(".maps");

struct plan {
	struct record record;
	__u64 wakeup_bytes;
	__u64 made;
	__u64 lost;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct plan);
} plan SEC(".maps");

SEC("raw_tp/sys_enter")
int produce(void *ctx)
{
	__u32 zero = 0;
	struct plan *p = bpf_map_lookup_elem(&plan, &zero);

	if (!p)
		return 0;
	for (int i = 0; i < RECORDS; i++) {
		struct record *record = bpf_ringbuf_reserve(&events, sizeof(*record), 0);
		__u64 waiting;

		p->made++;
		if (!record) {
			p->lost++;
			continue;
		}
		*record = p->record;
		record->words[0] = bpf_ktime_get_ns();
		/* As event_submit in emit.h. */
		waiting = bpf_ringbuf_query(&events, BPF_RB_AVAIL_DATA);
		bpf_ringbuf_submit(record, waiting >= p->wakeup_bytes && waiting < p->wakeup_bytes + 4096
						   ? BPF_RB_FORCE_WAKEUP
						   : BPF_RB_NO_WAKEUP);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
