/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What lives for a moment and is found again by its address: connection attempts, requests to a disk. An array of sets that
 * have eight places each; the address says which set. The JIT inlines the look-up; a hash map costs a call for each
 * look-up, insertion and removal, and a lock for the last two.
 */
#ifndef KERNO_IN_FLIGHT_H
#define KERNO_IN_FLIGHT_H

#include "kernel.h"

#define IN_FLIGHT_WAYS 8

/*
 * `claims` says who has a place without an atomic operation that gives the old value (Linux 5.12): each CPU that wants one adds
 * itself and then looks. Who sees 1 was alone and has it; who sees more steps back. Two at once may both step back, never both go on.
 * An address is looked for only after the hook that it begins in: what is kept of it is whole by then.
 */
struct in_flight_ways {
	__u64 address[IN_FLIGHT_WAYS];
	__u32 claims[IN_FLIGHT_WAYS];
};

/* Some place that is the same for all programs of an object. */
const volatile __u64 in_flight_origin = 0;

/* `bits`: of the number of sets. */
#define IN_FLIGHT(name, type_, bits)                                                                                   \
	struct name##_set {                                                                                            \
		struct in_flight_ways ways;                                                                            \
		type_ values[IN_FLIGHT_WAYS];                                                                          \
	};                                                                                                             \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(max_entries, 1 << (bits));                                                                      \
		__type(key, __u32);                                                                                    \
		__type(value, struct name##_set);                                                                      \
	} name SEC(".maps");                                                                                           \
                                                                                                                       \
	static __always_inline struct name##_set *name##_set_of(const void *address)                                   \
	{                                                                                                              \
		__u32 index = in_flight_hash(address) >> (64 - (bits));                                                \
                                                                                                                       \
		return bpf_map_lookup_elem(&name, &index);                                                             \
	}                                                                                                              \
                                                                                                                       \
	/* NULL for what never began, as far as we know. */                                                            \
	static __always_inline type_ *name##_find(const void *address)                                                 \
	{                                                                                                              \
		struct name##_set *set = name##_set_of(address);                                                       \
		__u32 way = set ? in_flight_find(&set->ways, address) : IN_FLIGHT_WAYS;                                \
                                                                                                                       \
		return set && way < IN_FLIGHT_WAYS ? &set->values[way] : NULL;                                         \
	}                                                                                                              \
                                                                                                                       \
	/* A place, with what was left in it; NULL where the set is full. */                                           \
	static __always_inline type_ *name##_begin(const void *address)                                                \
	{                                                                                                              \
		struct name##_set *set = name##_set_of(address);                                                       \
		__u32 way = set ? in_flight_claim(&set->ways, address) : IN_FLIGHT_WAYS;                               \
                                                                                                                       \
		return set && way < IN_FLIGHT_WAYS ? &set->values[way] : NULL;                                         \
	}                                                                                                              \
                                                                                                                       \
	static __always_inline void name##_end(const void *address)                                                    \
	{                                                                                                              \
		struct name##_set *set = name##_set_of(address);                                                       \
		__u32 way = set ? in_flight_find(&set->ways, address) : IN_FLIGHT_WAYS;                                \
                                                                                                                       \
		if (set && way < IN_FLIGHT_WAYS)                                                                       \
			in_flight_release(&set->ways, way);                                                            \
	}

/*
 * The difference of two pointers is a number; the verifier allows no other arithmetic with them. The upper bits of the product
 * are well mixed (2^64 divided by the golden ratio).
 */
static __always_inline __u64 in_flight_hash(const void *address)
{
	__u64 number = (__u64)address;

	asm volatile("%0 -= %1" : "+r"(number) : "r"(&in_flight_origin));
	return number * 0x9e3779b97f4a7c15ull;
}

static __always_inline __u32 in_flight_find(const struct in_flight_ways *ways, const void *address)
{
	for (__u32 way = 0; way < IN_FLIGHT_WAYS; way++)
		if (ways->address[way] == (__u64)address)
			return way;
	return IN_FLIGHT_WAYS;
}

/* One address begins on one CPU at a time. What never ended is found and begins anew. */
static __always_inline __u32 in_flight_claim(struct in_flight_ways *ways, const void *address)
{
	__u32 known = in_flight_find(ways, address);

	if (known < IN_FLIGHT_WAYS)
		return known;
	for (__u32 way = 0; way < IN_FLIGHT_WAYS; way++) {
		volatile __u32 *claims = &ways->claims[way];

		if (*claims)
			continue;
		__sync_fetch_and_add(claims, 1);
		if (*claims == 1) {
			ways->address[way] = (__u64)address;
			return way;
		}
		__sync_fetch_and_add(claims, -1);
	}
	return IN_FLIGHT_WAYS;
}

static __always_inline void in_flight_release(struct in_flight_ways *ways, __u32 way)
{
	ways->address[way] = 0;
	__sync_fetch_and_add(&ways->claims[way], -1);
}

#endif
