/* A libcuda.so.1 that finds no GPU: what a machine has where the driver is installed and the card is not, or where a
 * container was started without one. Every function that ggml-cuda links against is here, so that its library loads;
 * all that the CUDA runtime asks for by name answers CUDA_ERROR_NO_DEVICE. */

typedef int CUresult;

enum { SUCCESS = 0, INVALID_VALUE = 1, NO_DEVICE = 100 };
enum { VERSION = 13000 };  /* new enough for every runtime that is shipped */

static CUresult no_device(void) { return NO_DEVICE; }

/* Callers pass arguments that are not looked at; in the C calling convention of x86-64 that does no harm. */
#define NOTHING(name) CUresult name(void) { return NO_DEVICE; }

/* What ggml-cuda calls; tests/unit/tools/test_ci.py compares the list with its source. */
NOTHING(cuDeviceGet)
NOTHING(cuDeviceGetAttribute)
NOTHING(cuMemAddressFree)
NOTHING(cuMemAddressReserve)
NOTHING(cuMemCreate)
NOTHING(cuMemGetAllocationGranularity)
NOTHING(cuMemMap)
NOTHING(cuMemRelease)
NOTHING(cuMemSetAccess)
NOTHING(cuMemUnmap)

/* What the CUDA runtime and programs that look for a GPU ask at first. */
CUresult cuInit(unsigned int flags) { (void)flags; return NO_DEVICE; }

CUresult cuDriverGetVersion(int *version) {
  if (!version) return INVALID_VALUE;
  *version = VERSION;
  return SUCCESS;
}

CUresult cuDeviceGetCount(int *count) {
  if (count) *count = 0;
  return NO_DEVICE;
}

CUresult cuGetErrorString(CUresult error, const char **text) {
  if (!text) return INVALID_VALUE;
  *text = error == NO_DEVICE ? "no CUDA-capable device is detected" : "an error of a driver that does nothing";
  return SUCCESS;
}

CUresult cuGetErrorName(CUresult error, const char **name) {
  if (!name) return INVALID_VALUE;
  *name = error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : "CUDA_ERROR_UNKNOWN";
  return SUCCESS;
}

static int is_same(const char *one, const char *other) {
  while (*one && *one == *other) { one++; other++; }
  return *one == *other;
}

typedef void (*function)(void);

CUresult cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *status);

static const struct { const char *name; function address; } KNOWN[] = {
  {"cuInit", (function)cuInit},
  {"cuDriverGetVersion", (function)cuDriverGetVersion},
  {"cuDeviceGetCount", (function)cuDeviceGetCount},
  {"cuGetErrorString", (function)cuGetErrorString},
  {"cuGetErrorName", (function)cuGetErrorName},
  {"cuGetProcAddress", (function)cuGetProcAddress_v2},
};

static function find(const char *name) {
  for (unsigned int i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++)
    if (is_same(name, KNOWN[i].name)) return KNOWN[i].address;
  return (function)no_device;
}

CUresult cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *status) {
  (void)version; (void)flags;
  if (!name || !found) return INVALID_VALUE;
  *(function *)found = find(name);
  if (status) *status = 0;
  return SUCCESS;
}

CUresult cuGetProcAddress(const char *name, void **found, int version, unsigned long long flags) {
  return cuGetProcAddress_v2(name, found, version, flags, 0);
}
