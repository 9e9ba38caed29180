// Included before ggml's AMX code. gcc's own _tile_loadconfig says that it reads 8 bytes, where the instruction reads 64
// (amxtileintrin.h, gcc 12): what was stored in the other 56 is optimised away, no tile has a shape, and the first
// instruction on one is illegal. Every quantised model died of it on a Xeon with AMX.
#pragma once
#if defined(__AMX_TILE__) && defined(__GNUC__) && !defined(__clang__)

#include <immintrin.h>

static inline __attribute__((always_inline)) void llcuda_tile_loadconfig(const void * config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(*(const char (*)[64]) config));
}

#define _tile_loadconfig llcuda_tile_loadconfig

#endif
