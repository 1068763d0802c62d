/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What a look at each task, descriptor and socket cannot do without: the kernel's walk, and a call that does nothing. */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define WALK(name)                                                                                                     \
	SEC("iter/" #name)                                                                                             \
	int walk_##name(void *ctx)                                                                                     \
	{                                                                                                              \
		return 0;                                                                                              \
	}

WALK(task)
WALK(task_file)
WALK(tcp)

char LICENSE[] SEC("license") = "Dual BSD/GPL";
