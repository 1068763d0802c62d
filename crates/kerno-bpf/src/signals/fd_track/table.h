/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A process's descriptor table as the kernel keeps it: bitmaps of 64 descriptors a word. */
#ifndef KERNO_FD_TABLE_H
#define KERNO_FD_TABLE_H

#include "files.h"

#define EBADF 9

/* How much of a table is walked: 65,536 descriptors. What lies beyond is counted as untracked. */
#define MAX_WALK_WORDS 1024

struct table {
	const struct files_struct *files;
	const unsigned long *open;
	const unsigned long *close_on_exec;
	__u32 words;
};

static __always_inline bool table_of(struct table *table, const struct task_struct *task)
{
	/* Through locals: a chain from our own struct would be taken for the kernel's. */
	const struct files_struct *files = BPF_CORE_READ(task, files);
	const struct fdtable *fdt;

	if (!files)
		return false;
	fdt = BPF_CORE_READ(files, fdt);
	table->files = files;
	table->open = BPF_CORE_READ(fdt, open_fds);
	table->close_on_exec = BPF_CORE_READ(fdt, close_on_exec);
	table->words = BPF_CORE_READ(fdt, max_fds) / 64;
	return true;
}

static __always_inline __u64 table_word(const unsigned long *bitmap, __u32 index)
{
	__u64 word = 0;

	bpf_probe_read_kernel(&word, sizeof(word), bitmap + index);
	return word;
}

static __always_inline bool table_has(const struct table *table, __u32 fd)
{
	return fd / 64 < table->words && (table_word(table->open, fd / 64) >> (fd % 64) & 1);
}

static __always_inline int table_users(const struct table *table)
{
	const struct files_struct *files = table->files;

	return BPF_CORE_READ(files, count.counter);
}

#endif
