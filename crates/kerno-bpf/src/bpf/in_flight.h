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
	__u64 number[IN_FLIGHT_WAYS]; /* in_flight_number(); 0: free */
	__u32 claims[IN_FLIGHT_WAYS];
};

/* Mixes into the upper bits: 2^64 divided by the golden ratio. */
#define IN_FLIGHT_MIX 0x9e3779b97f4a7c15ull

/* Some place that is the same for all programs of an object, and the number that it is. */
const volatile __u64 in_flight_origin = 0;
static volatile __u64 in_flight_base;

/* The difference of two pointers is a number; the verifier allows no other arithmetic with them. */
static __always_inline __u64 in_flight_number(const void *address)
{
	__u64 number = (__u64)address;

	asm volatile("%0 -= %1" : "+r"(number) : "r"(&in_flight_origin));
	return number;
}

/* The same of an address that is a number to the verifier. What is written to a map is one, too. */
static __always_inline __u64 in_flight_number_at(__u64 address)
{
	in_flight_base = (__u64)&in_flight_origin;
	return address - in_flight_base;
}

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
	static __always_inline __u32 name##_index(__u64 number)                                                        \
	{                                                                                                              \
		return number * IN_FLIGHT_MIX >> (64 - (bits));                                                        \
	}                                                                                                              \
                                                                                                                       \
	/* Where an address is kept; no set, or no way of it, for what never began, as far as we know. */              \
	struct name##_place {                                                                                          \
		struct name##_set *set;                                                                                \
		__u32 way;                                                                                             \
	};                                                                                                             \
                                                                                                                       \
	static __always_inline struct name##_place name##_place(const void *address)                                   \
	{                                                                                                              \
		__u64 number = in_flight_number(address);                                                              \
		__u32 index = name##_index(number);                                                                    \
		struct name##_place place = { .set = bpf_map_lookup_elem(&name, &index), .way = IN_FLIGHT_WAYS };      \
                                                                                                                       \
		if (place.set)                                                                                         \
			place.way = in_flight_find(&place.set->ways, number);                                          \
		return place;                                                                                          \
	}                                                                                                              \
                                                                                                                       \
	static __always_inline type_ *name##_at(struct name##_place place)                                             \
	{                                                                                                              \
		return place.set && place.way < IN_FLIGHT_WAYS ? &place.set->values[place.way] : NULL;                 \
	}                                                                                                              \
                                                                                                                       \
	/* Gives the place up. */                                                                                      \
	static __always_inline void name##_leave(struct name##_place place)                                            \
	{                                                                                                              \
		if (place.set && place.way < IN_FLIGHT_WAYS)                                                           \
			in_flight_release(&place.set->ways, place.way);                                                \
	}                                                                                                              \
                                                                                                                       \
	static __always_inline type_ *name##_find(const void *address)                                                 \
	{                                                                                                              \
		return name##_at(name##_place(address));                                                               \
	}                                                                                                              \
                                                                                                                       \
	/* For what was looked for in vain: a place, with what was left in it; NULL where the set is full. */          \
	static __always_inline type_ *name##_add(const void *address)                                                  \
	{                                                                                                              \
		__u64 number = in_flight_number(address);                                                              \
		__u32 index = name##_index(number);                                                                    \
		struct name##_place place = { .set = bpf_map_lookup_elem(&name, &index), .way = IN_FLIGHT_WAYS };      \
                                                                                                                       \
		if (place.set)                                                                                         \
			place.way = in_flight_claim(&place.set->ways, number);                                         \
		return name##_at(place);                                                                               \
	}                                                                                                              \
                                                                                                                       \
	/* What never ended is found and begins anew. */                                                               \
	static __always_inline type_ *name##_begin(const void *address)                                                \
	{                                                                                                              \
		type_ *known = name##_find(address);                                                                   \
                                                                                                                       \
		return known ? known : name##_add(address);                                                            \
	}

/*
 * The place, in a way that hides from the verifier which one it is: it would follow the rest of the program for each by itself. A number
 * and a copy of it that the compiler knows nothing of differ by nothing.
 */
static __always_inline __u32 in_flight_some(__u32 way, __u64 number)
{
	__u64 nothing = number;

	OPAQUE(nothing);
	asm volatile("%0 ^= %1" : "+r"(nothing) : "r"(number));
	return (way ^ (__u32)nothing) & (IN_FLIGHT_WAYS - 1);
}

static __always_inline __u32 in_flight_find(const struct in_flight_ways *ways, __u64 number)
{
	for (__u32 way = 0; way < IN_FLIGHT_WAYS; way++)
		if (ways->number[way] == number)
			return in_flight_some(way, number);
	return IN_FLIGHT_WAYS;
}

/* Takes a place, if it is free and nobody else wants it just now. */
static __always_inline bool in_flight_take(volatile __u32 *claims, volatile __u64 *place, __u64 number)
{
	/* Given up, but its number not gone yet: on CPUs that order neither the release's writes nor additions. */
	if (*claims || *place)
		return false;
	__sync_fetch_and_add(claims, 1);
	if (*claims == 1) {
		*place = number;
		return true;
	}
	__sync_fetch_and_add(claims, -1);
	return false;
}

/* For what is not there: one address begins on one CPU at a time. */
static __always_inline __u32 in_flight_claim(struct in_flight_ways *ways, __u64 number)
{
	for (__u32 way = 0; way < IN_FLIGHT_WAYS; way++)
		if (in_flight_take(&ways->claims[way], &ways->number[way], number))
			return in_flight_some(way, number);
	return IN_FLIGHT_WAYS;
}

static __always_inline void in_flight_release(struct in_flight_ways *ways, __u32 way)
{
	ways->number[way] = 0;
	__sync_fetch_and_add(&ways->claims[way], -1);
}

#endif
