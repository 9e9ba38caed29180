# NCCL, where somebody asks for it: split_mode=tensor sums over the GPUs with it instead of ggml-cuda's own AllReduce.
# The results are those that ggml's FindNCCL.cmake keeps. NVIDIA's wheels have libnccl.so.2 without a link to it.
find_path(NCCL_INCLUDE_DIR nccl.h HINTS "${NCCL_ROOT}" ENV NCCL_ROOT ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES include)
find_library(NCCL_LIBRARY NAMES nccl libnccl.so.2
  HINTS "${NCCL_ROOT}" ENV NCCL_ROOT ENV CUDA_HOME /usr/local/cuda PATH_SUFFIXES lib lib64)
if(NOT NCCL_INCLUDE_DIR OR NOT NCCL_LIBRARY)
  message(FATAL_ERROR "NCCL: nccl.h or libnccl.so.2 was not found; name the folder of include/ and lib/: "
    "-DNCCL_ROOT=FOLDER (pip install nvidia-nccl-cu12 makes one: site-packages/nvidia/nccl)")
endif()
message(STATUS "NCCL: ${NCCL_LIBRARY}")
set(GGML_CUDA_NCCL ON)
set(LLCUDA_NCCL_JSON "true")
set(LLCUDA_NCCL_RPATH ":$ORIGIN/../../../nvidia/nccl/lib")
