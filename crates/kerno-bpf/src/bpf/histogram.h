/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Log-linear buckets over all of u64: 16 of equal width in each power of two, so that a bucket's ends differ by at most
 * 1/16 (6.25 %) of its lower one; values below 16 have a bucket each. The Rust side of the same arithmetic is
 * summary/histogram.rs; a test runs both over the whole range.
 */
#ifndef KERNO_HISTOGRAM_H
#define KERNO_HISTOGRAM_H

#include "kernel.h"

#define HISTOGRAM_SUB_BITS 4
#define HISTOGRAM_SUB (1 << HISTOGRAM_SUB_BITS)
#define HISTOGRAM_BUCKETS ((64 - HISTOGRAM_SUB_BITS + 1) * HISTOGRAM_SUB) /* 976 */

#define BYTES_2(bit) bit, bit
#define BYTES_4(bit) BYTES_2(bit), BYTES_2(bit)
#define BYTES_8(bit) BYTES_4(bit), BYTES_4(bit)
#define BYTES_16(bit) BYTES_8(bit), BYTES_8(bit)
#define BYTES_32(bit) BYTES_16(bit), BYTES_16(bit)
#define BYTES_64(bit) BYTES_32(bit), BYTES_32(bit)
#define BYTES_128(bit) BYTES_64(bit), BYTES_64(bit)

/* Of a byte. Volatile keeps the compiler from making comparisons of it. */
static const volatile __u8 highest_bits[256] = {
	0, 0, BYTES_2(1), BYTES_4(2), BYTES_8(3), BYTES_16(4), BYTES_32(5), BYTES_64(6), BYTES_128(7),
};

/*
 * Position of the highest bit set; v must not be 0. The instruction set before version 4 has no count of leading zeroes. Two
 * comparisons for what takes less than 66 us, which most things do.
 */
static __always_inline __u32 highest_bit(__u64 v)
{
	__u32 bit = 0;

	if (v >> 16) {
		if (v >> 32) {
			v >>= 32;
			bit = 32;
		}
		if (v >> 16) {
			v >>= 16;
			bit += 16;
		}
	}
	if (v >> 8) {
		v >>= 8;
		bit += 8;
	}
	return bit + highest_bits[v & 0xff];
}

static __always_inline __u32 histogram_bucket(__u64 v)
{
	__u32 shift;

	if (v < HISTOGRAM_SUB)
		return v;
	shift = highest_bit(v) - HISTOGRAM_SUB_BITS;
	return (shift << HISTOGRAM_SUB_BITS) + (__u32)(v >> shift);
}

/* 32 bits wrap after 4 billion values in one bucket between two reads; readers take differences modulo 2^32. */
struct histogram {
	__u32 counts[HISTOGRAM_BUCKETS];
};

/*
 * The caller's histogram is its CPU's own and the hook cannot be interrupted by itself there: a plain increment. The bound is
 * for the verifier, which does not know what highest_bit gives.
 */
static __always_inline void histogram_add(struct histogram *histogram, __u64 v)
{
	__u32 bucket = histogram_bucket(v);

	if (bucket < HISTOGRAM_BUCKETS)
		histogram->counts[bucket]++;
}

/* For a histogram that several CPUs, or a hook and an interrupt on top of it, add to. */
static __always_inline void histogram_add_atomic(struct histogram *histogram, __u64 v)
{
	__u32 bucket = histogram_bucket(v);

	if (bucket < HISTOGRAM_BUCKETS)
		__sync_fetch_and_add(&histogram->counts[bucket], 1);
}

#endif
