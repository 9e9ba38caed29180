/* A libcublas that says with what it was called: enough arguments to need the stack, as the real one's do. */
#include <stdio.h>

int cublasCreate_v2(void **handle) { static int object; *handle = &object; puts("create"); return 0; }
int cublasDestroy_v2(void *handle) { (void)handle; puts("destroy"); return 0; }
const char *cublasGetStatusString(int status) { return status == 7 ? "seven" : "other"; }
int cublasSetMathMode(void *handle, int mode) { (void)handle; printf("mode %d\n", mode); return 7; }
int cublasSetStream_v2(void *handle, void *stream) { (void)handle; (void)stream; return 0; }
int cublasSetWorkspace_v2(void *handle, void *space, unsigned long bytes) {
  (void)handle; (void)space; printf("workspace %lu\n", bytes); return 0;
}
int cublasSgemm_v2(void) { return 0; }
int cublasSgemmBatched(void) { return 0; }
int cublasSgemmStridedBatched(void) { return 0; }
int cublasStrsmBatched(void) { return 0; }
int cublasGemmEx(void) { return 0; }
int cublasGemmBatchedEx(void) { return 0; }
#ifndef WITHOUT_STRIDED
int cublasGemmStridedBatchedEx(void *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a,
                               int at, int lda, long long sa, const void *b, int bt, int ldb, long long sb,
                               const void *beta, void *c, int ct, int ldc, long long sc, int count, int type, int algo) {
  (void)handle; (void)alpha; (void)a; (void)b; (void)beta; (void)c;
  printf("gemm %d %d %d %d %d %d %d %lld %d %d %lld %d %d %lld %d %d %d\n",
         ta, tb, m, n, k, at, lda, sa, bt, ldb, sb, ct, ldc, sc, count, type, algo);
  return 0;
}
#endif
