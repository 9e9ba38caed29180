/* A stand-in for libnvidia-ml.so.1: the functions that llcuda calls, driven by environment variables.
 *
 * FAKE_NVML_INIT      what nvmlInit_v2 returns, 0 by default
 * FAKE_NVML_SLEEP_MS  how long nvmlInit_v2 takes
 * FAKE_NVML_DRIVER    the driver's version
 * FAKE_NVML_CUDA      12040 for CUDA 12.4; without it there is no libcuda
 * FAKE_NVML_GPU<n>    "name|major.minor|MiB|slices": -1 slices for a GPU that knows no MIG, or "!15" for one whose
 *                     handle cannot be had, with the error; the first number that is not set ends the list
 * FAKE_NVML_LOAD      the share of the time that they compute, in percent; without it they do not know
 * FAKE_NVML_LOG       a file that gets a line for each nvmlInit_v2 and nvmlShutdown
 *
 * Compiled with -DOLD it lacks what drivers of 2018 lacked: MIG, and the question of libcuda.
 */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, LIBRARY_NOT_FOUND = 12 };
enum { MIB = 1 << 20, MOST_SLICES = 7, SLICE_MIB = 4864 };

typedef struct {
    int error;
    char name[64];
    int major, minor, slices;
    unsigned long long mib;
} Gpu;

/* A handle is the number of the GPU and of the slice, each from 1; 0 for no slice. */
typedef struct { unsigned gpu, slice; } Device;
static Device devices[16][MOST_SLICES + 1];

static int number(const char *name, int otherwise) {
    const char *value = getenv(name);
    return value ? atoi(value) : otherwise;
}

static void note(const char *line) {
    const char *path = getenv("FAKE_NVML_LOG");
    FILE *file = path ? fopen(path, "a") : NULL;
    if (file) {
        fprintf(file, "%s\n", line);
        fclose(file);
    }
}

static int find(unsigned index, Gpu *gpu) {
    char name[32];
    snprintf(name, sizeof name, "FAKE_NVML_GPU%u", index);
    const char *value = getenv(name);
    memset(gpu, 0, sizeof *gpu);
    gpu->slices = -1;
    if (!value)
        return 0;
    if (value[0] == '!')
        gpu->error = atoi(value + 1);
    else
        sscanf(value, "%63[^|]|%d.%d|%llu|%d", gpu->name, &gpu->major, &gpu->minor, &gpu->mib, &gpu->slices);
    return 1;
}

static int put(char *text, unsigned length, const char *value) {
    snprintf(text, length, "%s", value);
    return SUCCESS;
}

int nvmlInit_v2(void) {
    int wait_ms = number("FAKE_NVML_SLEEP_MS", 0);
    struct timespec wait = {wait_ms / 1000, (wait_ms % 1000) * 1000000L};
    note("init");
    nanosleep(&wait, NULL);
    return number("FAKE_NVML_INIT", SUCCESS);
}

int nvmlShutdown(void) {
    note("shutdown");
    return SUCCESS;
}

const char *nvmlErrorString(int code) {
    switch (code) {
    case 4: return "Insufficient Permissions";
    case 9: return "Driver Not Loaded";
    case 12: return "NVML Shared Library Not Found";
    case 15: return "GPU is lost";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    const char *version = getenv("FAKE_NVML_DRIVER");
    return put(text, length, version ? version : "550.120");
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    Gpu gpu;
    for (*count = 0; find(*count, &gpu); ++*count)
        continue;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    Gpu gpu;
    if (!find(index, &gpu))
        return INVALID_ARGUMENT;
    devices[index][0] = (Device){index, 0};
    *device = &devices[index][0];
    return gpu.error;
}

int nvmlDeviceGetName(const Device *device, char *text, unsigned length) {
    Gpu gpu;
    char name[128];
    find(device->gpu, &gpu);
    snprintf(name, sizeof name, device->slice ? "%s MIG 1g.5gb" : "%s", gpu.name);
    return put(text, length, name);
}

int nvmlDeviceGetUUID(const Device *device, char *text, unsigned length) {
    char uuid[64];
    snprintf(uuid, sizeof uuid, device->slice ? "MIG-%u-%u" : "GPU-%u", device->gpu, device->slice);
    return put(text, length, uuid);
}

int nvmlDeviceGetMemoryInfo(const Device *device, unsigned long long sizes[3]) {
    Gpu gpu;
    find(device->gpu, &gpu);
    if (!gpu.mib)
        return NOT_SUPPORTED;
    sizes[0] = (device->slice ? SLICE_MIB : gpu.mib) * MIB;
    sizes[2] = 100ULL * MIB;
    sizes[1] = sizes[0] - sizes[2];
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(const Device *device, unsigned rates[2]) {
    (void)device;
    rates[0] = (unsigned)number("FAKE_NVML_LOAD", 0);
    rates[1] = 1;
    return rates[0] ? SUCCESS : NOT_SUPPORTED;
}

int nvmlDeviceGetTemperature(const Device *device, int sensor, unsigned *celsius) {
    *celsius = 40 + device->gpu;
    return sensor ? INVALID_ARGUMENT : SUCCESS;
}

int nvmlDeviceGetCudaComputeCapability(const Device *device, int *major, int *minor) {
    Gpu gpu;
    find(device->gpu, &gpu);
    *major = gpu.major;
    *minor = gpu.minor;
    return device->slice ? INVALID_ARGUMENT : SUCCESS;
}

#ifndef OLD
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = number("FAKE_NVML_CUDA", 0);
    return *version ? SUCCESS : LIBRARY_NOT_FOUND;
}

int nvmlDeviceGetMigMode(const Device *device, unsigned *current, unsigned *pending) {
    Gpu gpu;
    find(device->gpu, &gpu);
    *current = *pending = gpu.slices >= 0;
    return gpu.slices < 0 ? NOT_SUPPORTED : SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(const Device *device, unsigned *count) {
    (void)device;
    *count = MOST_SLICES;
    return SUCCESS;
}

/* Slices have gaps between them, as they do after one was removed. */
int nvmlDeviceGetMigDeviceHandleByIndex(const Device *device, unsigned index, Device **slice) {
    Gpu gpu;
    find(device->gpu, &gpu);
    if (index % 2 || (int)index / 2 >= gpu.slices)
        return NOT_FOUND;
    devices[device->gpu][index + 1] = (Device){device->gpu, index / 2 + 1};
    *slice = &devices[device->gpu][index + 1];
    return SUCCESS;
}
#endif
