# The options that llama.cpp is built with. Each is here for a reason that a user met.
set(BUILD_SHARED_LIBS ON)
set(GGML_BACKEND_DL ON)          # a CUDA backend can be added or removed without touching anything else
set(GGML_NATIVE OFF)             # refused together with GGML_BACKEND_DL; cmake/cpu.cmake chooses instead
set(GGML_OPENMP OFF)             # libgomp is missing in slim images
set(GGML_CUDA_NCCL OFF)          # otherwise found by accident, and then a hidden dependency; LLCUDA_NCCL=on asks for it
set(LLAMA_OPENSSL OFF)           # llama-server downloads nothing here
set(LLAMA_BUILD_TESTS OFF)
set(LLAMA_BUILD_EXAMPLES OFF)    # examples/embedding is added by name
set(LLAMA_BUILD_APP OFF)
set(LLAMA_BUILD_COMMON ON)
set(LLAMA_BUILD_TOOLS ON)
set(LLAMA_BUILD_SERVER ON)
set(LLAMA_TOOLS_INSTALL OFF)
set(LLAMA_USE_PREBUILT_UI OFF)   # a download
set(LLAMA_BUILD_UI OFF)          # the gateway serves the UI, not llama-server: cmake/web_ui.cmake

set(CMAKE_POSITION_INDEPENDENT_CODE ON)
set(CMAKE_PLATFORM_NO_VERSIONED_SONAME ON)   # wheels hold no links: one file for each library
set(CMAKE_BUILD_WITH_INSTALL_RPATH ON)
set(CMAKE_INSTALL_RPATH "$ORIGIN")

include(CheckPIESupported)
check_pie_supported()
add_link_options(-Wl,-z,relro,-z,now,-z,noexecstack)
# Two builds in two places are the same bytes, and no path of the building machine is inside. The relative path is how
# ccache spells the source folder below.
file(RELATIVE_PATH up "${CMAKE_BINARY_DIR}" "${CMAKE_SOURCE_DIR}/")
add_compile_options(
  "$<$<COMPILE_LANGUAGE:C,CXX>:-ffile-prefix-map=${up}=>"
  "$<$<COMPILE_LANGUAGE:C,CXX>:-ffile-prefix-map=${CMAKE_SOURCE_DIR}/=>"
  # Included as nlohmann/../nlohmann/json.hpp, which ccache makes shorter.
  "$<$<COMPILE_LANGUAGE:C,CXX>:-ffile-prefix-map=${CMAKE_SOURCE_DIR}/vendor/llama.cpp/vendor/nlohmann/../=vendor/llama.cpp/vendor/>"
  "$<$<COMPILE_LANGUAGE:C,CXX>:-ffile-prefix-map=${CMAKE_BINARY_DIR}/=>")

# With ccache a second clone compiles nothing that the first one did. Without it nothing is missing.
set(GGML_CCACHE OFF)
find_program(LLCUDA_CCACHE ccache)
find_program(LLCUDA_ENV env)
if(LLCUDA_CCACHE AND LLCUDA_ENV AND NOT CMAKE_C_COMPILER_LAUNCHER)
  # The prefix maps name this clone's folder, but their result does not depend on it.
  set(launcher "${LLCUDA_ENV}"
    "CCACHE_BASEDIR=${CMAKE_SOURCE_DIR}" CCACHE_NOHASHDIR=1 "CCACHE_IGNOREOPTIONS=-ffile-prefix-map=* -Xcompiler=-ffile-prefix-map=*" "${LLCUDA_CCACHE}")
  set(CMAKE_C_COMPILER_LAUNCHER ${launcher})
  set(CMAKE_CXX_COMPILER_LAUNCHER ${launcher})
endif()
