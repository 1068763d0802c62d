/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A process's descriptors and the files behind them. */
#ifndef KERNO_FILES_H
#define KERNO_FILES_H

#include "kernel.h"

struct dentry;
struct vfsmount;

struct super_block {
	unsigned long s_magic;
} CORE;

struct inode {
	unsigned short i_mode;
	struct super_block *i_sb;
} CORE;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
} CORE;

struct file {
	unsigned int f_mode;
	struct inode *f_inode;
	struct path f_path; /* in an anonymous union since 6.16 */
	void *private_data; /* of a socket's file: its struct socket */
} CORE;

struct fdtable {
	unsigned int max_fds; /* a multiple of 64 */
	struct file **fd;
	unsigned long *close_on_exec;
	unsigned long *open_fds;
} CORE;

struct files_struct {
	atomic_t count; /* tasks that share it */
	struct fdtable *fdt;
	unsigned int next_fd; /* every lower descriptor is taken */
} CORE;

/* The file behind a task's descriptor, NULL when there is none. */
static __always_inline const struct file *file_of(const struct task_struct *task, __s32 fd)
{
	const struct fdtable *fdt = BPF_CORE_READ(task, files, fdt);
	const struct file *file = NULL;

	if (fd < 0 || (__u32)fd >= BPF_CORE_READ(fdt, max_fds))
		return NULL;
	bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(fdt, fd) + fd);
	return file;
}

#endif
