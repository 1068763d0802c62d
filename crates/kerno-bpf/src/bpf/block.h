/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The summary plane's own memory: an array with one element a CPU, mapped into the reader, who takes it without a system call
 * and without stopping anyone. A plain array rather than a per-CPU one: the JIT inlines the look-up on every kernel, and only
 * this kind can be mapped.
 */
#ifndef KERNO_BLOCK_H
#define KERNO_BLOCK_H

#include "kernel.h"

/* type must be a multiple of 64 bytes, so that two CPUs never share a cache line. The loader sets the number of CPUs. */
#define PER_CPU_BLOCK(name, type_)                                                                                     \
	_Static_assert(sizeof(type_) % 64 == 0, #type_ " shares a cache line");                                        \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_ARRAY);                                                                      \
		__uint(map_flags, BPF_F_MMAPABLE);                                                                     \
		__uint(max_entries, 1);                                                                                \
		__type(key, __u32);                                                                                    \
		__type(value, type_);                                                                                  \
	} name SEC(".maps")

/* This CPU's element, or NULL. */
#define this_cpu_block(map)                                                                                            \
	({                                                                                                             \
		__u32 __cpu = bpf_get_smp_processor_id();                                                              \
		bpf_map_lookup_elem(map, &__cpu);                                                                      \
	})

#endif
