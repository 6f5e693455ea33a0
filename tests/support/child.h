/* child: a process that a test starts, and that does not outlive the test.
 * SPDX-License-Identifier: Apache-2.0  */
#pragma once
#include <stdbool.h>
#include <sys/types.h>

/* Runs a program from the PATH with nothing on stdout; what it says on stderr is the test's. */
pid_t child_exec(const char *const *argv);
void child_kill(pid_t pid, int signal_no); /* and waits for its end */

/* A function in a process of its own. It tells the test words of at most CHILD_WORD - 1 characters, and "ok" when it returned true;
 * then it stays until it is ended. */
enum { CHILD_WORD = 40 };
struct child {
    pid_t pid;
    int words;
};
typedef bool child_fn(const char *arg, int out);
struct child child_start(child_fn *fn, const char *arg);
bool child_say(int out, const char *word);
/* True when a word has come. A child that gave up is a failure. */
bool child_said(struct child *c, char ret_word[CHILD_WORD]);
void child_end(struct child *c);
