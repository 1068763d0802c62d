/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From a dentry and a mount to the path a process knows them by: what d_path() in fs/d_path.c does, without its locks. A
 * rename or an unmount at the very moment of the walk can mix old and new names; it cannot lead outside readable memory.
 */
#ifndef KERNO_FILE_AUDIT_PATH_H
#define KERNO_FILE_AUDIT_PATH_H

#include "event.h"
#include "files.h"

/* Both are limits of the kernel itself, for one name and (with its NUL) for a whole path. */
#define NAME_BYTES 255
#define PATH_BYTES 4096

/* Names and mount points on the way from a file to the root. Deeper files lose their first names; see WALK_CUT. */
#define MAX_STEPS 96

#define TMPFS_MAGIC 0x01021994
#define HUGETLBFS_MAGIC 0x958458f6

struct qstr {
	__u32 len; /* in an anonymous union */
	const unsigned char *name;
} CORE;

struct hlist_bl_node {
	struct hlist_bl_node **pprev;
} CORE;

struct dentry_operations {
	char *(*d_dname)(struct dentry *, char *, int);
} CORE;

struct dentry {
	struct hlist_bl_node d_hash;
	struct dentry *d_parent;
	struct qstr d_name; /* in an anonymous union since 6.16 */
	const struct dentry_operations *d_op;
	struct super_block *d_sb;
} CORE;

struct vfsmount {
	struct dentry *mnt_root;
} CORE;

struct mount {
	struct mount *mnt_parent;
	struct dentry *mnt_mountpoint;
	struct vfsmount mnt;
} CORE;

enum walk_end {
	WALK_WHOLE, /* reached the root of the process, or of its mount namespace when the file is outside */
	WALK_CUT, /* too deep, or longer than any path: only its last part is known */
	WALK_DETACHED, /* the dentry hangs on nothing: opened by a handle, before its folders were looked up */
};

/* Where paths are put together: too large for the stack of a program. */
struct path_scratch {
	/* The result, NUL-padded to MAX_FILENAME_LEN; behind that, room for what is cut off. */
	char head[MAX_FILENAME_LEN + MAX_FILENAME_LEN + 32];
	/* Filled from its end, as names are found from the last to the first. */
	char tail[PATH_BYTES + NAME_BYTES + 1];
	__u32 tail_at;
	__u32 pad;
};

static __always_inline bool prepend(struct path_scratch *s, const void *text, __u32 len, bool slash)
{
	__u32 at = s->tail_at;

	if (len > NAME_BYTES || at > PATH_BYTES || at < len + slash)
		return false;
	at -= len;
	OPAQUE(at);
	OPAQUE(len);
	bpf_probe_read_kernel(s->tail + (at & (PATH_BYTES - 1)), len & NAME_BYTES, text);
	if (slash) {
		at--;
		OPAQUE(at);
		s->tail[at & (PATH_BYTES - 1)] = '/';
	}
	s->tail_at = at;
	return true;
}

/* What a step of the walk needs of a dentry. */
struct step {
	const struct dentry *parent;
	const unsigned char *name;
	__u32 len;
};

#define DENTRY_BLOCK 40

/* The fields lie side by side unless the kernel's layout is randomised: one read in place of three. */
static __always_inline void read_step(struct step *step, const struct dentry *dentry)
{
	const __u32 parent = bpf_core_field_offset(struct dentry, d_parent);
	const __u32 name = bpf_core_field_offset(struct dentry, d_name.name) - parent;
	const __u32 len = bpf_core_field_offset(struct dentry, d_name.len) - parent;
	char block[DENTRY_BLOCK] __attribute__((aligned(8)));

	if (name <= DENTRY_BLOCK - 8 && len <= DENTRY_BLOCK - 4) {
		bpf_probe_read_kernel(block, sizeof(block), (const void *)dentry + parent);
		step->parent = *(const struct dentry **)block;
		step->name = *(const unsigned char **)(block + name);
		step->len = *(__u32 *)(block + len);
	} else {
		step->parent = BPF_CORE_READ(dentry, d_parent);
		step->name = BPF_CORE_READ(dentry, d_name.name);
		step->len = BPF_CORE_READ(dentry, d_name.len);
	}
}

static __always_inline bool prepend_name(struct path_scratch *s, const struct step *step)
{
	return prepend(s, step->name, step->len, true);
}

static __always_inline const struct mount *real_mount(const struct vfsmount *mnt)
{
	return (const void *)mnt - bpf_core_field_offset(struct mount, mnt);
}

/* Prepends the names from the dentry up to the root, exclusive, each with a slash before it. */
static __always_inline enum walk_end walk_up(struct path_scratch *s, const struct path *from, const struct path *root)
{
	const struct dentry *dentry = from->dentry, *root_dentry = root->dentry, *top;
	const struct vfsmount *mnt = from->mnt, *root_mnt = root->mnt;
	const struct mount *mount, *above;
	struct step step;

	top = BPF_CORE_READ(mnt, mnt_root);
	for (int i = 0; i < MAX_STEPS; i++) {
		if (dentry == root_dentry && mnt == root_mnt)
			return WALK_WHOLE;
		if (dentry == top) {
			mount = real_mount(mnt);
			above = BPF_CORE_READ(mount, mnt_parent);
			if (!above || above == mount)
				return WALK_WHOLE;
			dentry = BPF_CORE_READ(mount, mnt_mountpoint);
			mnt = (const void *)above + bpf_core_field_offset(struct mount, mnt);
			top = BPF_CORE_READ(mnt, mnt_root);
			continue;
		}
		read_step(&step, dentry);
		if (!step.parent || step.parent == dentry)
			return WALK_DETACHED;
		if (!prepend_name(s, &step))
			return WALK_CUT;
		dentry = step.parent;
	}
	return WALK_CUT;
}

/* True for what has a made-up name: pipes, memfds, namespace files. The root of a mount never has one. */
static __always_inline bool is_pseudo(const struct path *path)
{
	const struct dentry *dentry = path->dentry;

	return BPF_CORE_READ(dentry, d_op, d_dname) && dentry != BPF_CORE_READ(path->mnt, mnt_root);
}

/* The made-up name can be told: memfds, shared memory and huge pages, shown as /NAME (deleted). */
static __always_inline bool is_shmem(const struct dentry *dentry)
{
	unsigned long magic = BPF_CORE_READ(dentry, d_sb, s_magic);

	return magic == TMPFS_MAGIC || magic == HUGETLBFS_MAGIC;
}

static __always_inline bool is_deleted(const struct dentry *dentry)
{
	return !BPF_CORE_READ(dentry, d_hash.pprev) && BPF_CORE_READ(dentry, d_parent) != dentry;
}

#endif
