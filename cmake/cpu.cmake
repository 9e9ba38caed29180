# The CPU backend: every x86-64 variant for a released wheel, or one for the building machine (half the build time).
if(LLCUDA_CPU STREQUAL "all")
  set(GGML_CPU_ALL_VARIANTS ON)
elseif(LLCUDA_CPU STREQUAL "native")
  set(GGML_CPU_ALL_VARIANTS OFF)
  file(STRINGS /proc/cpuinfo cpu_flags REGEX "^flags" LIMIT_COUNT 1)
  string(REGEX REPLACE "^flags[ \t]*:" "" cpu_flags "${cpu_flags}")
  separate_arguments(cpu_flags UNIX_COMMAND "${cpu_flags}")
  # GGML option : the flag that Linux reports for it. The same sets as ggml's own variants.
  foreach(pair IN ITEMS
      SSE42:sse4_2 AVX:avx F16C:f16c FMA:fma AVX2:avx2 BMI2:bmi2 AVX_VNNI:avx_vnni
      AVX512:avx512f AVX512_VBMI:avx512_vbmi AVX512_VNNI:avx512_vnni AVX512_BF16:avx512_bf16
      AMX_TILE:amx_tile AMX_INT8:amx_int8 AMX_BF16:amx_bf16)
    string(REPLACE ":" ";" pair "${pair}")
    list(GET pair 0 feature)
    list(GET pair 1 flag)
    if(flag IN_LIST cpu_flags)
      set(GGML_${feature} ON)
      list(APPEND LLCUDA_CPU_FEATURES "${feature}")
    else()
      set(GGML_${feature} OFF)
    endif()
  endforeach()
  message(STATUS "CPU backend for this machine: ${LLCUDA_CPU_FEATURES}")
elseif(LLCUDA_CPU STREQUAL "none")
  # Only a CUDA backend: for a job that has no more to do.
  set(GGML_CPU OFF)
  set(LLAMA_BUILD_COMMON OFF)
  set(LLAMA_BUILD_TOOLS OFF)
  set(LLAMA_BUILD_SERVER OFF)
else()
  message(FATAL_ERROR "LLCUDA_CPU is '${LLCUDA_CPU}'; it must be 'native', 'all' or 'none'")
endif()
