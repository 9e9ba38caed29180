/*
 * llcuda-guard: owns one program and dies with its own parent.
 *
 *     llcuda-guard [--parent PID] [--fd N] [--directory DIR] [--term-ms A] [--kill-ms B] -- program [argument...]
 *
 * The parent keeps the write end of a pipe and gives this process the read end (--fd). The program ends
 *   - in order, when the parent writes 'q' or this process gets SIGTERM, SIGINT or SIGHUP: SIGTERM now, again
 *     after A ms, SIGKILL after B ms (llama-server can lose one SIGTERM; a second one makes it exit at once);
 *   - at once, when the parent writes 'k';
 *   - in haste, when the pipe closes without a word or the parent (--parent) is gone: nobody is left to wait.
 *
 * Its exit status, or the signal that it died of, is passed on. 126 and 127 say, as in a shell, that it could not be
 * run; 125 that the guard itself could not work. What remains of the program's process group is killed while the
 * program's zombie still holds the group's number, so that a number in use by somebody else is never signalled.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* Released binaries are built with headers from before Linux 5.3; the numbers are the same everywhere. */
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_close_range
#define SYS_close_range 436
#endif

enum {
    EXIT_GUARD = 125,
    EXIT_CANNOT_RUN = 126,
    EXIT_NOT_FOUND = 127,
    DEFAULT_TERM_MS = 400,
    DEFAULT_KILL_MS = 5000,
    ORPHAN_TERM_MS = 15, /* llama-server needs 12 ms to end in order; all of it must be gone within 250 ms, */
    ORPHAN_KILL_MS = 40, /* also on a machine that has seven times as much to do as it can */
    PARENT_POLL_MS = 50, /* only where the kernel has no pidfd */
    STRAY_WAIT_MS = 100, /* for killed relatives of the program to be reaped */
};

struct options {
    pid_t parent; /* 0: not told */
    int fd;       /* -1: none */
    const char *directory;
    int64_t term_ms;
    int64_t kill_ms;
    char **program;
};

struct guard {
    const struct options *options;
    pid_t child;
    int signals;
    int parent_fd;
    int pipe_fd;
    int64_t term_at; /* when the second SIGTERM is due; INT64_MAX: not */
    int64_t kill_at;
    bool ordered;
    bool orphaned;
};

static int64_t now_ms(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000 + time.tv_nsec / 1000000;
}

_Noreturn static void fail(const char *what, const char *detail) {
    dprintf(STDERR_FILENO, "llcuda-guard: %s: %s\n", what, detail);
    _exit(EXIT_GUARD);
}

static long parse_number(const char *name, const char *text) {
    char *end = NULL;
    errno = 0;
    long number = strtol(text, &end, 10);
    if (errno || end == text || *end || number < 0 || number > INT_MAX) {
        fail(name, "not a number that can be used");
    }
    return number;
}

static void parse_option(struct options *options, const char *name, char *value) {
    if (!strcmp(name, "--parent")) {
        options->parent = (pid_t)parse_number(name, value);
    } else if (!strcmp(name, "--fd")) {
        options->fd = (int)parse_number(name, value);
    } else if (!strcmp(name, "--directory")) {
        options->directory = value;
    } else if (!strcmp(name, "--term-ms")) {
        options->term_ms = parse_number(name, value);
    } else if (!strcmp(name, "--kill-ms")) {
        options->kill_ms = parse_number(name, value);
    } else {
        fail(name, "unknown option");
    }
}

static struct options parse_options(char **arguments) {
    struct options options = {.fd = -1, .term_ms = DEFAULT_TERM_MS, .kill_ms = DEFAULT_KILL_MS};
    while (*arguments && strcmp(*arguments, "--")) {
        if (!arguments[1]) {
            fail(*arguments, "needs a value");
        }
        parse_option(&options, arguments[0], arguments[1]);
        arguments += 2;
    }
    if (!*arguments || !arguments[1]) {
        fail("usage", "llcuda-guard [--parent PID] [--fd N] [--directory DIR] [--term-ms A] [--kill-ms B] -- program [argument...]");
    }
    options.program = arguments + 1;
    return options;
}

static bool starts_with(const char *text, const char *prefix) {
    return strncmp(text, prefix, strlen(prefix)) == 0;
}

static bool ends_with(const char *name, size_t length, const char *suffix) {
    size_t size = strlen(suffix);
    return length >= size && strncmp(name + length - size, suffix, size) == 0;
}

/* Names, not values, decide. A secret is dropped even where its prefix would let it through. */
static bool is_allowed(const char *entry) {
    static const char *const names[] = {
        "PATH=", "HOME=", "LANG=", "LANGUAGE=", "TZ=", "TMPDIR=", "LD_LIBRARY_PATH=", "LLAMA_API_KEY=",
        "XDG_CACHE_HOME=", /* where llama.cpp and the CUDA driver keep caches when it is set */
        "USER=", "LOGNAME=",
    };
    static const char *const prefixes[] = {"LC_", "CUDA_", "NVIDIA_", "GGML_"};
    static const char *const secrets[] = {"_TOKEN", "_SECRET", "_PASSWORD", "_KEY", "_CREDENTIALS"};

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (starts_with(entry, names[i])) {
            return true;
        }
    }
    size_t length = strcspn(entry, "=");
    for (size_t i = 0; i < sizeof secrets / sizeof *secrets; i++) {
        if (ends_with(entry, length, secrets[i])) {
            return false;
        }
    }
    for (size_t i = 0; i < sizeof prefixes / sizeof *prefixes; i++) {
        if (starts_with(entry, prefixes[i])) {
            return true;
        }
    }
    return false;
}

/* /proc/PID/environ shows the memory that the strings were in at the start: what is overwritten is seen by nobody. */
static void take_environment(void) {
    char **kept = environ;
    for (char **entry = environ; *entry; entry++) {
        char *copy = NULL;
        if (is_allowed(*entry) && !(copy = strdup(*entry))) {
            fail("environment", strerror(errno));
        }
        memset(*entry, 0, strlen(*entry));
        if (copy) {
            *kept++ = copy;
        }
    }
    *kept = NULL;
}

static void forget_environment(void) {
    for (char **entry = environ; *entry; entry++) {
        memset(*entry, 0, strlen(*entry));
    }
}

static void close_by_directory(int keep) {
    DIR *directory = opendir("/proc/self/fd");
    if (!directory) {
        return;
    }
    for (struct dirent *entry; (entry = readdir(directory));) {
        int fd = atoi(entry->d_name);
        if (fd > STDERR_FILENO && fd != keep && fd != dirfd(directory)) {
            close(fd);
        }
    }
    closedir(directory);
}

static bool close_range_of(unsigned first, unsigned last) {
    return first > last || syscall(SYS_close_range, first, last, 0) == 0;
}

/* Leaves 0, 1, 2 and `keep`, which the program will not inherit. */
static void close_others(int keep) {
    const unsigned first = STDERR_FILENO + 1;
    if (keep >= 0 && keep <= STDERR_FILENO) {
        fail("--fd", "is a standard descriptor");
    }
    bool closed = keep < 0 ? close_range_of(first, UINT_MAX)
                           : close_range_of(first, (unsigned)keep - 1) && close_range_of((unsigned)keep + 1, UINT_MAX);
    if (!closed) {
        close_by_directory(keep);
    }
    if (keep >= 0 && fcntl(keep, F_SETFD, FD_CLOEXEC) != 0) {
        fail("--fd", strerror(errno));
    }
}

static void open_missing_standard_descriptors(void) {
    int fd;
    do {
        fd = open("/dev/null", O_RDWR);
    } while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO) {
        close(fd);
    }
}

static void replace_by_null(int first, int last) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = first; null >= 0 && fd <= last; fd++) {
        dup2(null, fd);
    }
    close(null);
}

static void reset_signals(void) {
    for (int number = 1; number < NSIG; number++) {
        signal(number, SIG_DFL);
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static int open_signals(void) {
    sigset_t watched;
    sigemptyset(&watched);
    sigaddset(&watched, SIGCHLD);
    sigaddset(&watched, SIGTERM);
    sigaddset(&watched, SIGINT);
    sigaddset(&watched, SIGHUP);
    sigprocmask(SIG_BLOCK, &watched, NULL);
    int fd = signalfd(-1, &watched, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        fail("signalfd", strerror(errno));
    }
    return fd;
}

/* The parent is checked after its descriptor is open: only so is the descriptor surely that of the parent. */
static int open_parent(pid_t parent) {
    if (!parent) {
        return -1;
    }
    int fd = (int)syscall(SYS_pidfd_open, parent, 0);
    if (getppid() != parent) {
        fail("--parent", "is not the parent of this process, or gone");
    }
    return fd;
}

_Noreturn static void run_program(const struct options *options, pid_t guard) {
    setpgid(0, 0);
    reset_signals();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != guard) {
        _exit(EXIT_GUARD); /* the guard died before the signal was asked for */
    }
    replace_by_null(STDIN_FILENO, STDIN_FILENO);
    if (options->directory && chdir(options->directory) != 0) {
        fail(options->directory, strerror(errno));
    }
    execve(options->program[0], options->program, environ);
    int reason = errno;
    dprintf(STDERR_FILENO, "llcuda-guard: cannot run %s: %s\n", options->program[0], strerror(reason));
    _exit(reason == ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT_RUN);
}

static pid_t start(const struct options *options) {
    pid_t guard = getpid();
    pid_t child = fork();
    if (child < 0) {
        fail("fork", strerror(errno));
    }
    if (child == 0) {
        run_program(options, guard);
    }
    setpgid(child, child); /* on both sides, so that neither has to wait for the other */
    return child;
}

/* The program is a child that was not reaped, so its number and its group's are still its own. */
static void signal_group(const struct guard *guard, int number) {
    if (kill(-guard->child, number) != 0) {
        kill(guard->child, number);
    }
}

static void begin_end(struct guard *guard, int64_t term_ms, int64_t kill_ms) {
    int64_t now = now_ms();
    int64_t kill_at = now + kill_ms;
    signal_group(guard, SIGTERM);
    signal_group(guard, SIGCONT); /* a stopped program would not see it */
    guard->term_at = now + term_ms;
    guard->kill_at = kill_at < guard->kill_at ? kill_at : guard->kill_at;
}

static void end_in_order(struct guard *guard) {
    if (!guard->ordered && !guard->orphaned) {
        guard->ordered = true;
        begin_end(guard, guard->options->term_ms, guard->options->kill_ms);
    }
}

static void end_as_orphan(struct guard *guard) {
    if (!guard->orphaned) {
        guard->orphaned = true;
        begin_end(guard, ORPHAN_TERM_MS, ORPHAN_KILL_MS);
    }
}

static void close_watched(int *fd) {
    close(*fd);
    *fd = -1; /* poll() passes over it */
}

static void read_pipe(struct guard *guard) {
    char byte = 0;
    ssize_t size = read(guard->pipe_fd, &byte, 1);
    if (size < 0) {
        return;
    }
    if (size == 0) {
        close_watched(&guard->pipe_fd);
        if (!guard->ordered) {
            end_as_orphan(guard);
        }
    } else if (byte == 'k') {
        signal_group(guard, SIGKILL);
    } else {
        end_in_order(guard);
    }
}

static void read_signals(struct guard *guard) {
    struct signalfd_siginfo info;
    while (read(guard->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo != SIGCHLD) {
            end_in_order(guard);
        }
    }
}

static void check_parent(struct guard *guard, short events) {
    if (events) {
        close_watched(&guard->parent_fd);
        end_as_orphan(guard);
    } else if (guard->options->parent && getppid() != guard->options->parent) {
        end_as_orphan(guard);
    }
}

static void meet_deadlines(struct guard *guard) {
    int64_t now = now_ms();
    if (now >= guard->term_at) {
        guard->term_at = INT64_MAX;
        signal_group(guard, SIGTERM);
    }
    if (now >= guard->kill_at) {
        guard->kill_at = INT64_MAX;
        signal_group(guard, SIGKILL);
    }
}

/* Reaps what was inherited from the program; says whether the program itself has ended, and leaves it a zombie. */
static bool has_ended(const struct guard *guard) {
    for (;;) {
        siginfo_t info = {0};
        if (waitid(P_PID, (id_t)guard->child, &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == guard->child) {
            return true;
        }
        info.si_pid = 0;
        if (waitid(P_ALL, 0, &info, WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid == 0) {
            return false;
        }
        if (info.si_pid != guard->child) {
            waitpid(info.si_pid, NULL, WNOHANG);
        }
    }
}

static int next_timeout(const struct guard *guard) {
    int64_t due = guard->term_at < guard->kill_at ? guard->term_at : guard->kill_at;
    int64_t rest = due == INT64_MAX ? INT_MAX : due - now_ms();
    if (guard->options->parent && guard->parent_fd < 0 && !guard->orphaned && rest > PARENT_POLL_MS) {
        rest = PARENT_POLL_MS;
    }
    if (rest == INT_MAX) {
        return -1;
    }
    return rest < 0 ? 0 : (int)rest;
}

static void watch(struct guard *guard) {
    while (!has_ended(guard)) {
        struct pollfd watched[] = {
            {.fd = guard->signals, .events = POLLIN},
            {.fd = guard->pipe_fd, .events = POLLIN},
            {.fd = guard->parent_fd, .events = POLLIN},
        };
        if (poll(watched, 3, next_timeout(guard)) < 0 && errno != EINTR) {
            end_as_orphan(guard); /* blind: better to end than to watch nothing */
        }
        if (watched[0].revents) {
            read_signals(guard);
        }
        if (watched[1].revents) {
            read_pipe(guard);
        }
        check_parent(guard, watched[2].revents);
        meet_deadlines(guard);
    }
}

/* Kills what is left of the group and reaps it; one that left the group keeps running and goes to init. */
static int end_rest(const struct guard *guard) {
    int status = 0;
    kill(-guard->child, SIGKILL);
    waitpid(guard->child, &status, 0);

    const struct timespec pause = {.tv_nsec = 1000000};
    for (int64_t until = now_ms() + STRAY_WAIT_MS; now_ms() < until;) {
        pid_t reaped = waitpid(-1, NULL, WNOHANG);
        if (reaped < 0) {
            break;
        }
        if (reaped == 0) {
            nanosleep(&pause, NULL);
        }
    }
    return status;
}

static int pass_on(int status) {
    if (WIFEXITED(status)) {
        return WEXITSTATUS(status);
    }
    int number = WTERMSIG(status);
    reset_signals();
    raise(number);
    return 128 + number; /* as process 1 of a container no signal is deadly */
}

int main(int count, char **arguments) {
    if (count < 1) {
        return EXIT_GUARD;
    }
    take_environment();
    open_missing_standard_descriptors();
    const struct options options = parse_options(arguments + 1);
    reset_signals();
    close_others(options.fd);

    const struct rlimit no_core = {0, 0};
    setrlimit(RLIMIT_CORE, &no_core);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_CHILD_SUBREAPER, 1);

    struct guard guard = {
        .options = &options,
        .pipe_fd = options.fd,
        .signals = open_signals(),
        .parent_fd = open_parent(options.parent),
        .term_at = INT64_MAX,
        .kill_at = INT64_MAX,
    };
    guard.child = start(&options);
    forget_environment(); /* the program has its own copy */
    /* What is needed at the end is kept in memory: it must not wait for a disk then. Some systems do not allow it. */
    (void)mlockall(MCL_CURRENT);
    /* The log now belongs to the program alone: its end is the program's end. */
    replace_by_null(STDIN_FILENO, STDERR_FILENO);
    watch(&guard);
    return pass_on(end_rest(&guard));
}
