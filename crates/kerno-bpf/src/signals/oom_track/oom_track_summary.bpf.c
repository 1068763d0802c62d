/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * oom_track, summary plane: the kills of a window, with the cgroup whose memory each victim used.
 *
 * hooks   as oom_track.bpf.c
 * key     when, and the victim's process id; the reader takes entries out
 * cost    nothing until memory runs short; then one array store for each reclaim, and some 60 reads a kill
 * not     more than MAX_KILLS between two readings: those are only counted
 */
#include "kernel.h"
#include "block.h"
#include "counters.h"
#include "kill.h"
#include "memory_cgroup.h"

#define MAX_KILLS 128
#define MAX_LEVELS 6
#define MAX_NAME 96 /* a container's scope: cri-containerd-, 64 digits, .scope */

struct kill_key {
	__u64 timestamp_ns;
	__u32 pid;
	__u32 pad0;
};

/* A cgroup is often removed right after its process is killed, so its name is taken here: innermost first. */
struct kill {
	struct oom_event event;
	__u64 memory_cgroup_id;
	char names[MAX_LEVELS][MAX_NAME];
};
_Static_assert(sizeof(struct kill) == 712, "struct kill changed size");
const volatile struct kill *const volatile layout_of_kill SEC(".rodata") = NULL;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_KILLS);
	__type(key, struct kill_key);
	__type(value, struct kill);
} kills SEC(".maps");

struct kill_totals {
	__u64 kills;
	__u64 pad0[7];
};
PER_CPU_BLOCK(totals, struct kill_totals);
const volatile struct kill_totals *const volatile layout_of_totals SEC(".rodata") = NULL;

/* Too large for the stack. The kernel's oom_lock lets one kill happen at a time. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kill);
} scratch SEC(".maps");

struct kernfs_node___name {
	const char *name;
} CORE;

static __always_inline struct oom_event *kill_reserve(void)
{
	__u32 zero = 0;
	struct kill *kill = bpf_map_lookup_elem(&scratch, &zero);

	if (!kill)
		return NULL;
	__builtin_memset(kill, 0, sizeof(*kill));
	return &kill->event;
}

static __always_inline void read_cgroup(struct kill *kill, const struct task_struct *victim)
{
	const struct cgroup_subsys_state *css = memory_css(victim);
	const struct cgroup *cgroup = css ? BPF_CORE_READ(css, cgroup) : NULL;

	if (cgroup)
		kill->memory_cgroup_id = BPF_CORE_READ(cgroup, kn, id);
	for (int level = 0; level < MAX_LEVELS && cgroup; level++) {
		const struct kernfs_node___name *node = (const void *)BPF_CORE_READ(cgroup, kn);

		/* The root's is empty. */
		bpf_probe_read_kernel_str(kill->names[level], MAX_NAME, BPF_CORE_READ(node, name));
		css = BPF_CORE_READ(cgroup, self.parent);
		cgroup = css ? BPF_CORE_READ(css, cgroup) : NULL;
	}
}

static __always_inline void kill_submit(struct oom_event *event, const struct task_struct *victim)
{
	struct kill_key key = { .timestamp_ns = event->timestamp_ns, .pid = event->pid };
	struct kill *kill = (struct kill *)event;
	struct kill_totals *sum = this_cpu_block(&totals);

	if (victim)
		read_cgroup(kill, victim);
	if (bpf_map_update_elem(&kills, &key, kill, BPF_ANY))
		count_overflow();
	/* Last: whoever sees the count finds the kill. */
	if (sum)
		__sync_fetch_and_add(&sum->kills, 1);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
