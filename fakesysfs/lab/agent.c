/*
 * The agent: the init of a guest of the lab. It does system calls on request.
 *
 * It knows no file and no meaning. A request is a batch of system calls, whose arguments are
 * numbers, buffers, or the results of earlier calls of the batch; fakesysfs/lab/agent.py writes
 * requests and reads answers, and has the format. A batch runs in this process, or in children
 * that run at the same time.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum kind { KIND_RUN = 1, KIND_FORK = 2 };
enum argument {
	ARG_NUMBER,
	ARG_IN,
	ARG_OUT,
	ARG_OUT_ALL,
	ARG_RESULT,
	ARG_IOVEC,
	ARG_STRINGS,
	ARG_IN_OUT,
};
enum flag { FLAG_REPEAT = 1, FLAG_STOP = 2 };
enum status { DONE = 0, SKIPPED = 1, BLOCKED = 2 };

#define MAX_CALLS 4096
#define MAX_ARGUMENTS 6
#define MAX_REPEATS 65536

static int port;
static volatile sig_atomic_t alarmed;
static int is_child;

static void die(const char *what)
{
	dprintf(2, "agent: %s: %s\n", what, strerror(errno));
	for (;;)
		pause();
}

/* Buffers ------------------------------------------------------------------ */

struct reader {
	unsigned char *at;
};

struct writer {
	unsigned char *data;
	size_t used, room;
};

static void *get(struct reader *in, size_t size)
{
	void *found = in->at;

	in->at += size;
	return found;
}

#define GET(type)                                                                                  \
	static type get_##type(struct reader *in)                                                  \
	{                                                                                          \
		type value;                                                                        \
		memcpy(&value, get(in, sizeof(value)), sizeof(value));                             \
		return value;                                                                      \
	}
GET(uint8_t)
GET(uint16_t)
GET(uint32_t)
GET(int64_t)

static void put(struct writer *out, const void *data, size_t size)
{
	if (out->used + size > out->room) {
		out->room = 2 * (out->used + size);
		out->data = realloc(out->data, out->room);
		if (!out->data)
			die("realloc");
	}
	memcpy(out->data + out->used, data, size);
	out->used += size;
}

static void put_uint32(struct writer *out, uint32_t value)
{
	put(out, &value, sizeof(value));
}

/* A null byte follows a buffer in the request, so that it serves as a path. */
static char *get_buffer(struct reader *in, uint32_t *size)
{
	*size = get_uint32_t(in);
	return get(in, *size + 1);
}

/* The port ------------------------------------------------------------------ */

/* read(2) returns 0 and write(2) fails while the host's side is closed. */
static void port_wait(void)
{
	nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
}

static void port_read(unsigned char *data, size_t size)
{
	while (size) {
		ssize_t count = read(port, data, size);

		if (count > 0) {
			data += count;
			size -= count;
		} else {
			port_wait();
		}
	}
}

static void port_write(const unsigned char *data, size_t size)
{
	while (size) {
		ssize_t count = write(port, data, size);

		if (count > 0) {
			data += count;
			size -= count;
		} else {
			port_wait();
		}
	}
}

/* One system call ----------------------------------------------------------- */

struct call {
	long arguments[MAX_ARGUMENTS];
	struct iovec outs[MAX_ARGUMENTS];
	int outs_all[MAX_ARGUMENTS];
	int n_outs;
	void *allocated[2 * MAX_ARGUMENTS];
	int n_allocated;
	int skip;
};

/* Not cleared: that takes longer under TCG than to read an attribute. */
static void *allocate(struct call *call, size_t size)
{
	void *found = malloc(size ? size : 1);

	if (!found)
		die("malloc");
	return call->allocated[call->n_allocated++] = found;
}

static long earlier(struct call *call, struct reader *in, const int64_t *results)
{
	int64_t result = results[get_uint16_t(in)];

	call->skip |= result < 0;
	return result;
}

static long get_iovec(struct call *call, struct reader *in, const int64_t *results)
{
	uint16_t count = get_uint16_t(in);
	struct iovec *parts = allocate(call, count * sizeof(*parts));
	uint32_t size;

	for (int i = 0; i < count; i++) {
		if (get_uint8_t(in) == ARG_RESULT) {
			parts[i].iov_base = (void *)earlier(call, in, results);
			size = get_uint32_t(in);
		} else {
			parts[i].iov_base = get_buffer(in, &size);
		}
		parts[i].iov_len = size;
	}
	return (long)parts;
}

static long get_strings(struct call *call, struct reader *in)
{
	uint16_t count = get_uint16_t(in);
	char **strings = allocate(call, (count + 1) * sizeof(*strings));
	uint32_t size;

	for (int i = 0; i < count; i++)
		strings[i] = get_buffer(in, &size);
	strings[count] = NULL;
	return (long)strings;
}

static long get_out(struct call *call, struct reader *in, int all)
{
	struct iovec *out = &call->outs[call->n_outs];

	call->outs_all[call->n_outs++] = all;
	out->iov_len = get_uint32_t(in);
	out->iov_base = allocate(call, out->iov_len);
	if (all)
		memset(out->iov_base, 0, out->iov_len); /* the call may fill a part of it */
	return (long)out->iov_base;
}

static long get_in_out(struct call *call, struct reader *in)
{
	struct iovec *out = &call->outs[call->n_outs];
	uint32_t size;
	char *data = get_buffer(in, &size);

	call->outs_all[call->n_outs++] = 1;
	out->iov_len = size;
	out->iov_base = allocate(call, size);
	memcpy(out->iov_base, data, size);
	return (long)out->iov_base;
}

static void get_call(struct call *call, struct reader *in, const int64_t *results)
{
	uint8_t count = get_uint8_t(in);
	uint32_t size;

	for (int i = 0; i < count; i++) {
		uint8_t type = get_uint8_t(in);
		long *argument = &call->arguments[i];

		switch (type) {
		case ARG_NUMBER:
			*argument = get_int64_t(in);
			break;
		case ARG_IN:
			*argument = (long)get_buffer(in, &size);
			break;
		case ARG_OUT:
		case ARG_OUT_ALL:
			*argument = get_out(call, in, type == ARG_OUT_ALL);
			break;
		case ARG_RESULT:
			*argument = earlier(call, in, results);
			break;
		case ARG_IOVEC:
			*argument = get_iovec(call, in, results);
			break;
		case ARG_STRINGS:
			*argument = get_strings(call, in);
			break;
		case ARG_IN_OUT:
			*argument = get_in_out(call, in);
			break;
		}
	}
}

static int64_t do_call(long number, const long *arguments)
{
	long result = syscall(number, arguments[0], arguments[1], arguments[2], arguments[3],
			      arguments[4], arguments[5]);

	return result < 0 ? -errno : result;
}

/* Returns how many buffers it has written. */
static uint32_t put_outs(struct writer *out, const struct call *call, int64_t result)
{
	for (int i = 0; result >= 0 && i < call->n_outs; i++) {
		size_t size = call->outs[i].iov_len;

		if (!call->outs_all[i] && (size_t)result < size)
			size = result;
		put_uint32(out, size);
		put(out, call->outs[i].iov_base, size);
	}
	return result >= 0 ? call->n_outs : 0;
}

/* The answer to a call: its result, its status, the number of buffers, the buffers. */
static int64_t perform(struct reader *in, const int64_t *results, struct writer *out, uint8_t *flags)
{
	struct call call = {0};
	uint16_t number = get_uint16_t(in);
	int64_t result = -ECANCELED;
	uint8_t status = SKIPPED;
	uint32_t n_outs = 0;
	size_t head;

	*flags = get_uint8_t(in);
	get_call(&call, in, results);
	head = out->used;
	put(out, &result, sizeof(result));
	put(out, &status, sizeof(status));
	put_uint32(out, 0);
	if (!call.skip) {
		alarmed = 0;
		result = do_call(number, call.arguments);
		/* a child has no patience: its SIGALRM is part of what is tried */
		status = alarmed && result == -EINTR && !is_child ? BLOCKED : DONE;
		n_outs = put_outs(out, &call, result);
		if (*flags & FLAG_REPEAT)
			for (int i = 0; result > 0 && i < MAX_REPEATS; i++) {
				int64_t more = do_call(number, call.arguments);

				if (more <= 0) {
					/* what an end of file and an empty queue have in common */
					result = more == -EAGAIN ? 0 : more;
					break;
				}
				n_outs += put_outs(out, &call, more);
			}
	}
	memcpy(out->data + head, &result, sizeof(result));
	memcpy(out->data + head + sizeof(result), &status, sizeof(status));
	memcpy(out->data + head + sizeof(result) + sizeof(status), &n_outs, sizeof(n_outs));
	for (int i = 0; i < call.n_allocated; i++)
		free(call.allocated[i]);
	return result;
}

/* Batches ------------------------------------------------------------------- */

/* With a descriptor each answer is written to it at once. */
static void run(struct reader *in, uint16_t count, struct writer *out, int descriptor)
{
	static int64_t results[MAX_CALLS];

	for (int i = 0; i < count; i++) {
		uint8_t flags;

		results[i] = perform(in, results, out, &flags);
		if (descriptor >= 0) {
			if (write(descriptor, out->data, out->used) < 0)
				_exit(1);
			out->used = 0;
		}
		if (results[i] < 0 && flags & FLAG_STOP)
			break;
	}
}

static void on_alarm(int number)
{
	(void)number;
	alarmed = 1;
}

static void patience(uint32_t seconds)
{
	/* again and again: the first signal may come between two calls */
	struct itimerval timer = {.it_value.tv_sec = seconds, .it_interval.tv_sec = seconds};

	setitimer(ITIMER_REAL, &timer, NULL);
}

/* A child writes its answers to a file, which the host reads by its name. */
static int64_t start(struct reader *in)
{
	uint32_t rounds = get_uint32_t(in), size;
	char *path = get_buffer(in, &size);
	uint32_t length = get_uint32_t(in);
	struct reader batch = {.at = get(in, length)};
	pid_t pid = fork();

	if (pid)
		return pid < 0 ? -errno : pid;
	int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);

	is_child = 1;
	setsid();
	for (uint32_t i = 0; i < rounds; i++) {
		struct reader again = batch;
		struct writer out = {0};

		run(&again, get_uint16_t(&again), &out, descriptor);
		free(out.data);
	}
	_exit(0);
}

static void serve(void)
{
	for (;;) {
		uint32_t size;
		struct writer out = {0};

		port_read((unsigned char *)&size, sizeof(size));
		unsigned char *request = malloc(size);

		if (!request)
			die("malloc");
		port_read(request, size);
		struct reader in = {.at = request};

		put_uint32(&out, 0);
		if (get_uint8_t(&in) == KIND_RUN) {
			patience(get_uint32_t(&in));
			run(&in, get_uint16_t(&in), &out, -1);
			patience(0);
		} else {
			uint16_t count = get_uint16_t(&in);

			for (int i = 0; i < count; i++) {
				int64_t pid = start(&in);

				put(&out, &pid, sizeof(pid));
			}
		}
		size = out.used - sizeof(size);
		memcpy(out.data, &size, sizeof(size));
		port_write(out.data, out.used);
		free(out.data);
		free(request);
	}
}

/* Start --------------------------------------------------------------------- */

static void mount_at(const char *type, const char *path)
{
	mkdir(path, 0755);
	if (mount(type, path, type, 0, NULL))
		die(path);
}

/* The first port: the guest has one. */
static int open_port(void)
{
	for (;;) {
		DIR *folder = opendir("/sys/class/virtio-ports");
		struct dirent *entry;
		char path[300];

		while (folder && (entry = readdir(folder)))
			if (!strncmp(entry->d_name, "vport", 5)) {
				int found;

				snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
				found = open(path, O_RDWR | O_CLOEXEC);
				if (found >= 0) {
					closedir(folder);
					return found;
				}
			}
		if (folder)
			closedir(folder);
		port_wait();
	}
}

/* As the init of a guest, or with the number of a connected socket: a test on the host. */
int main(int argc, char **argv)
{
	struct sigaction action = {.sa_handler = on_alarm};

	umask(022);
	sigaction(SIGALRM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	if (getpid() != 1) {
		if (argc != 2)
			return 2;
		port = atoi(argv[1]);
		serve();
	}
	mount_at("proc", "/proc");
	mount_at("sysfs", "/sys");
	mount_at("devtmpfs", "/dev");
	mount_at("tmpfs", "/run");
	mount_at("debugfs", "/sys/kernel/debug");
	port = open_port();
	serve();
}
