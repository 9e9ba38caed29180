/* What ggml-cuda does with cuBLAS: make a handle, then call with it; on a failure, ask what the status means. */
#include <stdio.h>

int cublasCreate_v2(void **handle);
int cublasDestroy_v2(void *handle);
const char *cublasGetStatusString(int status);
int cublasSetMathMode(void *handle, int mode);
int cublasSetWorkspace_v2(void *handle, void *space, unsigned long bytes);
int cublasGemmStridedBatchedEx(void *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                               int at, int lda, long long sa, const void *b, int bt, int ldb, long long sb,
                               const void *beta, void *c, int ct, int ldc, long long sc, int count, int type, int algo);

int run(void);
int run(void) {
  void *handle = NULL;
  int status = cublasCreate_v2(&handle);
  if (status != 0) {
    printf("status %d: %s\n", status, cublasGetStatusString(status));
    return status;
  }
  status = cublasSetMathMode(handle, 3);
  printf("status %d: %s\n", status, cublasGetStatusString(status));
  cublasSetWorkspace_v2(handle, NULL, 4194304);
  cublasGemmStridedBatchedEx(handle, 1, 2, 3, 4, 5, NULL, NULL, 6, 7, 1LL << 40, NULL, 8, 9, 1LL << 41, NULL, NULL, 10,
                             11, 1LL << 42, 12, 13, 14);
  cublasDestroy_v2(handle);
  return 0;
}
