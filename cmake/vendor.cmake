# The vendored source: fetch the tree once when a clean clone does not have it yet, and read its lock file.
find_package(Python3 3.10 REQUIRED COMPONENTS Interpreter)
set(LLCUDA_LOCK "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp.lock")
file(GLOB LLCUDA_PATCHES CONFIGURE_DEPENDS "${CMAKE_CURRENT_SOURCE_DIR}/vendor/patches/*.patch")
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${LLCUDA_LOCK}" ${LLCUDA_PATCHES})

execute_process(
  COMMAND "${Python3_EXECUTABLE}" prepare_binaries.py fetch
  WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
  RESULT_VARIABLE fetch_result
)
if(NOT fetch_result EQUAL 0)
  message(FATAL_ERROR
    "llama.cpp's source is not in vendor/llama.cpp and could not be fetched (reason above).\n"
    "With a network: python prepare_binaries.py fetch\n"
    "Without one:    python prepare_binaries.py fetch --archive FILE, where FILE is the source package named in vendor/llama.cpp.lock")
endif()

file(READ "${LLCUDA_LOCK}" lock)
string(JSON LLCUDA_LLAMA_TAG GET "${lock}" tag)
string(JSON LLCUDA_LLAMA_VERSION GET "${lock}" version)
string(REGEX REPLACE "^b" "" LLAMA_BUILD_NUMBER "${LLCUDA_LLAMA_TAG}")
# The source package has no .git, so the commit is named by the tag that stands for it.
set(LLAMA_BUILD_COMMIT "${LLCUDA_LLAMA_TAG}")
# Otherwise ggml asks git, which answers for llcuda's own repository: another commit would be another build.
set(GIT_EXE "" CACHE INTERNAL "ggml must not ask git which commit it is")
