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

/* How far a walk has come. */
struct walk {
	const struct dentry *dentry, *root_dentry;
	const struct vfsmount *mnt, *root_mnt;
	const struct dentry *top; /* of mnt */
};

/* Where paths are put together: too large for the stack of a program. */
struct path_scratch {
	struct walk walk;
	/* The result, NUL-padded to MAX_FILENAME_LEN; behind that, room for what is cut off. */
	char head[MAX_FILENAME_LEN + MAX_FILENAME_LEN + 32];
	/* Filled from its end, as names are found from the last to the first. */
	char tail[PATH_BYTES + NAME_BYTES + 1];
	__u32 tail_at;
	__u32 pad;
};

/* One for each program: they can interrupt each other where tracepoints are preemptible. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, struct path_scratch);
} scratch SEC(".maps");

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

#define WALK_ON (-1)

/*
 * One step of the walk: a name is prepended, with a slash before it, or a mount is crossed; WALK_ON, or how the walk ends. Not static:
 * the verifier looks at such a function once, and not in each turn of the loop that calls it (626,000 instructions on 6.1).
 */
__attribute__((noinline)) int walk_step(__u32 program)
{
	struct path_scratch *s = bpf_map_lookup_elem(&scratch, &program);
	const struct mount *mount, *above;
	const struct vfsmount *mnt;
	struct step step;
	struct walk *at;

	if (!s)
		return WALK_CUT;
	at = &s->walk;
	if (at->dentry == at->root_dentry && at->mnt == at->root_mnt)
		return WALK_WHOLE;
	if (at->dentry == at->top) {
		mount = real_mount(at->mnt);
		above = BPF_CORE_READ(mount, mnt_parent);
		if (!above || above == mount)
			return WALK_WHOLE;
		at->dentry = BPF_CORE_READ(mount, mnt_mountpoint);
		mnt = (const void *)above + bpf_core_field_offset(struct mount, mnt);
		at->mnt = mnt;
		at->top = BPF_CORE_READ(mnt, mnt_root);
		return WALK_ON;
	}
	read_step(&step, at->dentry);
	if (!step.parent || step.parent == at->dentry)
		return WALK_DETACHED;
	if (!prepend_name(s, &step))
		return WALK_CUT;
	at->dentry = step.parent;
	return WALK_ON;
}

/* Prepends the names from the dentry up to the root, exclusive, each with a slash before it. */
static __always_inline enum walk_end walk_up(struct path_scratch *s, __u32 program, const struct path *from, const struct path *root)
{
	int end;

	s->walk.dentry = from->dentry;
	s->walk.mnt = from->mnt;
	s->walk.root_dentry = root->dentry;
	s->walk.root_mnt = root->mnt;
	s->walk.top = BPF_CORE_READ(from->mnt, mnt_root);
	for (int i = 0; i < MAX_STEPS; i++) {
		end = walk_step(program);
		if (end != WALK_ON)
			return end;
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
