/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The cgroup that a task's memory is charged to: on hosts with v1 controllers another one than its v2 cgroup. */
#ifndef KERNO_MEMORY_CGROUP_H
#define KERNO_MEMORY_CGROUP_H

#include "kernel.h"

/* Which controllers there are depends on the kernel's configuration: the number comes from BTF. */
enum cgroup_subsys_id {
	memory_cgrp_id = 4,
};

struct css_set___memory {
	struct cgroup_subsys_state *subsys[1];
} CORE;

/* NULL where the kernel has no memory controller. */
static __always_inline const struct cgroup_subsys_state *memory_css(const struct task_struct *task)
{
	const struct css_set___memory *set = (const void *)BPF_CORE_READ(task, cgroups);
	const struct cgroup_subsys_state *css = NULL;

	if (!set || !bpf_core_enum_value_exists(enum cgroup_subsys_id, memory_cgrp_id))
		return NULL;
	/* The index is the running kernel's, so the address is made by hand from that of the first element. */
	bpf_probe_read_kernel(&css, sizeof(css),
			      (const char *)&set->subsys[0] +
				      bpf_core_enum_value(enum cgroup_subsys_id, memory_cgrp_id) * sizeof(css));
	return css;
}

/* The inode number of its directory in the hierarchy that has the memory controller; 0 where there is none. */
static __always_inline __u64 memory_cgroup_id(const struct task_struct *task)
{
	const struct cgroup_subsys_state *css = memory_css(task);

	return css ? BPF_CORE_READ(css, cgroup, kn, id) : 0;
}

#endif
