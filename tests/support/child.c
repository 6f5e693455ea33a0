/* child: see the header.
 * SPDX-License-Identifier: Apache-2.0  */
#include "child.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

/* 0 in the child, which dies with this process. */
static pid_t fork_tied(void)
{
    pid_t parent = getpid(), pid = fork();
    assert_true(pid >= 0);
    if (pid == 0 && (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != parent))
        _exit(1);
    return pid;
}

pid_t child_exec(const char *const *argv)
{
    pid_t pid = fork_tied();
    if (pid)
        return pid;
    int null = open("/dev/null", O_RDWR);
    if (null >= 0 && dup2(null, STDOUT_FILENO) >= 0)
        execvp(argv[0], (char *const *)(uintptr_t)argv);
    _exit(1);
}

void child_kill(pid_t pid, int signal_no)
{
    assert_int_equal(kill(pid, signal_no), 0);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

bool child_say(int out, const char *text)
{
    char word[CHILD_WORD] = {0};
    snprintf(word, sizeof(word), "%s", text);
    return write(out, word, sizeof(word)) == (ssize_t)sizeof(word);
}

struct child child_start(child_fn *fn, const char *arg)
{
    int fds[2];
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    struct child c = {.pid = fork_tied(), .words = fds[0]};
    if (c.pid == 0) {
        if (!fn(arg, fds[1]) || !child_say(fds[1], "ok"))
            _exit(1); /* the parent reads an end instead of a word */
        for (;;)
            pause();
    }
    close(fds[1]);
    assert_int_equal(fcntl(c.words, F_SETFL, O_NONBLOCK), 0);
    return c;
}

bool child_said(struct child *c, char ret_word[CHILD_WORD])
{
    ssize_t n = read(c->words, ret_word, CHILD_WORD);
    assert_true(n == CHILD_WORD || (n < 0 && errno == EAGAIN));
    return n == CHILD_WORD;
}

void child_end(struct child *c)
{
    child_kill(c->pid, SIGKILL);
    close(c->words);
}
