/* A stand-in for the CUDA backend: GPUs that are not there, for llama-server's log of how it places a model on them.
 *
 * It is loaded through GGML_BACKEND_PATH, calls its devices CUDA0, CUDA1 ..., gives them memory of the host under that
 * name, and has the CPU backend compute. GGML_FAKE_GPU is their memory in MiB: "8", or "8,4" for two.
 * GGML_FAKE_GPU_NO_FLASH=1 leaves flash attention out, as a GPU does for a head size that it has no kernel for. What is
 * allocated beyond the memory fails with the words of ggml-cuda.cu.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ggml-backend-impl.h"
#include "ggml-impl.h"

#define MAX_GPUS 4
#define MIB ((size_t) 1 << 20)

static struct gpu {
    char name[16];
    char description[32];
    char id[16];
    size_t total;
    size_t used;
    struct ggml_backend_device device;
    struct ggml_backend_buffer_type buft;
} gpus[MAX_GPUS];

static size_t count;
static struct ggml_backend_reg reg;
static struct ggml_backend_buffer_type host_buft;
static void (*free_cpu_buffer)(ggml_backend_buffer_t);

static ggml_backend_dev_t cpu(void) {
    return ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
}

/* Buffers: the CPU's, under another name. */

static const char * buft_name(ggml_backend_buffer_type_t buft) {
    return ((struct gpu *) buft->context)->name;
}

static const char * host_name(ggml_backend_buffer_type_t buft) {
    (void) buft;
    return "CUDA_Host";
}

static void buffer_free(ggml_backend_buffer_t buffer) {
    ((struct gpu *) buffer->buft->context)->used -= buffer->size;
    free_cpu_buffer(buffer);
}

static ggml_backend_buffer_t buft_alloc(ggml_backend_buffer_type_t buft, size_t size) {
    struct gpu * gpu = buft->context;
    if (gpu->used + size > gpu->total) {
        GGML_LOG_ERROR("%s: allocating %.2f MiB on device %d: cudaMalloc failed: out of memory\n",
                "ggml_backend_cuda_buffer_type_alloc_buffer", (double) size / (double) MIB, (int) (gpu - gpus));
        return NULL;
    }
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    free_cpu_buffer = buffer->iface.free_buffer;
    buffer->iface.free_buffer = buffer_free;
    buffer->buft = buft;
    gpu->used += buffer->size;
    return buffer;
}

static ggml_backend_buffer_t host_alloc(ggml_backend_buffer_type_t buft, size_t size) {
    ggml_backend_buffer_t buffer = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    buffer->buft = buft;
    return buffer;
}

static size_t alignment(ggml_backend_buffer_type_t buft) {
    (void) buft;
    return 64; /* the CPU buffer's */
}

static bool is_host(ggml_backend_buffer_type_t buft) {
    (void) buft;
    return true;
}

/* The stream: the CPU's. */

static const char * backend_name(ggml_backend_t backend) {
    return ((struct gpu *) backend->device->context)->name;
}

static void backend_free(ggml_backend_t backend) {
    ggml_backend_free(backend->context);
    free(backend);
}

static enum ggml_status backend_compute(ggml_backend_t backend, struct ggml_cgraph * graph) {
    return ggml_backend_graph_compute(backend->context, graph);
}

static ggml_guid guid = { 0x11, 0xcd, 0xa0, 0xfa, 0x4e };

static ggml_backend_t device_init(ggml_backend_dev_t device, const char * params) {
    struct ggml_backend * backend = calloc(1, sizeof *backend);
    *backend = (struct ggml_backend) {
        .guid = &guid,
        .iface = { .get_name = backend_name, .free = backend_free, .graph_compute = backend_compute },
        .device = device,
        .context = ggml_backend_dev_init(cpu(), params),
    };
    /* One thread: the default of four spends a second in barriers where there are two processors. */
    ggml_backend_set_n_threads_t set_threads = (ggml_backend_set_n_threads_t)
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(cpu()), "ggml_backend_set_n_threads");
    set_threads(backend->context, 1);
    return backend;
}

/* The device. */

static const char * device_name(ggml_backend_dev_t device) {
    return ((struct gpu *) device->context)->name;
}

static const char * device_description(ggml_backend_dev_t device) {
    return ((struct gpu *) device->context)->description;
}

static void device_memory(ggml_backend_dev_t device, size_t * free_bytes, size_t * total) {
    struct gpu * gpu = device->context;
    *free_bytes = gpu->total - gpu->used;
    *total = gpu->total;
}

static enum ggml_backend_dev_type device_type(ggml_backend_dev_t device) {
    (void) device;
    return GGML_BACKEND_DEVICE_TYPE_GPU;
}

static void device_props(ggml_backend_dev_t device, struct ggml_backend_dev_props * props) {
    struct gpu * gpu = device->context;
    *props = (struct ggml_backend_dev_props) {
        .name = gpu->name,
        .description = gpu->description,
        .type = GGML_BACKEND_DEVICE_TYPE_GPU,
        .device_id = gpu->id,
        .caps = { .host_buffer = true },
    };
    device_memory(device, &props->memory_free, &props->memory_total);
}

static ggml_backend_buffer_type_t device_buft(ggml_backend_dev_t device) {
    return &((struct gpu *) device->context)->buft;
}

static ggml_backend_buffer_type_t device_host_buft(ggml_backend_dev_t device) {
    (void) device;
    return &host_buft;
}

static bool device_supports_op(ggml_backend_dev_t device, const struct ggml_tensor * op) {
    (void) device;
    if (op->op == GGML_OP_FLASH_ATTN_EXT && getenv("GGML_FAKE_GPU_NO_FLASH")) {
        return false;
    }
    return ggml_backend_dev_supports_op(cpu(), op);
}

static bool device_supports_buft(ggml_backend_dev_t device, ggml_backend_buffer_type_t buft) {
    return buft == device_buft(device);
}

/* The registry's entry. */

static const char * reg_name(ggml_backend_reg_t self) {
    (void) self;
    return "CUDA";
}

static size_t reg_count(ggml_backend_reg_t self) {
    (void) self;
    return count;
}

static ggml_backend_dev_t reg_device(ggml_backend_reg_t self, size_t index) {
    (void) self;
    return &gpus[index].device;
}

static void * reg_address(ggml_backend_reg_t self, const char * name) {
    (void) self;
    (void) name;
    return NULL;
}

static void add_gpu(size_t total) {
    struct gpu * gpu = &gpus[count];
    snprintf(gpu->name, sizeof gpu->name, "CUDA%zu", count);
    snprintf(gpu->description, sizeof gpu->description, "Fake GPU %zu MiB", total / MIB);
    snprintf(gpu->id, sizeof gpu->id, "0000:0%zu:00.0", count + 1);
    gpu->total = total;
    gpu->device = (struct ggml_backend_device) {
        .iface = {
            .get_name = device_name,
            .get_description = device_description,
            .get_memory = device_memory,
            .get_type = device_type,
            .get_props = device_props,
            .init_backend = device_init,
            .get_buffer_type = device_buft,
            .get_host_buffer_type = device_host_buft,
            .supports_op = device_supports_op,
            .supports_buft = device_supports_buft,
        },
        .reg = &reg,
        .context = gpu,
    };
    gpu->buft = (struct ggml_backend_buffer_type) {
        .iface = { .get_name = buft_name, .alloc_buffer = buft_alloc, .get_alignment = alignment },
        .device = &gpu->device,
        .context = gpu,
    };
    count++;
}

ggml_backend_reg_t ggml_backend_init(void);

ggml_backend_reg_t ggml_backend_init(void) {
    const char * sizes = getenv("GGML_FAKE_GPU");
    for (char * end; sizes && *sizes && count < MAX_GPUS; sizes = *end ? end + 1 : end) {
        add_gpu((size_t) strtoull(sizes, &end, 10) * MIB);
    }
    host_buft = (struct ggml_backend_buffer_type) {
        .iface = { .get_name = host_name, .alloc_buffer = host_alloc, .get_alignment = alignment, .is_host = is_host },
        .device = &gpus[0].device,
    };
    reg = (struct ggml_backend_reg) {
        .api_version = GGML_BACKEND_API_VERSION,
        .iface = {
            .get_name = reg_name,
            .get_device_count = reg_count,
            .get_device = reg_device,
            .get_proc_address = reg_address,
        },
    };
    return &reg;
}
