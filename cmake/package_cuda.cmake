# What a CUDA backend ships, in a folder that is named after its toolkit: libggml-cuda.so, with the CUDA runtime and the
# stand-in for cuBLAS inside, and its BUILD.json.
get_target_property(libraries ggml-cuda LINK_LIBRARIES)
list(TRANSFORM libraries REPLACE "^CUDA::cudart$" "CUDA::cudart_static")
list(TRANSFORM libraries REPLACE "^CUDA::cublas$" "llcuda-cublas")
# The libraries of the package lie one folder up; cuBLAS in a wheel beside the package: 12 has a folder of its own.
if(CUDAToolkit_VERSION_MAJOR EQUAL 12)
  set(cublas_folder "nvidia/cublas/lib")
else()
  set(cublas_folder "nvidia/cu${CUDAToolkit_VERSION_MAJOR}/lib")
endif()
set_target_properties(ggml-cuda PROPERTIES
  LINK_LIBRARIES "${libraries}"
  INSTALL_RPATH "$ORIGIN:$ORIGIN/..:$ORIGIN/../../../${cublas_folder}${LLCUDA_NCCL_RPATH}")
target_link_options(ggml-cuda PRIVATE -Wl,--exclude-libs,ALL -Wl,--as-needed)
if(LLCUDA_CUDA_JOBS)
  set_target_properties(ggml-cuda PROPERTIES JOB_POOL_COMPILE cuda)
endif()
add_custom_target(llcuda-cuda ALL DEPENDS ggml-cuda)
install(TARGETS ggml-cuda LIBRARY DESTINATION ${LLCUDA_CUDA_NAME} COMPONENT llcuda)

# As NVIDIA names them: sm_75 is machine code, compute_75 is PTX; CMake's plain 75 is both.
set(LLCUDA_CUDA_CODE "")
foreach(architecture IN LISTS CMAKE_CUDA_ARCHITECTURES)
  if(NOT architecture MATCHES "-virtual$")
    string(REGEX REPLACE "-real$" "" number "${architecture}")
    list(APPEND LLCUDA_CUDA_CODE "sm_${number}")
  endif()
endforeach()
foreach(architecture IN LISTS CMAKE_CUDA_ARCHITECTURES)
  if(NOT architecture MATCHES "-real$")
    string(REGEX REPLACE "-virtual$" "" number "${architecture}")
    list(APPEND LLCUDA_CUDA_CODE "compute_${number}")
  endif()
endforeach()

# The oldest driver: NVIDIA's minimum for the toolkit's major version (CUDA release notes, table 2), or 550 for machine
# code that nvcc compressed for size, which an older driver calls an invalid kernel image.
set(LLCUDA_CUDA_COMPRESSION "none")
set(LLCUDA_DRIVER_FLOOR "525.60.13")
if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 12.8)
  set(LLCUDA_CUDA_COMPRESSION "${GGML_CUDA_COMPRESSION_MODE}")
  set(LLCUDA_DRIVER_FLOOR "550.54.14")
endif()
if(CUDAToolkit_VERSION VERSION_GREATER_EQUAL 13)
  set(LLCUDA_DRIVER_FLOOR "580.65.06")
endif()

if(NOT LLCUDA_NCCL_JSON)
  set(LLCUDA_NCCL_JSON "false")
endif()
set(LLCUDA_CUDA_FLAGS "${CMAKE_CUDA_FLAGS} ${CMAKE_CUDA_FLAGS_RELEASE}")
string(STRIP "${LLCUDA_CUDA_FLAGS}" LLCUDA_CUDA_FLAGS)
json_list(LLCUDA_CUDA_CODE_JSON ${LLCUDA_CUDA_CODE})
configure_file(cmake/facts_cuda.json.in "${CMAKE_CURRENT_BINARY_DIR}/facts_cuda.json" @ONLY)
install_record(${LLCUDA_CUDA_NAME} facts_cuda.json)
