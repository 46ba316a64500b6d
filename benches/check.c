/*
 * What scripts/check-bench holds the benchmark against: ROUNDS PROGRAM [ARGUMENT] -- PROGRAM [ARGUMENT] ...
 *
 * Starts everybody once a round, in an order that is shuffled for each, and prints for each the medians of spawn to first byte and of
 * spawn to reaped, in microseconds. It shares nothing with the benchmark but the kernel.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 16, WARM_UP = 3 };

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

static void start(char **words, double *first, double *reaped)
{
	char *environment[] = { "PATH=/usr/bin:/bin", NULL }, buffer[256];
	posix_spawn_file_actions_t actions;
	int ends[2], status;
	pid_t pid;
	if (pipe2(ends, O_CLOEXEC) || posix_spawn_file_actions_init(&actions) ||
	    posix_spawn_file_actions_adddup2(&actions, ends[1], 1))
		exit(1);
	double began = now();
	if (posix_spawn(&pid, words[0], &actions, NULL, words, environment))
		exit(1);
	close(ends[1]);
	if (read(ends[0], buffer, sizeof buffer) <= 0)
		exit(1);
	*first = now() - began;
	if (waitpid(pid, &status, 0) != pid || status)
		exit(1);
	*reaped = now() - began;
	close(ends[0]);
	posix_spawn_file_actions_destroy(&actions);
}

static int ascending(const void *a, const void *b)
{
	double difference = *(const double *)a - *(const double *)b;
	return (difference > 0) - (difference < 0);
}

static double median(double *values, int count)
{
	qsort(values, count, sizeof *values, ascending);
	return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

int main(int argc, char **argv)
{
	int rounds = argc > 2 ? atoi(argv[1]) : 0, count = 0, order[MOST];
	char **rows[MOST];
	for (int at = 2; at < argc && count < MOST; at++) {
		order[count] = count;
		rows[count++] = argv + at;
		while (at < argc && strcmp(argv[at], "--"))
			at++;
		argv[at] = NULL;
	}
	if (rounds <= 0)
		return 2;
	double *first[MOST], *reaped[MOST];
	for (int row = 0; row < count; row++) {
		first[row] = calloc(rounds, sizeof(double));
		reaped[row] = calloc(rounds, sizeof(double));
		if (!first[row] || !reaped[row])
			return 1;
	}
	for (int round = -WARM_UP; round < rounds; round++)
		for (int left = count; left > 0; left--) {
			int drawn = rand() % left, row = order[drawn], kept = round < 0 ? 0 : round;
			order[drawn] = order[left - 1];
			order[left - 1] = row;
			start(rows[row], &first[row][kept], &reaped[row][kept]);
		}
	for (int row = 0; row < count; row++)
		printf("%.1f %.1f\n", median(first[row], rounds), median(reaped[row], rounds));
	return 0;
}
