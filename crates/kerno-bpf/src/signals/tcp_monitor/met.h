/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which sockets the reader's walk has met. The walk over very many sockets is done in parts, with the samples of a window. What a
 * connection sends after it was met belongs to the next window, and so does its end: else it would be in the window twice, as
 * one that is open and as one that has ended.
 */
#ifndef KERNO_TCP_MET_H
#define KERNO_TCP_MET_H

#include "kernel.h"
#include "in_flight.h"
#include "sock.h"

#define MET_BITS 14 /* 16,384 sets of eight: twice as many places as sockets that are looked at */
#define MET_WAYS 8
#define MET_WALK 0x7fff

/* Twice the number of the window, and one more while its walk is under way. Set by the reader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} walk SEC(".maps");

/* After so many sockets the walk rests, at the next bucket. Set by the reader. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} walk_left SEC(".maps");

/* Of the socket that was met last. */
static volatile __u32 walk_hash;

/* A place holds the number of an address and, in its lower bits, that of a walk. Places of earlier walks are free. */
struct met_set {
	__u64 places[MET_WAYS];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1 << MET_BITS);
	__type(key, __u32);
	__type(value, struct met_set);
} met SEC(".maps");

static __always_inline __u32 walk_state(void)
{
	__u32 zero = 0, *state = bpf_map_lookup_elem(&walk, &zero);

	return state ? *state : 0;
}

/* Never 0. Addresses differ by less than 2^48. */
static __always_inline __u64 met_mark(__u64 number, __u32 window)
{
	return number << 16 | (window & MET_WALK) | (MET_WALK + 1);
}

static __always_inline __u32 met_index(__u64 number)
{
	return number * IN_FLIGHT_MIX >> (64 - MET_BITS);
}

/* Without a branch for each place: the verifier would follow the rest of the program for each by itself. */
static __always_inline bool met_in(const struct met_set *set, __u64 mark)
{
	__u64 found = 0;

	for (int way = 0; set && way < MET_WAYS; way++) {
		__u64 differs = set->places[way] ^ mark;

		found |= ~differs & (differs - 1);
	}
	return found >> 63;
}

static __always_inline bool was_met(const void *sk, __u32 window)
{
	__u64 number = in_flight_number(sk), mark = met_mark(number, window);
	__u32 index = met_index(number), other = index ^ 1;

	return met_in(bpf_map_lookup_elem(&met, &index), mark) || met_in(bpf_map_lookup_elem(&met, &other), mark);
}

static __always_inline bool meet_in(struct met_set *set, __u64 mark)
{
	for (int way = 0; set && way < MET_WAYS; way++) {
		__u64 place = set->places[way];

		/* Free, as far as this walk is concerned, or met before. Nobody else writes. */
		if (place == mark || (__u16)place != (__u16)mark) {
			set->places[way] = mark;
			return true;
		}
	}
	return false;
}

/* False: there is no room. */
static __always_inline bool meet(const void *sk)
{
	__u64 number = in_flight_number(sk), mark = met_mark(number, walk_state() >> 1);
	__u32 index = met_index(number), other = index ^ 1;

	return meet_in(bpf_map_lookup_elem(&met, &index), mark) || meet_in(bpf_map_lookup_elem(&met, &other), mark);
}

/* The window that goes on. */
static __always_inline __u32 window_now(void)
{
	return walk_state() >> 1;
}

/* The window that the end of this socket belongs to. */
static __always_inline __u32 window_of(const void *sk)
{
	__u32 state = walk_state(), window = state >> 1;

	return window + (state & 1 && was_met(sk, window));
}

/*
 * Whether the walk rests before this socket. Only at the first one of a bucket: a walk that goes on within a bucket passes by a socket
 * when one before it has gone (until 6.17). Sockets of one bucket have the lower bits of their hashes in common.
 */
static __always_inline bool walk_rests(const struct sock_common *common)
{
	__u32 zero = 0, *left = bpf_map_lookup_elem(&walk_left, &zero), hash = common->skc_hash;

	if (!left)
		return false;
	if (!*left && (hash ^ walk_hash) & 0xf)
		return true;
	walk_hash = hash;
	if (*left)
		--*left;
	return false;
}

#endif
