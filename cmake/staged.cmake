# Binaries that `prepare_binaries.py stage` put into the package are shipped as they are: nothing is compiled.
set(LLCUDA_STAGED OFF)
if(EXISTS "${CMAKE_CURRENT_SOURCE_DIR}/src/llcuda/binaries/BUILD.json")
  set(LLCUDA_STAGED ON)
  message(STATUS "Using the staged binaries of src/llcuda/binaries; `python prepare_binaries.py unstage` removes them")
endif()
