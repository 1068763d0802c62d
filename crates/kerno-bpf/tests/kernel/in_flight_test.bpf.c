/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The sets of in_flight.h by themselves: a run takes places in one set, marks them, finds them again and gives them back. */
#include "in_flight.h"

#define MAX_CLAIMS 12

const volatile __u32 cfg_claims = MAX_CLAIMS;

struct places {
	struct in_flight_ways ways;
	__u64 values[IN_FLIGHT_WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct places);
} places SEC(".maps");

/* Of each CPU. */
struct tally {
	__u64 taken;
	__u64 full;
	__u64 given_back;
	__u64 shared; /* somebody else's mark in a place of ours */
	__u64 next_number;
	__u64 pad[3];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, __u32);
	__type(value, struct tally);
} tallies SEC(".maps");

SEC("socket")
int on_run(void *ctx)
{
	__u32 cpu = bpf_get_smp_processor_id(), zero = 0, way;
	struct places *set = bpf_map_lookup_elem(&places, &zero);
	struct tally *tally = bpf_map_lookup_elem(&tallies, &cpu);
	__u64 number;

	if (!set || !tally)
		return 0;
	number = (__u64)(cpu + 1) << 32 | tally->next_number;
	tally->next_number += MAX_CLAIMS;
	for (__u32 i = 0; i < MAX_CLAIMS && i < cfg_claims; i++) {
		way = in_flight_claim(&set->ways, number + i);
		if (way >= IN_FLIGHT_WAYS) {
			tally->full++;
			continue;
		}
		tally->taken++;
		if (set->values[way])
			tally->shared++;
		set->values[way] = number + i;
	}
	for (__u32 i = 0; i < MAX_CLAIMS && i < cfg_claims; i++) {
		way = in_flight_find(&set->ways, number + i);
		if (way >= IN_FLIGHT_WAYS)
			continue;
		tally->given_back++;
		if (set->values[way] != number + i)
			tally->shared++;
		set->values[way] = 0;
		in_flight_release(&set->ways, way);
	}
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
