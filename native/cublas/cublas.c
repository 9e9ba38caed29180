/* A stand-in for libcublas, linked into a CUDA backend: it opens the real library at the first call.
 *
 * cuBLAS is a download of 360 to 580 MB, and a dense quantised model never calls it. So the backend does not depend on
 * it, and where it is needed and missing, the line below names the package to install.
 *
 * Every other function takes a handle, so cublasCreate is called first; ggml-cuda does so when it needs cuBLAS for the
 * first time. The others jump to the real one with their arguments as they are: no signature is repeated here, and
 * none can differ from the toolkit's. x86-64 only, as the package is.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#define TEXT_OF(value) #value
#define TEXT(value) TEXT_OF(value)
#define LIBRARY "libcublas.so." TEXT(LLCUDA_CUBLAS_MAJOR)
#if LLCUDA_CUBLAS_MAJOR == 12
#define INSTALL "pip install nvidia-cublas-cu12"
#else
#define INSTALL "pip install 'nvidia-cublas>=" TEXT(LLCUDA_CUBLAS_MAJOR) ",<" TEXT(LLCUDA_CUBLAS_NEXT) "'"
#endif

enum { SUCCESS = 0, NOT_INITIALIZED = 1 }; /* of cublasStatus_t */

typedef void (*function)(void);

/* What ggml-cuda calls; a function that is missing here fails to link. */
#define FORWARDED(X) \
  X(cublasDestroy_v2) X(cublasSetStream_v2) X(cublasSetWorkspace_v2) X(cublasSetMathMode) \
  X(cublasSgemm_v2) X(cublasSgemmBatched) X(cublasSgemmStridedBatched) X(cublasStrsmBatched) \
  X(cublasGemmEx) X(cublasGemmBatchedEx) X(cublasGemmStridedBatchedEx)

static void fail_unopened(void) {
  fputs("llcuda: " LIBRARY " was called before it was opened\n", stderr);
  abort();
}

#define POINTER(name) __attribute__((visibility("hidden"))) function llcuda_##name = fail_unopened;
FORWARDED(POINTER)

#define JUMP(name) \
  __attribute__((naked)) void name(void); \
  __attribute__((naked)) void name(void) { __asm__("jmp *llcuda_" #name "(%rip)"); }
FORWARDED(JUMP)

static int (*real_create)(void **handle);
static const char *(*real_get_status_string)(int status);
static pthread_once_t opened = PTHREAD_ONCE_INIT;

static void *find(void *library, const char *name) {
  void *found = dlsym(library, name);
  if (found == NULL) {
    fprintf(stderr, "llcuda: this " LIBRARY " has no %s. Install another: " INSTALL "\n", name);
  }
  return found;
}

static void open_library(void) {
  void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    fprintf(stderr, "llcuda: " LIBRARY " is needed for this model on this GPU and was not found (%s). Install it: "
            INSTALL "\n", dlerror());
    return;
  }
  int found = 1;
#define FIND(name) found &= (*(void **)&llcuda_##name = find(library, #name)) != NULL;
  FORWARDED(FIND)
  *(void **)&real_get_status_string = find(library, "cublasGetStatusString");
  if (found && real_get_status_string != NULL) {
    *(void **)&real_create = find(library, "cublasCreate_v2");
  }
}

int cublasCreate_v2(void **handle);
int cublasCreate_v2(void **handle) {
  pthread_once(&opened, open_library);
  return real_create != NULL ? real_create(handle) : NOT_INITIALIZED;
}

const char *cublasGetStatusString(int status);
const char *cublasGetStatusString(int status) {
  if (real_create != NULL) {
    return real_get_status_string(status);
  }
  return status == SUCCESS ? "success" : LIBRARY " was not found";
}
