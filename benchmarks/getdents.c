/*
 * Lists a directory again and again, without the start of a program or of an interpreter in what is measured.
 *
 *     getdents DIRECTORY TIMES
 *
 * Each time: open, getdents64 with the buffer of readdir(3) until it returns 0, close. Prints the nanoseconds of one
 * listing and the number of names, "." and ".." among them.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static char buffer[32768];

/* Returns the number of names, or -1. */
static long list(const char *path)
{
	int directory = open(path, O_RDONLY | O_DIRECTORY);
	long names = 0;
	ssize_t size;

	if (directory < 0)
		return -1;
	while ((size = getdents64(directory, buffer, sizeof(buffer))) > 0)
		for (ssize_t at = 0; at < size; names++)
			at += ((struct dirent64 *)(buffer + at))->d_reclen;
	close(directory);
	return size < 0 ? -1 : names;
}

int main(int argc, char **argv)
{
	long times = argc == 3 ? strtol(argv[2], NULL, 10) : 0;
	struct timespec start, end;
	long names;

	if (times < 1) {
		fprintf(stderr, "usage: getdents DIRECTORY TIMES\n");
		return 2;
	}
	names = list(argv[1]);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (long n = 0; n < times && names >= 0; n++)
		names = list(argv[1]);
	clock_gettime(CLOCK_MONOTONIC, &end);
	if (names < 0) {
		perror(argv[1]);
		return 1;
	}
	printf("%.0f %ld\n", ((end.tv_sec - start.tv_sec) * 1e9 + end.tv_nsec - start.tv_nsec) / times, names);
	return 0;
}
