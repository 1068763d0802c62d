/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How latency tools are commonly written: what begins makes an entry in a hash map, what ends looks it up, deletes it and
 * sends a record through a ring buffer. Nothing is filtered.
 */
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

struct task_struct {
	int pid;
	int tgid;
} __attribute__((preserve_access_index));

struct begin {
	__u64 ns;
	__u64 data;
};

struct record {
	__u64 ns;
	__u64 took_ns;
	__u64 data;
	__s64 result;
	__u64 pid_tgid;
	char comm[16];
};

struct open_record {
	struct record head;
	char path[256];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 10240);
	__type(key, __u64);
	__type(value, struct begin);
} begins SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 8 << 20);
} records SEC(".maps");

static __always_inline void begin(__u64 key, __u64 data)
{
	struct begin begin = { .ns = bpf_ktime_get_ns(), .data = data };

	bpf_map_update_elem(&begins, &key, &begin, BPF_ANY);
}

static __always_inline void fill(struct record *record, const struct begin *begin, __s64 result)
{
	record->ns = bpf_ktime_get_ns();
	record->took_ns = record->ns - begin->ns;
	record->data = begin->data;
	record->result = result;
	record->pid_tgid = bpf_get_current_pid_tgid();
	bpf_get_current_comm(record->comm, sizeof(record->comm));
}

static __always_inline void end(__u64 key, __s64 result)
{
	struct begin *begin = bpf_map_lookup_elem(&begins, &key);
	struct record *record;

	if (!begin)
		return;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (record) {
		fill(record, begin, result);
		bpf_ringbuf_submit(record, 0);
	}
	bpf_map_delete_elem(&begins, &key);
}

SEC("tp_btf/sys_enter")
int ring_sys_enter(__u64 *ctx)
{
	begin(bpf_get_current_pid_tgid(), ctx[1]);
	return 0;
}

SEC("tp_btf/sys_exit")
int ring_sys_exit(__u64 *ctx)
{
	end(bpf_get_current_pid_tgid(), ctx[1]);
	return 0;
}

static __always_inline int wakeup(__u64 *ctx)
{
	struct task_struct *task = (void *)ctx[0];

	begin(task->pid, 0);
	return 0;
}

SEC("tp_btf/sched_wakeup")
int ring_sched_wakeup(__u64 *ctx)
{
	return wakeup(ctx);
}

SEC("tp_btf/sched_wakeup_new")
int ring_sched_wakeup_new(__u64 *ctx)
{
	return wakeup(ctx);
}

/* Preempted or not, prev, next. */
SEC("tp_btf/sched_switch")
int ring_sched_switch(__u64 *ctx)
{
	struct task_struct *prev = (void *)ctx[1], *next = (void *)ctx[2];

	if (ctx[0])
		begin(prev->pid, 1);
	if (next->pid)
		end(next->pid, next->tgid);
	return 0;
}

SEC("tp_btf/block_rq_issue")
int ring_block_rq_issue(__u64 *ctx)
{
	begin(ctx[0], bpf_get_current_pid_tgid());
	return 0;
}

SEC("tp_btf/block_rq_complete")
int ring_block_rq_complete(__u64 *ctx)
{
	end(ctx[0], ctx[2]);
	return 0;
}

#define TCP_ESTABLISHED 1
#define TCP_CLOSE 7

/* A connection's life: sk, the state before, the state after. */
SEC("tp_btf/inet_sock_set_state")
int ring_inet_sock_set_state(__u64 *ctx)
{
	int after = ctx[2];

	if (after == TCP_ESTABLISHED)
		begin(ctx[0], bpf_get_current_pid_tgid());
	else if (after == TCP_CLOSE)
		end(ctx[0], 0);
	return 0;
}

struct open_enter {
	__u64 common;
	long nr;
	long dir;
	const char *path;
};

struct open_exit {
	__u64 common;
	long nr;
	long result;
};

SEC("tracepoint/syscalls/sys_enter_openat")
int ring_sys_enter_openat(struct open_enter *ctx)
{
	begin(bpf_get_current_pid_tgid(), (__u64)ctx->path);
	return 0;
}

SEC("tracepoint/syscalls/sys_exit_openat")
int ring_sys_exit_openat(struct open_exit *ctx)
{
	__u64 key = bpf_get_current_pid_tgid();
	struct begin *begin = bpf_map_lookup_elem(&begins, &key);
	struct open_record *record;

	if (!begin)
		return 0;
	record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
	if (record) {
		fill(&record->head, begin, ctx->result);
		bpf_probe_read_user_str(record->path, sizeof(record->path), (const void *)begin->data);
		bpf_ringbuf_submit(record, 0);
	}
	bpf_map_delete_elem(&begins, &key);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
