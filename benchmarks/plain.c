/*
 * The measure of the benchmarks: the least that a FUSE file system of this shape can be, in C.
 *
 *     plain MOUNTPOINT COUNT
 *
 * serves what lsmem reads of COUNT memory blocks: directories memory0, memory1, ... with the files of FILES each, and
 * beside them block_size_bytes; in the foreground, one thread, with the same caching as ours (names and attributes for
 * ever, contents never) and sysfs's answers to getxattr. A write is taken and thrown away.
 * Inode numbers: 1 the root, 2 block_size_bytes, n * 8 the directory n - 1, n * 8 + 1 ... its files.
 */
#define FUSE_USE_VERSION 312
#define _GNU_SOURCE
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const double FOREVER = 1e6;
static const struct {
	const char *name, *text;
} FILES[] = {
	{ "state", "online\n" },
	{ "removable", "1\n" },
	{ "valid_zones", "Movable\n" },
	{ "phys_device", "0\n" },
};
enum { FILE_COUNT = sizeof(FILES) / sizeof(*FILES), BLOCK_SIZE_BYTES = 2 };
static unsigned long count;

static int describe(fuse_ino_t ino, struct stat *st)
{
	memset(st, 0, sizeof(*st));
	if (ino >= 8 * (count + 1))
		return ENOENT;
	st->st_ino = ino;
	st->st_nlink = 1;
	if (ino % 8 == 0 || ino == FUSE_ROOT_ID) {
		st->st_mode = S_IFDIR | 0755;
	} else {
		st->st_mode = S_IFREG | 0644;
		st->st_size = 4096;
	}
	return 0;
}

static const char *text(fuse_ino_t ino)
{
	return ino == BLOCK_SIZE_BYTES ? "8000000\n" : FILES[ino % 8 - 1].text;
}

static void plain_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param entry = { .attr_timeout = FOREVER, .entry_timeout = FOREVER };
	unsigned long n;
	char end;

	if (parent == FUSE_ROOT_ID && sscanf(name, "memory%lu%c", &n, &end) == 1 && n < count)
		entry.ino = 8 * (n + 1);
	else if (parent == FUSE_ROOT_ID && !strcmp(name, "block_size_bytes"))
		entry.ino = BLOCK_SIZE_BYTES;
	else if (parent != FUSE_ROOT_ID)
		for (n = 0; n < FILE_COUNT; n++)
			if (!strcmp(name, FILES[n].name))
				entry.ino = parent + 1 + n;
	if (entry.ino)
		describe(entry.ino, &entry.attr);
	fuse_reply_entry(req, &entry);
}

static void plain_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st;
	int error = describe(ino, &st);

	(void)fi;
	if (error)
		fuse_reply_err(req, error);
	else
		fuse_reply_attr(req, &st, FOREVER);
}

static void plain_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int set, struct fuse_file_info *fi)
{
	(void)attr;
	(void)set;
	plain_getattr(req, ino, fi);
}

static void plain_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static void plain_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	const char *content = text(ino);
	size_t length = strlen(content);

	(void)fi;
	if ((size_t)offset >= length)
		fuse_reply_buf(req, NULL, 0);
	else
		fuse_reply_buf(req, content + offset, length - offset < size ? length - offset : size);
}

static void plain_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t offset,
			struct fuse_file_info *fi)
{
	(void)ino;
	(void)data;
	(void)offset;
	(void)fi;
	fuse_reply_write(req, size);
}

static void plain_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	char *buffer = malloc(size);
	size_t used = 0;
	unsigned long end = ino == FUSE_ROOT_ID ? count : FILE_COUNT;

	(void)fi;
	for (unsigned long n = offset; buffer && n < end; n++) {
		struct fuse_entry_param entry = { .attr_timeout = FOREVER, .entry_timeout = FOREVER };
		char name[32];
		size_t more;

		if (ino == FUSE_ROOT_ID) {
			snprintf(name, sizeof(name), "memory%lu", n);
			entry.ino = 8 * (n + 1);
		} else {
			strcpy(name, FILES[n].name);
			entry.ino = ino + 1 + n;
		}
		describe(entry.ino, &entry.attr);
		more = fuse_add_direntry_plus(req, buffer + used, size - used, name, &entry, n + 1);
		if (more > size - used)
			break;
		used += more;
	}
	fuse_reply_buf(req, buffer, used);
	free(buffer);
}

static void plain_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	(void)ino;
	(void)size;
	fuse_reply_err(req, strncmp(name, "security.", 9) ? EOPNOTSUPP : ENODATA);
}

static const struct fuse_lowlevel_ops operations = {
	.lookup = plain_lookup,
	.getattr = plain_getattr,
	.setattr = plain_setattr,
	.open = plain_open,
	.read = plain_read,
	.write = plain_write,
	.readdirplus = plain_readdirplus,
	.getxattr = plain_getxattr,
};

int main(int argc, char **argv)
{
	char *options[] = { argv[0], "-o", "fsname=plain,default_permissions", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(3, options);
	struct fuse_session *session;
	int error;

	if (argc != 3 || !(count = strtoul(argv[2], NULL, 10))) {
		fprintf(stderr, "usage: plain MOUNTPOINT COUNT\n");
		return 2;
	}
	session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	if (!session || fuse_set_signal_handlers(session) || fuse_session_mount(session, argv[1]))
		return 1;
	puts("ready");
	fflush(stdout);
	error = fuse_session_loop(session);
	fuse_session_unmount(session);
	fuse_session_destroy(session);
	return error ? 1 : 0;
}
