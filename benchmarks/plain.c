/*
 * The measure of the benchmarks: the least that a FUSE file system of this shape can be, in C.
 *
 *     plain MOUNTPOINT COUNT [numeric]
 *
 * serves /sys/devices/system/memory of COUNT memory blocks: the names, kinds, modes, sizes and times that ours shows
 * there, with constant contents; in the foreground, one thread, with the same caching as ours (names and attributes
 * for ever, contents never) and sysfs's answers to getxattr. A write is taken and thrown away. The blocks are listed
 * in the order of kernfs, by hash of the name, which is what ls and find have to sort; "numeric": by number.
 * Inode numbers: 1 the root, 2 block_size_bytes, n * 32 the directory of block n - 1, n * 32 + 1 ... what is in it.
 */
#define FUSE_USE_VERSION 312
#define _GNU_SOURCE
#include <errno.h>
#include <fuse_lowlevel.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const double FOREVER = 1e6;

/* A directory's text is NULL, a link's is its target. */
struct entry {
	const char *name;
	mode_t mode;
	const char *text;
};
static const struct entry BLOCK[] = {
	{ "uevent", S_IFREG | 0644, "" },
	{ "node1", S_IFLNK | 0777, "../../node/node1" },
	{ "power", S_IFDIR | 0755, NULL },
	{ "online", S_IFREG | 0644, "1\n" },
	{ "phys_device", S_IFREG | 0444, "0\n" },
	{ "phys_index", S_IFREG | 0444, "00000000\n" },
	{ "valid_zones", S_IFREG | 0444, "Movable\n" },
	{ "subsystem", S_IFLNK | 0777, "../../../../bus/memory" },
	{ "state", S_IFREG | 0644, "online\n" },
	{ "removable", S_IFREG | 0444, "1\n" },
};
static const struct entry POWER[] = {
	{ "runtime_active_time", S_IFREG | 0444, "0\n" },
	{ "runtime_active_kids", S_IFREG | 0444, "0\n" },
	{ "runtime_usage", S_IFREG | 0444, "0\n" },
	{ "runtime_status", S_IFREG | 0444, "unsupported\n" },
	{ "autosuspend_delay_ms", S_IFREG | 0644, "" },
	{ "async", S_IFREG | 0644, "disabled\n" },
	{ "runtime_suspended_time", S_IFREG | 0444, "0\n" },
	{ "runtime_enabled", S_IFREG | 0444, "disabled\n" },
	{ "control", S_IFREG | 0644, "auto\n" },
};
static const struct entry SIZE = { "block_size_bytes", S_IFREG | 0444, "8000000\n" };
enum {
	IN_BLOCK = sizeof(BLOCK) / sizeof(*BLOCK),
	IN_POWER = sizeof(POWER) / sizeof(*POWER),
	STRIDE = 32,
	FIRST_IN_POWER = IN_BLOCK + 1,
	BLOCK_SIZE_BYTES = 2,
};
static unsigned long count;
/* The numbers of the blocks as they are listed, worked out once. */
static unsigned long *order;
static struct timespec born;
static uid_t uid;
static gid_t gid;

/* What an inode number stands for; NULL for a directory of the top level's, and for the root. */
static const struct entry *entry_of(fuse_ino_t ino)
{
	unsigned int place = ino % STRIDE;

	if (ino == BLOCK_SIZE_BYTES)
		return &SIZE;
	if (ino == FUSE_ROOT_ID || !place)
		return NULL;
	return place < FIRST_IN_POWER ? &BLOCK[place - 1] : &POWER[place - FIRST_IN_POWER];
}

static int describe(fuse_ino_t ino, struct stat *st)
{
	const struct entry *entry = entry_of(ino);

	memset(st, 0, sizeof(*st));
	if (ino >= STRIDE * (count + 1))
		return ENOENT;
	st->st_ino = ino;
	st->st_uid = uid;
	st->st_gid = gid;
	st->st_atim = st->st_mtim = st->st_ctim = born;
	st->st_mode = entry ? entry->mode : S_IFDIR | 0755;
	st->st_nlink = S_ISDIR(st->st_mode) ? 2 : 1;
	if (ino == FUSE_ROOT_ID)
		st->st_nlink += count;
	else if (!entry)
		st->st_nlink++;
	if (S_ISREG(st->st_mode))
		st->st_size = 4096;
	return 0;
}

/* The entries of a directory other than the root, and the inode number of the first. */
static const struct entry *entries_of(fuse_ino_t ino, unsigned long *number, fuse_ino_t *first)
{
	if (ino % STRIDE) {
		*number = IN_POWER;
		*first = ino - ino % STRIDE + FIRST_IN_POWER;
		return POWER;
	}
	*number = IN_BLOCK;
	*first = ino + 1;
	return BLOCK;
}

/* kernfs's hash of "memory" and a number, but for the three values that it does not use. */
static uint32_t hash_of(unsigned long number)
{
	char name[32];
	uint64_t state = 0;

	snprintf(name, sizeof(name), "memory%lu", number);
	for (const char *c = name; *c; c++)
		state = (state + (*c << 4) + (*c >> 4)) * 11;
	return (state * UINT64_C(0x61C8864680B583EB) >> 32) & 0x7fffffff;
}

struct hashed {
	uint32_t hash;
	unsigned long number;
};

static int compare(const void *a, const void *b)
{
	const struct hashed *one = a, *other = b;

	return (one->hash > other->hash) - (one->hash < other->hash);
}

/* Returns whether there was memory for it. */
static bool make_order(bool numeric)
{
	struct hashed *all = malloc(count * sizeof(*all));

	order = malloc(count * sizeof(*order));
	if (!all || !order)
		return false;
	for (unsigned long n = 0; n < count; n++)
		all[n] = (struct hashed){ .hash = numeric ? n : hash_of(n), .number = n };
	qsort(all, count, sizeof(*all), compare);
	for (unsigned long n = 0; n < count; n++)
		order[n] = all[n].number;
	free(all);
	return true;
}

static void plain_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param answer = { .attr_timeout = FOREVER, .entry_timeout = FOREVER };
	const struct entry *entries;
	unsigned long n, number;
	fuse_ino_t first;
	char end;

	if (parent == FUSE_ROOT_ID) {
		if (sscanf(name, "memory%lu%c", &n, &end) == 1 && n < count)
			answer.ino = STRIDE * (n + 1);
		else if (!strcmp(name, SIZE.name))
			answer.ino = BLOCK_SIZE_BYTES;
	} else {
		entries = entries_of(parent, &number, &first);
		for (n = 0; n < number; n++)
			if (!strcmp(name, entries[n].name))
				answer.ino = first + n;
	}
	if (answer.ino)
		describe(answer.ino, &answer.attr);
	fuse_reply_entry(req, &answer);
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

static void plain_readlink(fuse_req_t req, fuse_ino_t ino)
{
	fuse_reply_readlink(req, entry_of(ino)->text);
}

static void plain_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	(void)ino;
	fi->direct_io = 1;
	fuse_reply_open(req, fi);
}

static void plain_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
	const char *content = entry_of(ino)->text;
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
	unsigned long end = count + 1;
	const struct entry *entries = NULL;
	fuse_ino_t first = 0;

	(void)fi;
	if (ino != FUSE_ROOT_ID)
		entries = entries_of(ino, &end, &first);
	for (unsigned long n = offset; buffer && n < end; n++) {
		struct fuse_entry_param answer = { .attr_timeout = FOREVER, .entry_timeout = FOREVER };
		char number[32];
		const char *name = number;
		size_t more;

		if (entries) {
			name = entries[n].name;
			answer.ino = first + n;
		} else if (n == count) {
			name = SIZE.name;
			answer.ino = BLOCK_SIZE_BYTES;
		} else {
			snprintf(number, sizeof(number), "memory%lu", order[n]);
			answer.ino = STRIDE * (order[n] + 1);
		}
		describe(answer.ino, &answer.attr);
		more = fuse_add_direntry_plus(req, buffer + used, size - used, name, &answer, n + 1);
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
	.readlink = plain_readlink,
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
	bool numeric;
	int error;

	numeric = argc == 4 && !strcmp(argv[3], "numeric");
	if (argc != 3 + numeric || !(count = strtoul(argv[2], NULL, 10))) {
		fprintf(stderr, "usage: plain MOUNTPOINT COUNT [numeric]\n");
		return 2;
	}
	if (!make_order(numeric))
		return 1;
	clock_gettime(CLOCK_REALTIME, &born);
	uid = getuid();
	gid = getgid();
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
