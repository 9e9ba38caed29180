# Binaries that `prepare_binaries.py stage` put into the package are shipped as they are: nothing is compiled.
set(LLCUDA_STAGED_DIR "${CMAKE_CURRENT_SOURCE_DIR}/src/llcuda/binaries")
set(LLCUDA_STAGED OFF)
if(EXISTS "${LLCUDA_STAGED_DIR}/BUILD.json")
  set(LLCUDA_STAGED ON)
  message(STATUS "Using the staged binaries of src/llcuda/binaries; `python prepare_binaries.py unstage` removes them")
  execute_process(
    COMMAND "${Python3_EXECUTABLE}" prepare_binaries.py verify "${LLCUDA_STAGED_DIR}"
    WORKING_DIRECTORY "${CMAKE_CURRENT_SOURCE_DIR}"
    COMMAND_ERROR_IS_FATAL ANY)
  install(DIRECTORY "${LLCUDA_STAGED_DIR}/" DESTINATION . COMPONENT llcuda USE_SOURCE_PERMISSIONS)
endif()
