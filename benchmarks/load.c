// A load generator for HTTP/1.1 that costs less than what it measures: one thread, epoll, connections kept alive.
//
//     load [options] ADDRESS BODY [ADDRESS...]
//
// An ADDRESS is unix:PATH or IP:PORT; several are taken in turn, connection by connection. BODY is POSTed. Prints JSON.
//
//     -p PATH   the target            -H LINE   one more header
//     -c N      connections           -n N      requests in all, or
//     -t S      seconds               -d S      seconds after these for what has begun
//     -r R      requests a second, whatever is answered; without, each connection asks again once it is answered
//
// A stamp in an answer, `@` and 19 digits, is taken for the nanosecond of CLOCK_MONOTONIC at which it was sent.
//
// At a rate, a request counts from the moment that it was due, also where no connection was free for it: nothing is
// left out because the server was slow.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ADDRESSES = 64, MAX_HEAD = 16384, READ_BYTES = 1 << 18, EVENTS = 256, STATUSES = 600, STAMP_DIGITS = 19 };
enum mode { HEAD, LENGTH, SIZE, DATA, DATA_END, TRAILER, UNTIL_CLOSE };

struct address {
    struct sockaddr_storage name;
    socklen_t length;
};

struct connection {
    int fd, status;
    enum mode mode;
    bool busy, connecting, retried, close, done, streams;
    size_t head_length, left, done_at, digits;
    int64_t due, sent, first, stamp;
    char last;
    uint32_t address;
    struct connection *next;
    char head[MAX_HEAD];
};

struct samples {
    int64_t *values;
    size_t count, room;
};

static struct address addresses[MAX_ADDRESSES];
static uint32_t address_count;
static char *request;
static size_t request_length;
static struct connection *free_list;
static struct samples latency, first_byte, refused, delay;
static uint64_t statuses[STATUSES], events_seen, complete, errors, retries, unsent, started, finished;
static int epoll_fd;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void add(struct samples *samples, int64_t value) {
    if (samples->count == samples->room) {
        samples->room = samples->room ? 2 * samples->room : 4096;
        samples->values = realloc(samples->values, samples->room * sizeof *samples->values);
        if (!samples->values) die("realloc");
    }
    samples->values[samples->count++] = value;
}

static void parse_address(const char *text) {
    struct address *address = &addresses[address_count++];
    if (strncmp(text, "unix:", 5) == 0) {
        struct sockaddr_un *name = (struct sockaddr_un *)&address->name;
        name->sun_family = AF_UNIX;
        snprintf(name->sun_path, sizeof name->sun_path, "%s", text + 5);
        address->length = sizeof *name;
        return;
    }
    char host[64] = "";
    int port = 0;
    struct sockaddr_in *name = (struct sockaddr_in *)&address->name;
    if (sscanf(text, "%63[0-9.]:%d", host, &port) != 2 || inet_pton(AF_INET, host, &name->sin_addr) != 1) {
        fprintf(stderr, "no address: %s\n", text);
        exit(2);
    }
    name->sin_family = AF_INET;
    name->sin_port = htons((uint16_t)port);
    address->length = sizeof *name;
}

static void drop(struct connection *one) {
    if (one->fd >= 0) close(one->fd);
    one->fd = -1;
}

static bool connect_one(struct connection *one) {
    const struct address *address = &addresses[one->address];
    bool is_tcp = address->name.ss_family == AF_INET;
    one->fd = socket(address->name.ss_family, SOCK_STREAM | SOCK_CLOEXEC | (is_tcp ? SOCK_NONBLOCK : 0), 0);
    if (one->fd < 0) die("socket");
    int yes = 1;
    if (is_tcp) setsockopt(one->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    one->connecting = connect(one->fd, (const struct sockaddr *)&address->name, address->length) < 0;
    if (one->connecting && errno != EINPROGRESS) return false;
    if (fcntl(one->fd, F_SETFL, O_NONBLOCK) < 0) die("fcntl");
    struct epoll_event event = {.events = one->connecting ? EPOLLOUT : EPOLLIN, .data.ptr = one};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, one->fd, &event) < 0) die("epoll_ctl");
    return true;
}

static void release(struct connection *one) {
    one->busy = false;
    finished++;
    one->next = free_list;
    free_list = one;
}

static void fail(struct connection *one) {
    drop(one);
    errors++;
    release(one);
}

static void send_request(struct connection *one, int64_t due) {
    one->busy = true;
    one->due = due;
    one->mode = HEAD;
    one->head_length = one->done_at = one->digits = 0;
    one->status = 0;
    one->first = 0;
    one->last = 0;
    one->close = one->done = one->streams = false;
    for (int attempt = 0; attempt < 2; attempt++) {
        if (one->fd < 0 && !connect_one(one)) break;
        one->sent = now();
        if (one->connecting || send(one->fd, request, request_length, MSG_NOSIGNAL) == (ssize_t)request_length) return;
        drop(one);
    }
    fail(one);
}

static void go_on(struct connection *one) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = one};
    one->connecting = false;
    if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, one->fd, &event) < 0) die("epoll_ctl");
    if (send(one->fd, request, request_length, MSG_NOSIGNAL) != (ssize_t)request_length) fail(one);
}

static void finish(struct connection *one) {
    int64_t at = now();
    if (one->status > 0 && one->status < STATUSES) statuses[one->status]++;
    if (one->status == 200) {
        add(&latency, at - one->due);
        add(&first_byte, one->first - one->due);
        complete += one->done || !one->streams;
    } else {
        add(&refused, at - one->sent);
    }
    if (one->close) drop(one);
    release(one);
}

static void parse_head(struct connection *one) {
    one->head[one->head_length] = 0;
    if (sscanf(one->head, "HTTP/1.%*d %d", &one->status) != 1) one->status = 0;
    one->mode = UNTIL_CLOSE;
    const char *found = strcasestr(one->head, "\r\ncontent-length:");
    if (found) {
        one->mode = LENGTH;
        one->left = strtoull(found + 17, NULL, 10);
    }
    if (strcasestr(one->head, "\r\ntransfer-encoding: chunked")) {
        one->mode = SIZE;
        one->left = 0;
    }
    one->close = strcasestr(one->head, "\r\nconnection: close") != NULL;
    one->streams = strcasestr(one->head, "text/event-stream") != NULL;
}

// Count events, and look for stamps and for the [DONE] that is the end of a stream.
static void take_body(struct connection *one, const char *data, size_t length) {
    static const char mark[] = "[DONE]";
    if (!one->first && length) one->first = now();
    for (size_t at = 0; at < length; at++) {
        char byte = data[at];
        events_seen += one->streams && byte == '\n' && one->last == '\n';
        one->last = byte;
        if (byte == '@') {
            one->digits = 1;
            one->stamp = 0;
        } else if (one->digits) {
            one->stamp = one->stamp * 10 + byte - '0';
            one->digits = byte < '0' || byte > '9' ? 0 : one->digits + 1;
            if (one->digits > STAMP_DIGITS) {
                add(&delay, now() - one->stamp);
                one->digits = 0;
            }
        }
        one->done_at = byte == mark[one->done_at] ? one->done_at + 1 : byte == mark[0];
        if (one->done_at == sizeof mark - 1) {
            one->done = true;
            one->done_at = 0;
        }
    }
}

// Take what was read; true at the end of the answer.
static bool take(struct connection *one, const char *data, size_t length) {
    size_t at = 0;
    while (at < length || (one->mode == LENGTH && one->left == 0)) {
        if (one->mode == HEAD) {
            if (one->head_length == MAX_HEAD - 1) return one->close = true;
            one->head[one->head_length++] = data[at++];
            if (one->head_length >= 4 && memcmp(one->head + one->head_length - 4, "\r\n\r\n", 4) == 0) parse_head(one);
        } else if (one->mode == LENGTH || one->mode == DATA) {
            size_t size = length - at < one->left ? length - at : one->left;
            take_body(one, data + at, size);
            at += size;
            one->left -= size;
            if (one->left) continue;
            if (one->mode == LENGTH) return true;
            one->mode = DATA_END;
        } else if (one->mode == UNTIL_CLOSE) {
            take_body(one, data + at, length - at);
            return false;
        } else if (one->mode == DATA_END) {
            if (data[at++] == '\n') {
                one->mode = SIZE;
                one->left = 0;
            }
        } else if (one->mode == SIZE) {
            char byte = data[at++];
            if (byte == '\n') {
                one->mode = one->left ? DATA : TRAILER;
            } else if (byte != '\r') {
                one->left = one->left * 16 + (size_t)(byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
            }
        } else if (data[at++] == '\n') {
            return true;
        }
    }
    return false;
}

static void read_some(struct connection *one) {
    static char buffer[READ_BYTES];
    ssize_t length = recv(one->fd, buffer, sizeof buffer, 0);
    if (length < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (length <= 0) {
        bool untouched = one->head_length == 0;
        drop(one);
        if (!one->busy) return;
        if (one->mode == UNTIL_CLOSE) {
            finish(one);
        } else if (untouched && !one->retried) {
            // The server closed an idle connection at the moment of asking.
            one->retried = true;
            retries++;
            send_request(one, one->due);
        } else {
            fail(one);
        }
        return;
    }
    if (!one->busy) {
        drop(one);
        return;
    }
    if (take(one, buffer, (size_t)length)) finish(one);
}

static int compare(const void *left, const void *right) {
    int64_t a = *(const int64_t *)left, b = *(const int64_t *)right;
    return (a > b) - (a < b);
}

static void print_samples(const char *name, struct samples *samples) {
    printf(",\"%s\":{\"count\":%zu", name, samples->count);
    if (samples->count) {
        static const double shares[] = {0.5, 0.9, 0.99, 0.999, 1};
        static const char *const names[] = {"p50", "p90", "p99", "p999", "max"};
        qsort(samples->values, samples->count, sizeof *samples->values, compare);
        for (size_t at = 0; at < 5; at++) {
            size_t rank = (size_t)(shares[at] * (double)(samples->count - 1) + 0.5);
            printf(",\"%s\":%.1f", names[at], (double)samples->values[rank] / 1e3);
        }
    }
    printf("}");
}

static void report(int64_t began) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    double cpu = (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) * 1e6;
    cpu += (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
    printf("{\"seconds\":%.6f,\"started\":%lu,\"finished\":%lu,\"errors\":%lu,\"retries\":%lu,\"unsent\":%lu",
           (double)(now() - began) / 1e9, started, finished, errors, retries, unsent);
    printf(",\"complete\":%lu,\"events\":%lu,\"load_cpu_us\":%.0f,\"statuses\":{", complete, events_seen, cpu);
    const char *comma = "";
    for (int status = 0; status < STATUSES; status++) {
        if (statuses[status]) {
            printf("%s\"%d\":%lu", comma, status, statuses[status]);
            comma = ",";
        }
    }
    printf("}");
    print_samples("latency_us", &latency);
    print_samples("first_us", &first_byte);
    print_samples("refused_us", &refused);
    print_samples("delay_us", &delay);
    printf("}\n");
}

static void start_free(int64_t due) {
    struct connection *one = free_list;
    free_list = one->next;
    one->retried = false;
    started++;
    send_request(one, due);
}

static void build_request(const char *path, const char *header, const char *body) {
    static const char form[] =
        "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%s%sContent-Length: %zu\r\n\r\n%s";
    int length = asprintf(&request, form, path, header, *header ? "\r\n" : "", strlen(body), body);
    if (length < 0) die("asprintf");
    request_length = (size_t)length;
}

int main(int count, char **arguments) {
    const char *path = "/v1/chat/completions", *header = "";
    uint64_t connections = 1, requests = UINT64_MAX;
    double seconds = 0, drain = 0, rate = 0;
    for (int option; (option = getopt(count, arguments, "p:H:c:n:t:d:r:")) != -1;) {
        if (option == 'p') path = optarg;
        else if (option == 'H') header = optarg;
        else if (option == 'c') connections = strtoull(optarg, NULL, 10);
        else if (option == 'n') requests = strtoull(optarg, NULL, 10);
        else if (option == 't') seconds = strtod(optarg, NULL);
        else if (option == 'd') drain = strtod(optarg, NULL);
        else if (option == 'r') rate = strtod(optarg, NULL);
        else return 2;
    }
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0) die("prctl");  // nobody would read the report
    if (count - optind < 2 || count - optind > MAX_ADDRESSES) return 2;
    parse_address(arguments[optind]);
    build_request(path, header, arguments[optind + 1]);
    for (int at = optind + 2; at < count; at++) parse_address(arguments[at]);

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct connection *all = calloc(connections, sizeof *all);
    if (epoll_fd < 0 || !all) die("epoll_create1");
    for (uint64_t at = connections; at-- > 0;) {
        all[at].fd = -1;
        all[at].address = (uint32_t)(at % address_count);
        all[at].next = free_list;
        free_list = &all[at];
    }
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event ticks = {.events = EPOLLIN, .data.ptr = NULL};
    if (timer < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer, &ticks) < 0) die("timerfd_create");

    int64_t began = now(), end = seconds > 0 ? began + (int64_t)(seconds * 1e9) : INT64_MAX, due = began;
    int64_t last = seconds > 0 ? end + (int64_t)(drain * 1e9) : INT64_MAX;
    while (true) {
        int64_t time = now();
        if (rate > 0) {
            for (; time < end && due <= time && started + unsent < requests; due += (int64_t)(1e9 / rate)) {
                if (free_list) start_free(due);
                else unsent++;
            }
        } else {
            // The time is looked at each time: a connection that fails at once is free again.
            while (free_list && started < requests && now() < end) start_free(now());
        }
        // What fails at once is finished by now.
        time = now();
        bool over = time >= end || started + unsent >= requests;
        if (over && (started == finished || time >= last)) break;
        int64_t wake = over ? last : rate > 0 && due < end ? due : end;
        if (wake != INT64_MAX) {
            struct itimerspec when = {.it_value = {wake / 1000000000, wake % 1000000000}};
            timerfd_settime(timer, TFD_TIMER_ABSTIME, &when, NULL);
        }
        struct epoll_event found[EVENTS];
        int ready = epoll_wait(epoll_fd, found, EVENTS, -1);
        for (int at = 0; at < ready; at++) {
            uint64_t expired;
            struct connection *one = found[at].data.ptr;
            if (one && one->connecting) go_on(one);
            else if (one) read_some(one);
            else if (read(timer, &expired, sizeof expired) < 0 && errno != EAGAIN) die("read");
        }
    }
    report(began);
    return 0;
}
